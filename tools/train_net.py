#!/usr/bin/env python
"""Trains and evaluates a part segmentation model.

    python tools/train_net.py --config-file configs/quickstart.yaml
    python tools/train_net.py --config-file configs/PartImageNet/wps_sam_vit_b_box_15ep.yaml --num-gpus 4
    python tools/train_net.py --config-file FILE --num-processes 2 MODEL.DEVICE cpu
    python tools/train_net.py --config-file FILE --resume
    python tools/train_net.py --config-file FILE --eval-only MODEL.WEIGHTS output/model_final.pth

Writes log.txt, metrics.json, TensorBoard events, checkpoints and evaluation.json to OUTPUT_DIR. --resume continues
the last checkpoint there. Exits with another code than 0 when TEST.EXPECTED_RESULTS are missed.
"""

from __future__ import annotations

import argparse

from wps_sam.engine import Trainer, argument_parser, evaluate_only, launch, setup


def main(args: argparse.Namespace) -> None:
    cfg = setup(args)
    if args.eval_only:
        evaluate_only(cfg, resume=args.resume)
        return
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()


if __name__ == "__main__":
    launch(main, argument_parser().parse_args())
