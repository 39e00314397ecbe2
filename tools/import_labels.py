#!/usr/bin/env python
"""Makes a data set out of the labels of another tool: COCO, LabelMe, CVAT, Label Studio, YOLO, VIA, Pascal VOC, CSV.

    python tools/import_labels.py annotations.xml --images photos --name my_parts --output output/my_parts
    python tools/import_labels.py labelled --name my_parts --output output/my_parts --val-share 0.2 --classes wheel

Writes a json of each split and description.yaml, which DATASETS.DESCRIPTIONS takes: the data sets are called NAME_train
and NAME_val. Splits are those that the labels name; else all is train, of which --val-share draws a part for val. See
what became of it with tools/check_data.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from wps_sam.data.coco_output import write_coco_dataset
from wps_sam.data.imports import FORMATS, Notes, PictureFolder, convert, detect_format, read_labels


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    about = "\n".join(f"  {form.name}: {form.about}" for form in FORMATS.values())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"formats:\n{about}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help="file or folder of labels")
    add("--images", type=Path, metavar="DIR", help="folder of the pictures; default: the source, or its folder")
    add("--name", required=True, help="of the new data set, without _train")
    add("--output", required=True, type=Path, metavar="DIR")
    add("--format", choices=sorted(FORMATS), help="default: found out")
    add("--classes", nargs="+", default=[], metavar="NAME", help="to keep, in the order of their ids; default: all")
    add("--val-share", type=float, default=0.0, metavar="SHARE", help="of the pictures that become val")
    add("--seed", type=int, default=0, help="draws them")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    notes = Notes()
    try:
        form = args.format or detect_format(args.source)
        export = read_labels(args.source, form, notes)
        pictures = PictureFolder(args.images or (args.source if args.source.is_dir() else args.source.parent))
        made = convert(export, pictures, notes, args.classes, args.val_share, args.seed)
        inputs = [args.source] if args.source.is_file() else []
        keys = {"exif": "upright"} if made.upright else {}
        written = write_coco_dataset(args.output, args.name, pictures.root, made.splits, made.classes, inputs, **keys)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{written}: from {form}, {made.summary()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
