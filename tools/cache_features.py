#!/usr/bin/env python
"""Makes the feature caches of a config: what its frozen encoder says of all its pictures, once for all epochs.

    python tools/cache_features.py --config-file FILE
    python tools/cache_features.py --config-file FILE --dtype int8 --output /data/features
    python tools/cache_features.py --config-file FILE --num-gpus 4 --batch-size 8
    python tools/cache_features.py --config-file FILE --num-processes 2 MODEL.DEVICE cpu
    python tools/train_net.py --config-file FILE MODEL.SAM.FEATURES cache MODEL.SAM.CACHE_DIR /data/features

It can be stopped at any moment; the same command goes on. On finished caches it checks every byte, makes
damaged shards anew, and adds the flipped view if the config now asks for it.

Caches of format 1 are not read any more. With --convert they become today's, value by value and without the encoder:

    python tools/cache_features.py --config-file FILE --convert /data/features --output /data/features_2
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from wps_sam.config import read_config
from wps_sam.data import register_descriptions
from wps_sam.data.feature_store import DTYPES
from wps_sam.engine import check_device, launch
from wps_sam.engine.features import cache_features, convert_features

from detectron2.utils import comm
from detectron2.utils.logger import setup_logger


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--output", metavar="DIR", help="default: MODEL.SAM.CACHE_DIR")
    parser.add_argument("--dtype", choices=list(DTYPES), help="default: fp16; int8: half of it, see datasets/README.md")
    parser.add_argument("--convert", metavar="DIR", help="caches of format 1, whose dtype is kept")
    parser.add_argument("--batch-size", type=int, default=1, help="pictures at once; a GPU likes 8")
    parser.add_argument("--num-gpus", type=int, default=1)
    parser.add_argument("--num-processes", type=int, default=0, help="processes on the CPU; needs MODEL.DEVICE cpu")
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="config overrides")
    parser.set_defaults(num_machines=1, machine_rank=0, dist_url="auto")
    args = parser.parse_args(argv)
    if args.batch_size < 1:
        parser.error(f"--batch-size is {args.batch_size}; expected 1 or more")
    if args.convert and args.dtype:
        parser.error(f"--dtype is {args.dtype}; expected none with --convert, which keeps that of the old caches")
    return args


def make(args: argparse.Namespace) -> None:
    cfg = read_config(args.config_file, args.opts)
    check_device(cfg.MODEL.DEVICE)
    setup_logger(distributed_rank=comm.get_rank(), name="wps_sam")
    register_descriptions(cfg.DATASETS.DESCRIPTIONS)
    output = args.output or cfg.MODEL.SAM.CACHE_DIR
    if args.convert:
        convert_features(cfg, args.convert, output)
    else:
        cache_features(cfg, output, args.dtype or "fp16", args.batch_size)


def main(argv: Sequence[str] | None = None) -> int:
    try:
        launch(make, parse_args(argv))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
