"""Makes the feature caches of a config: what its frozen encoder says of all its pictures, once for all epochs.

    wps-sam cache --config-file FILE
    wps-sam cache --config-file FILE --dtype int8 --output /data/features
    wps-sam cache --config-file FILE --num-gpus 4 --batch-size 8
    wps-sam cache --config-file FILE --num-processes 2 MODEL.DEVICE cpu
    wps-sam cache --config-file FILE --shard 3/64
    wps-sam train --config-file FILE MODEL.SAM.FEATURES cache MODEL.SAM.CACHE_DIR /data/features

It can be stopped at any moment; the same command goes on. On finished caches it checks every byte, makes
damaged shards anew, and adds the flipped view if the config now asks for it.

With --shard it makes a share of each cache, in a job that knows nothing of the others: each reads its own pictures and
writes its own files, into one folder, or into several that are then copied into one. When all have, the command
without --shard checks the files and finishes the caches; docs/scale.md has an example.

Caches of format 1 are not read any more. With --convert they become today's, value by value and without the encoder:

    wps-sam cache --config-file FILE --convert /data/features --output /data/features_2
"""

from __future__ import annotations

import argparse

from . import arguments

# Those of wps_sam.data.feature_store, which takes seconds to import.
FORMATS = ("fp16", "fp32", "int8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_config(parser)
    parser.add_argument("--output", metavar="DIR", help="where the caches go; default: MODEL.SAM.CACHE_DIR")
    parser.add_argument("--dtype", choices=FORMATS, help="default: fp16; int8: half of it, see datasets/README.md")
    parser.add_argument("--convert", metavar="DIR", help="caches of format 1, whose dtype is kept")
    parser.add_argument("--batch-size", type=int, default=1, help="pictures at once; a GPU likes 8")
    arguments.add_shard(parser)
    arguments.add_processes(parser)


def run(args: argparse.Namespace) -> int:
    if args.batch_size < 1:
        raise ValueError(f"--batch-size is {args.batch_size}; expected 1 or more")
    if args.convert and args.dtype:
        raise ValueError(f"--dtype is {args.dtype}; expected none with --convert, which keeps that of the old caches")
    if args.convert and (args.mirror or not args.share.is_whole):
        raise ValueError("--convert is done in one piece, on disks: expected no --shard and no --mirror")
    from ..engine import launch

    launch(work, args)
    return 0


def work(args: argparse.Namespace) -> None:
    """In each process: its share of the caches."""
    from detectron2.utils import comm
    from detectron2.utils.logger import setup_logger

    from ..config import read_config
    from ..data import register_descriptions
    from ..engine import check_device
    from ..engine.features import cache_features, convert_features
    from ..engine.fill_in import fill_in_classes
    from ..engine.setup import check_data_is_named

    cfg = read_config(args.config_file, args.opts)
    check_data_is_named(cfg, args.config_file)
    check_device(cfg.MODEL.DEVICE)
    setup_logger(distributed_rank=comm.get_rank(), name="wps_sam")
    register_descriptions(cfg.DATASETS.DESCRIPTIONS)
    fill_in_classes(cfg, (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    output = args.output or cfg.MODEL.SAM.CACHE_DIR
    if args.convert:
        convert_features(cfg, args.convert, output)
    else:
        cache_features(cfg, output, args.dtype or "fp16", args.batch_size, args.share, args.mirror)
