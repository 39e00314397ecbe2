"""Trains and evaluates a part segmentation model.

    wps-sam train --config-file configs/quickstart.yaml
    wps-sam train --config-file configs/PartImageNet/wps_sam_vit_b_box_15ep.yaml --num-gpus 4
    wps-sam train --config-file FILE --num-processes 2 MODEL.DEVICE cpu
    wps-sam train --config-file FILE --resume
    wps-sam eval --config-file FILE MODEL.WEIGHTS output/model_final.pth

Writes log.txt, metrics.json, TensorBoard events, checkpoints and evaluation.json to OUTPUT_DIR. --resume continues
the last checkpoint there. Exits with code 1 when TEST.EXPECTED_RESULTS are missed.
"""

from __future__ import annotations

import argparse

from ..paths import check_no_run, output_dir_of
from . import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_run(parser)
    parser.add_argument("--eval-only", action="store_true", help="the same as wps-sam eval")


def run(args: argparse.Namespace) -> int:
    if not (args.eval_only or args.resume) and (output := output_dir_of(args.config_file, args.opts)):
        check_no_run(output)
    from ..engine import launch

    launch(work, args)
    return 0


def work(args: argparse.Namespace) -> None:
    """In each process: the training, or the evaluation."""
    from ..engine import Trainer, evaluate_only, setup

    cfg = setup(args)
    if args.eval_only:
        evaluate_only(cfg, resume=args.resume)
        return
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()
