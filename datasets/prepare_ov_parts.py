#!/usr/bin/env python
"""Makes the files that Pascal-Part-116 and ADE20K-Part-234 need besides their downloads, and checks the layout.

python datasets/prepare_ov_parts.py pascal
python datasets/prepare_ov_parts.py ade --root DIR --draw-16-shot 1
python datasets/prepare_ov_parts.py partimagenet    # nothing to make, the check alone
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from wps_sam.data.sources.ov_parts import ADE20K_PART_234, PARTIMAGENET_147, PASCAL_PART_116, prepare

BENCHMARKS = {"pascal": PASCAL_PART_116, "ade": ADE20K_PART_234, "partimagenet": PARTIMAGENET_147}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=list(BENCHMARKS))
    parser.add_argument(
        "--root",
        default=Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser(),
        type=Path,
        help="folder that holds PascalPart116, ADE20KPart234 or PartImageNet (default: %(default)s)",
    )
    parser.add_argument(
        "--draw-16-shot",
        type=int,
        metavar="SEED",
        help="write a train_16shot.json of your own, 16 images of each object; OV-PARTS' draw is not published",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        prepare(str(args.root), BENCHMARKS[args.benchmark], args.draw_16_shot)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
