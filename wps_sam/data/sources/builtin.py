"""The published data sets: which split lies where, and their registration on import.

They are looked for in $DETECTRON2_DATASETS (default ./datasets), laid out as in datasets/README.md.
"""

from __future__ import annotations

import os

from wps_sam.data.sources import pascal_part, voc
from wps_sam.data.sources.coco import load_vocabulary, register_part_dataset
from wps_sam.data.sources.ov_parts import (
    ADE20K_PART_234,
    PARTIMAGENET_147,
    PASCAL_PART_116,
    Benchmark,
    OVSet,
    register_ov_set,
)

# Split name -> (folder of the images, COCO json), below the root.
PARTIMAGENET_SPLITS: dict[str, tuple[str, str]] = {
    "partimagenet_train": ("PartImageNet/images/train", "PartImageNet/annotations/train/train.json"),
    "partimagenet_val": ("PartImageNet/images/val", "PartImageNet/annotations/val/val.json"),
    "partimagenet_test": ("PartImageNet/images/test", "PartImageNet/annotations/test/test.json"),
    "partimagenet_ood_train": ("PartImageNet_OOD/train", "PartImageNet_OOD/train.json"),
    "partimagenet_ood_val": ("PartImageNet_OOD/val", "PartImageNet_OOD/val.json"),
    "partimagenet_ood_test": ("PartImageNet_OOD/test", "PartImageNet_OOD/test.json"),
}

# What the literature measures on each variant of Pascal-Part.
PASCAL_PART_PROTOCOLS: dict[str, tuple[str, ...]] = {
    "58": ("d2_semseg", "pascal_sq", "wps_image_part", "coco_ap"),
    "93": ("coco_ap", "d2_semseg", "wps_image_part"),
    "108": ("d2_semseg", "pascal_sq", "wps_image_part", "coco_ap"),
    "116": ("d2_semseg", "wps_image_part", "coco_ap"),
    "201": ("d2_semseg", "pascal_sq", "wps_image_part", "coco_ap"),
}

# OV-PARTS' ten, by their own names; ADE's test set image by image, which the protocols without a given object need;
# Pascal's few-shot set object by object; and PartCLIPSeg's three of PartImageNet, with the test set image by image.
OV_PARTS_SETS: dict[str, tuple[Benchmark, OVSet]] = {
    "voc_obj_part_sem_seg_train": (PASCAL_PART_116, OVSet("train", "image", "seen")),
    "voc_obj_part_sem_seg_val": (PASCAL_PART_116, OVSet("val", "image", "all")),
    "voc_obj_part_sem_seg_train_obj_condition": (PASCAL_PART_116, OVSet("train", "object", "seen")),
    "voc_obj_part_sem_seg_val_obj_condition": (PASCAL_PART_116, OVSet("val", "object", "all")),
    "voc_obj_part_sem_seg_train_few_shot": (PASCAL_PART_116, OVSet("train", "image", "all", few_shot=True)),
    "voc_obj_part_sem_seg_train_few_shot_obj_condition": (
        PASCAL_PART_116,
        OVSet("train", "object", "all", few_shot=True),
    ),
    "ade_obj_part_sem_seg_train": (ADE20K_PART_234, OVSet("train", "image", "seen")),
    "ade_obj_part_sem_seg_train_obj_condition": (ADE20K_PART_234, OVSet("train", "object", "seen")),
    "ade_obj_part_sem_seg_train_few_shot": (ADE20K_PART_234, OVSet("train", "object", "all", few_shot=True)),
    "ade_obj_part_sem_seg_val_obj_condition": (ADE20K_PART_234, OVSet("val", "object", "all")),
    "ade_obj_part_sem_seg_val_few_shot": (ADE20K_PART_234, OVSet("val", "object", "all", few_shot=True)),
    "ade_obj_part_sem_seg_val": (ADE20K_PART_234, OVSet("val", "image", "all")),
    "partimagenet_obj_part_sem_seg_train": (PARTIMAGENET_147, OVSet("train", "image", "seen")),
    "partimagenet_obj_part_sem_seg_train_obj_condition": (PARTIMAGENET_147, OVSet("train", "object", "seen")),
    "partimagenet_obj_part_sem_seg_val": (PARTIMAGENET_147, OVSet("val", "image", "all")),
    "partimagenet_obj_part_sem_seg_val_obj_condition": (PARTIMAGENET_147, OVSet("val", "object", "all")),
}


def register_all_partimagenet(root: str) -> None:
    """Registers every split of PartImageNet, in both packagings, below the folder ``root``."""
    vocabulary = load_vocabulary("partimagenet")
    for name, (images, json_file) in PARTIMAGENET_SPLITS.items():
        register_part_dataset(
            name,
            "partimagenet",
            os.path.join(root, images),
            os.path.join(root, json_file),
            vocabulary,
            # Supercategories such as Quadruped hold objects of many kinds; nobody has said which of them.
            obj_classes=None,
            part_objects=None,
        )


def register_all_pascal_part(root: str) -> None:
    """Registers train and val of every variant of Pascal-Part below the folder ``root``."""
    for name, (images, json_file) in pascal_part.SPLITS.items():
        variant = name.split("_")[2]
        register_part_dataset(
            name,
            "partimagenet",
            os.path.join(root, images),
            os.path.join(root, json_file),
            pascal_part.load_pascal_vocabulary(variant),
            protocols=PASCAL_PART_PROTOCOLS[variant],
        )


def register_all_ov_parts(root: str, prefix: str = "") -> None:
    """Registers OV-PARTS' data sets and PartCLIPSeg's below ``root``; ``prefix`` keeps those of two roots apart."""
    for name, (benchmark, ov_set) in OV_PARTS_SETS.items():
        register_ov_set(prefix + name, root, benchmark, ov_set)


_ROOT = os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets"))
register_all_partimagenet(_ROOT)
register_all_pascal_part(_ROOT)
register_all_ov_parts(_ROOT)
voc.register_voc2012(_ROOT)
