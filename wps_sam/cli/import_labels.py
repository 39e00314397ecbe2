"""Makes a data set out of the labels of another tool.

    wps-sam import boxes.csv --images photos --name my_parts --output output/my_parts
    wps-sam import annotations.xml --images photos --name my_parts --output output/my_parts
    wps-sam import labelled --name my_parts --output output/my_parts --val-share 0.2 --classes wheel window

Formats: coco (keypoints become points), labelme, cvat (XML "for images"), label_studio (its JSON), yolo (boxes and
segments), via, voc (Pascal VOC's XML), boxes_csv (file,part,x,y,width,height in pixels) and tags_csv (file,tag,tag).
Writes a json of each split and description.yaml, which DATASETS.DESCRIPTIONS takes: the data sets are called NAME_train
and NAME_val. Splits are those that the labels name; else all is train, of which --val-share draws a part for val. What
could not be used is counted and named.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..user_errors import did_you_mean


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help="file or folder of labels")
    add("--images", type=Path, metavar="DIR", help="folder of the pictures; default: the source, or its folder")
    add("--name", required=True, help="of the new data set, without _train")
    add("--output", required=True, type=Path, metavar="DIR", help="the folder to write to")
    add("--format", help="default: found out")
    add("--classes", nargs="+", default=[], metavar="NAME", help="to keep, in the order of their ids; default: all")
    add("--val-share", type=float, default=0.0, metavar="SHARE", help="of the pictures that become val")
    add("--seed", type=int, default=0, help="draws them")


def run(args: argparse.Namespace) -> int:
    from ..data.coco_output import write_coco_dataset
    from ..data.imports import FORMATS, Notes, PictureFolder, convert, detect_format, read_labels

    if args.format and args.format not in FORMATS:
        known = f"{did_you_mean(args.format, FORMATS)}; known: {', '.join(FORMATS)}"
        raise ValueError(f"--format {args.format}: not a known format{known}")
    notes = Notes()
    form = args.format or detect_format(args.source)
    export = read_labels(args.source, form, notes)
    pictures = PictureFolder(args.images or (args.source if args.source.is_dir() else args.source.parent))
    made = convert(export, pictures, notes, args.classes, args.val_share, args.seed)
    inputs = [args.source] if args.source.is_file() else []
    keys = {"exif": "upright"} if made.upright else {}
    written = write_coco_dataset(args.output, args.name, pictures.root, made.splits, made.classes, inputs, **keys)
    print(f"{written}: from {form}, {made.summary()}")
    return 0
