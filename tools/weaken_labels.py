#!/usr/bin/env python
"""Makes a data set with weaker labels out of one with boxes or masks: to measure what labels are worth.

    python tools/weaken_labels.py --description my_parts.yaml --dataset my_parts_train \\
        --name my_tenth --output output/my_tenth --box 0.1
    python tools/weaken_labels.py --description datasets/ccp_parts.yaml --dataset ccp_parts_train \\
        --name ccp_parts_mixed --output output/ccp_parts_mixed --box 0.1 --point 0.33 --tag 0.57 \\
        --tags $WPS_SAM_CCP_PARTS/annotations/image_tags.json --tagged-images $WPS_SAM_CCP_PARTS/images/tags_only

Of the pictures the given shares keep their boxes, a point in each part, or tags alone; the others are left out. Writes
train.json and description.yaml, which DATASETS.DESCRIPTIONS takes: the data set is called NAME_train.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from wps_sam.data import register_descriptions
from wps_sam.data.coco_output import write_coco_dataset
from wps_sam.data.weaken import Weakening, add_tagged_pictures, weaken

from detectron2.data import DatasetCatalog, MetadataCatalog


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--description", action="append", default=[], metavar="YAML", help="data set to register; may be repeated")
    add("--dataset", required=True, help="a registered data set")
    add("--name", required=True, help="of the new data set, without _train")
    add("--output", required=True, type=Path, metavar="DIR")
    for kind in ("box", "point", "tag"):
        add(f"--{kind}", type=float, default=0.0, metavar="SHARE", help=f"of the pictures that have {kind} labels")
    add("--jitter", type=float, default=0.0, metavar="SHARE", help="of a box's size, by which its sides may be wrong")
    add("--tags", metavar="JSON", help="more pictures with tags alone: {file name: [class names]}")
    add("--tagged-images", metavar="DIR", help="where the pictures of --tags are")
    add("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if bool(args.tags) != bool(args.tagged_images):
        parser.error("--tags and --tagged-images belong together")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        how = Weakening(args.box, args.point, args.tag, args.jitter, args.seed)
        register_descriptions(args.description)
        if args.dataset not in DatasetCatalog.list():
            raise ValueError(f"--dataset {args.dataset}: not a registered data set")
        records, names = DatasetCatalog.get(args.dataset), MetadataCatalog.get(args.dataset).thing_classes
        folders = {os.path.dirname(os.path.abspath(record["file_name"])) for record in records}
        root = os.path.commonpath([*folders, *([os.path.abspath(args.tagged_images)] if args.tags else [])])
        content = weaken(records, names, how, root)
        if args.tags:
            add_tagged_pictures(content, args.tags, args.tagged_images, root)
        inputs = [*args.description, *([args.tags] if args.tags else [])]
        description = write_coco_dataset(args.output, args.name, root, {"train": content}, names, inputs)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{description}: {len(content['images'])} pictures, {len(content['annotations'])} labels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
