"""Writes the generated data set ``synthetic_parts`` in PartImageNet's layout; the same arguments give the same bytes.

wps-sam synthetic
wps-sam synthetic --root DIR --num-train 5000 --num-val 500 --size 384 --seed 1
"""

from __future__ import annotations

import argparse

from ..paths import PACKAGE, PROJECT

# Beside its description; of an installation in the current folder, where descriptions look next.
DEFAULT_ROOT = "datasets/synthetic_parts" if PROJECT == PACKAGE else str(PROJECT / "datasets" / "synthetic_parts")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", default=DEFAULT_ROOT, help="folder to write to (default: %(default)s)")
    parser.add_argument("--num-train", type=int, default=1000, help="training pictures (default: %(default)s)")
    parser.add_argument("--num-val", type=int, default=100, help="validation pictures (default: %(default)s)")
    parser.add_argument("--size", type=int, default=256, help="side in pixels (default: %(default)s)")
    parser.add_argument(
        "--variety",
        type=float,
        default=0.4,
        help="0 (all alike) to 1 (as varied as a segmenter is pre-trained on) (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="other seeds give other pictures")


def run(args: argparse.Namespace) -> int:
    import logging

    from ..data.synthetic import write_dataset

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write_dataset(args.root, args.num_train, args.num_val, args.size, args.seed, args.variety)
    return 0
