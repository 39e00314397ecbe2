"""Makes a data set with weaker labels out of one with boxes or masks: to measure what labels are worth.

    wps-sam weaken --description my_parts.yaml --dataset my_parts_train \\
        --name my_tenth --output output/my_tenth --box 0.1
    wps-sam weaken --description datasets/ccp_parts.yaml --dataset ccp_parts_train \\
        --name ccp_parts_mixed --output output/ccp_parts_mixed --box 0.1 --point 0.33 --tag 0.57 \\
        --tags $WPS_SAM_CCP_PARTS/annotations/image_tags.json --tagged-images $WPS_SAM_CCP_PARTS/images/tags_only

Of the pictures the given shares keep their boxes, a point in each part, or tags alone; the others are left out. Writes
train.json and description.yaml, which DATASETS.DESCRIPTIONS takes: the data set is called NAME_train.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..user_errors import did_you_mean
from . import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    arguments.add_descriptions(parser)
    add("--dataset", required=True, help="a registered data set")
    add("--name", required=True, help="of the new data set, without _train")
    add("--output", required=True, type=Path, metavar="DIR", help="the folder to write to")
    for kind in ("box", "point", "tag"):
        add(f"--{kind}", type=float, default=0.0, metavar="SHARE", help=f"of the pictures that have {kind} labels")
    add("--jitter", type=float, default=0.0, metavar="SHARE", help="of a box's size, by which its sides may be wrong")
    add("--tags", metavar="JSON", help="more pictures with tags alone: {file name: [class names]}")
    add("--tagged-images", metavar="DIR", help="where the pictures of --tags are")
    add("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    if bool(args.tags) != bool(args.tagged_images):
        raise ValueError("--tags and --tagged-images belong together")
    import os

    from detectron2.data import DatasetCatalog, MetadataCatalog

    from ..data import register_descriptions
    from ..data.coco_output import write_coco_dataset
    from ..data.weaken import Weakening, add_tagged_pictures, weaken

    how = Weakening(args.box, args.point, args.tag, args.jitter, args.seed)
    register_descriptions(args.description)
    if args.dataset not in DatasetCatalog.list():
        near = did_you_mean(args.dataset, DatasetCatalog.list())
        raise ValueError(f"--dataset {args.dataset}: not a registered data set{near}")
    records, names = DatasetCatalog.get(args.dataset), MetadataCatalog.get(args.dataset).thing_classes
    folders = {os.path.dirname(os.path.abspath(record["file_name"])) for record in records}
    root = os.path.commonpath([*folders, *([os.path.abspath(args.tagged_images)] if args.tags else [])])
    content = weaken(records, names, how, root)
    if args.tags:
        add_tagged_pictures(content, args.tags, args.tagged_images, root)
    inputs = [*args.description, *([args.tags] if args.tags else [])]
    description = write_coco_dataset(args.output, args.name, root, {"train": content}, names, inputs)
    print(f"{description}: {len(content['images'])} pictures, {len(content['annotations'])} labels")
    return 0
