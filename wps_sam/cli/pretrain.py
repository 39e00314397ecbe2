"""Trains a promptable SAM on generated pictures and on registered data sets with masks.

    wps-sam pretrain --config-file configs/pretrain_sam/vit_tiny_crops.yaml \\
        --description datasets/ccp_parts.yaml --output-dir output/sam_vit_tiny
    wps-sam pretrain ... --resume minutes=90 learning_rate=2e-4

Any setting of the configuration file can be given on the command line. Writes metrics.json, TensorBoard's events,
checkpoint.pt (continue with --resume) and sam.safetensors, the averaged weights in half precision, which
MODEL.SAM.WEIGHTS takes. On a busy machine set OMP_WAIT_POLICY=passive.
"""

from __future__ import annotations

import argparse

from . import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_settings(parser, "PretrainSettings")
    arguments.add_descriptions(parser)


def run(args: argparse.Namespace) -> int:
    from ..data import register_descriptions
    from ..pretraining import Pretrainer, PretrainSettings, run

    register_descriptions(args.description)
    run(args, PretrainSettings, Pretrainer)
    return 0
