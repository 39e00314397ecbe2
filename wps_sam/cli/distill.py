"""Teaches a small semantic network what a larger one sees, on pictures without labels.

    wps-sam distill --config-file configs/distill_semantic/small.yaml --output-dir output/semantic \\
        teacher=dinov2 teacher_weights=facebook/dinov2-base pictures="[photos, more/photos]"
    wps-sam distill ... --resume minutes=600

Any setting of the configuration file can be given on the command line. Writes metrics.json, TensorBoard's events,
checkpoint.pt (continue with --resume) and the folder semantic, which MODEL.SEMANTIC.NAME timm takes as WEIGHTS.
"""

from __future__ import annotations

import argparse

from . import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_settings(parser, "DistillSettings")


def run(args: argparse.Namespace) -> int:
    from ..pretraining import Distiller, DistillSettings, run

    run(args, DistillSettings, Distiller)
    return 0
