#!/usr/bin/env python
"""Pascal-Part from the official .mat files and VOC2010, for the vocabularies of 58, 93, 108, 116 and 201 classes.

python datasets/prepare_pascal_part.py
python datasets/prepare_pascal_part.py --voc DIR/VOC2010 --annotations DIR --variants 58 108 --workers 8
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from wps_sam.data.sources.pascal_part import VARIANTS, prepare

ROOT = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--voc", default=ROOT / "VOCdevkit" / "VOC2010", type=Path, help="folder VOC2010 (default: %(default)s)"
    )
    parser.add_argument(
        "--annotations",
        default=ROOT / "PascalPart" / "Annotations_Part",
        type=Path,
        help="folder of the .mat files (default: %(default)s)",
    )
    parser.add_argument(
        "--output", default=ROOT / "PascalPart", type=Path, help="folder to write to (default: %(default)s)"
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS, help="vocabularies (default: all)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        prepare(args.voc, args.annotations, args.output, args.variants, args.workers)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
