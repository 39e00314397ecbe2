#!/usr/bin/env python
"""Writes the generated data set ``synthetic_parts`` in PartImageNet's layout; the same arguments give the same bytes.

python tools/make_synthetic.py
python tools/make_synthetic.py --root DIR --num-train 5000 --num-val 500 --size 384 --seed 1
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from wps_sam.data.synthetic import write_dataset

DEFAULT_ROOT = Path(__file__).resolve().parents[1] / "datasets" / "synthetic_parts"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=str(DEFAULT_ROOT), help="folder to write to (default: %(default)s)")
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
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        write_dataset(args.root, args.num_train, args.num_val, args.size, args.seed, args.variety)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
