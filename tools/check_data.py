#!/usr/bin/env python
"""Looks through data sets before training on them, and writes one HTML page of what they hold and what looks odd.

    python tools/check_data.py my_parts.yaml --output output/my_parts/data.html
    python tools/check_data.py my_parts.yaml --label-type point --num-images 60 --output points.html

The page has labels by class and kind, sizes of boxes, oddities (few labels, tiny or double boxes, one picture in train
and val, left and right without flip_pairs, ...) and pictures with their labels. It needs no network and no other file.
What augmentations make of them, tools/visualize_data.py draws.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from wps_sam.data import register_descriptions
from wps_sam.data.check import check_datasets
from wps_sam.data.sources.descriptions import read_description
from wps_sam.data.weak_labels import LabelType, PointRule
from wps_sam.data_page import data_page
from wps_sam.outputs import check_outputs, write_output


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("description", metavar="YAML", help="description of the data sets, all of whose splits are looked through")
    add("--output", required=True, type=Path, metavar="HTML")
    add("--label-type", choices=get_args(LabelType), default="as_annotated", help="as WEAK_LABELS.TYPE")
    add("--points", choices=get_args(PointRule), default="box_center", help="as WEAK_LABELS.POINT")
    add("--num-images", type=int, default=24, metavar="N", help="drawn of each data set")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        check_outputs([args.output], [args.description])
        register_descriptions([args.description])
        description = read_description(args.description)
        found = check_datasets([f"{description.name}_{paths.split}" for paths in description.splits])
        page = data_page(found, args.label_type, args.points, args.num_images)
        write_output(args.output, page.encode(), [args.description])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for findings in found:
        print(f"{findings.name}: {len(findings.records)} pictures, {findings.labels.sum()} labels")
        for oddity in findings.oddities:
            print(f"  {oddity.count} {oddity.what}{': ' if oddity.examples else ''}{'; '.join(oddity.examples)}")
    print(f"-> {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
