"""Looks through data sets before training on them, and writes one HTML page of what they hold and what looks odd.

    wps-sam check my_parts.yaml --output output/my_parts/data.html
    wps-sam check my_parts.yaml --label-type point --num-images 60 --output points.html

The page has labels by class and kind, sizes of boxes, oddities (few labels, tiny or double boxes, one picture in train
and val, left and right without flip_pairs, ...) and pictures with their labels. It needs no network and no other file.
What augmentations make of them, wps-sam view draws.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("description", metavar="YAML", help="description of the data sets, all of whose splits are looked through")
    add("--output", required=True, type=Path, metavar="HTML", help="the page to write")
    kinds = ("box", "point", "mask", "as_annotated")
    add("--label-type", choices=kinds, default="as_annotated", help="as WEAK_LABELS.TYPE")
    rules = ("box_center", "random_pixel", "deepest_pixel")
    add("--points", choices=rules, default="box_center", help="as WEAK_LABELS.POINT")
    add("--num-images", type=int, default=24, metavar="N", help="drawn of each data set")


def run(args: argparse.Namespace) -> int:
    from ..data import register_descriptions
    from ..data.check import check_datasets
    from ..data.sources.descriptions import read_description
    from ..data_page import data_page
    from ..outputs import check_outputs, write_output

    check_outputs([args.output], [args.description])
    register_descriptions([args.description])
    description = read_description(args.description)
    found = check_datasets([f"{description.name}_{paths.split}" for paths in description.splits])
    page = data_page(found, args.label_type, args.points, args.num_images)
    write_output(args.output, page.encode(), [args.description])
    for findings in found:
        print(f"{findings.name}: {len(findings.records)} pictures, {findings.labels.sum()} labels")
        for oddity in findings.oddities:
            print(f"  {oddity.count} {oddity.what}{': ' if oddity.examples else ''}{'; '.join(oddity.examples)}")
    print(f"-> {args.output}")
    return 0
