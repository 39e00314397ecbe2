"""Evaluates a trained model on DATASETS.TEST, by every protocol of TEST.PROTOCOLS.

    wps-sam eval --config-file output/my_parts/config.yaml
    wps-sam eval --config-file FILE MODEL.WEIGHTS output/my_parts/model_final.pth

Without MODEL.WEIGHTS the last checkpoint of OUTPUT_DIR is evaluated. Writes evaluation.json to OUTPUT_DIR. Exits with
code 1 when TEST.EXPECTED_RESULTS are missed.
"""

from __future__ import annotations

import argparse

from . import arguments, train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_run(parser)
    parser.set_defaults(eval_only=True)


def run(args: argparse.Namespace) -> int:
    return train.run(args)
