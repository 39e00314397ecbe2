"""Lets a trained model label the pictures of a data set of which only tags are known; a student learns from all.

    wps-sam train --config-file FILE OUTPUT_DIR output/teacher
    wps-sam pseudo --config-file FILE --dataset my_parts_train --name my_pseudo --output output/my_pseudo \\
        MODEL.WEIGHTS output/teacher/model_final.pth
    wps-sam train --config-file FILE DATASETS.DESCRIPTIONS '["output/my_pseudo/description.yaml"]' \\
        DATASETS.TRAIN '("my_pseudo_train",)' OUTPUT_DIR output/student

It says where the tagged classes are, never which there are. Writes train.json and description.yaml, which
DATASETS.DESCRIPTIONS takes: pictures that had labels keep them, tagged ones have boxes now, for WEAK_LABELS.TYPE
as_annotated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from . import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_config(parser)
    add = parser.add_argument
    add("--dataset", required=True, help="a registered data set, such as one of DATASETS.DESCRIPTIONS")
    add("--name", required=True, help="of the new data set, without _train")
    add("--output", required=True, type=Path, metavar="DIR", help="the folder to write to")


def run(args: argparse.Namespace) -> int:
    import os

    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.utils.logger import setup_logger

    from ..config import read_config
    from ..data import register_descriptions
    from ..data.coco_output import write_coco_dataset
    from ..engine import check_classes, check_device
    from ..engine.fill_in import fill_in_classes
    from ..engine.pseudo_labels import pseudo_labels

    cfg = read_config(args.config_file, args.opts)
    check_device(cfg.MODEL.DEVICE)
    setup_logger(name="wps_sam")
    register_descriptions(cfg.DATASETS.DESCRIPTIONS)
    fill_in_classes(cfg, (args.dataset,))
    check_classes(cfg, (args.dataset,))
    folders = {os.path.dirname(os.path.abspath(record["file_name"])) for record in DatasetCatalog.get(args.dataset)}
    root = os.path.commonpath([*folders])
    content, labelled = pseudo_labels(cfg, args.dataset, root)
    names = MetadataCatalog.get(args.dataset).thing_classes
    description = write_coco_dataset(args.output, args.name, root, {"train": content}, names)
    print(f"{description}: {len(content['images'])} pictures, {labelled} of them labelled by the model")
    return 0
