#!/usr/bin/env python
"""Trains a promptable SAM on generated pictures and on registered data sets with masks.

    python tools/pretrain_sam.py --config-file configs/pretrain_sam/vit_tiny_crops.yaml \\
        --description datasets/ccp_parts.yaml --output-dir output/sam_vit_tiny
    python tools/pretrain_sam.py ... --resume minutes=90 learning_rate=2e-4

Any setting of the configuration file can be given on the command line. Writes metrics.json, TensorBoard's events,
checkpoint.pt (continue with --resume) and sam.safetensors, the averaged weights in half precision, which
MODEL.SAM.WEIGHTS takes. On a busy machine set OMP_WAIT_POLICY=passive.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from wps_sam.data import register_descriptions
from wps_sam.pretraining import Pretrainer, PretrainSettings, read_settings, read_values

import torch


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config-file", type=Path, metavar="YAML", help="settings; see PretrainSettings for all of them")
    add("--output-dir", required=True)
    add("--description", action="append", default=[], metavar="YAML", help="data set to register; may be repeated")
    add("--resume", action="store_true", help="continue from OUTPUT_DIR/checkpoint.pt")
    add("--threads", type=int, default=0, help="CPU threads of PyTorch; 0: its own choice")
    add("settings", nargs="*", metavar="NAME=VALUE", help="settings that replace those of the file, as YAML")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    command = shlex.join(["python", "tools/pretrain_sam.py", *(sys.argv[1:] if argv is None else argv)])
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        register_descriptions(args.description)
        settings = read_settings(PretrainSettings, read_values(args.config_file, args.settings))
        pretrainer = Pretrainer(settings, args.output_dir, command)
        if args.resume:
            pretrainer.resume()
        pretrainer.train()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
