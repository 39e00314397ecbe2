"""The published data sets: which split lies where, and their registration on import.

They are looked for in $DETECTRON2_DATASETS (default ./datasets), laid out as in datasets/README.md.
"""

from __future__ import annotations

import os

from wps_sam.data.part_datasets import load_vocabulary, register_part_dataset

# Split name -> (folder of the images, COCO json), below the root.
PARTIMAGENET_SPLITS: dict[str, tuple[str, str]] = {
    "partimagenet_train": ("PartImageNet/images/train", "PartImageNet/annotations/train/train.json"),
    "partimagenet_val": ("PartImageNet/images/val", "PartImageNet/annotations/val/val.json"),
    "partimagenet_test": ("PartImageNet/images/test", "PartImageNet/annotations/test/test.json"),
    "partimagenet_ood_train": ("PartImageNet_OOD/train", "PartImageNet_OOD/train.json"),
    "partimagenet_ood_val": ("PartImageNet_OOD/val", "PartImageNet_OOD/val.json"),
    "partimagenet_ood_test": ("PartImageNet_OOD/test", "PartImageNet_OOD/test.json"),
}


def register_all_partimagenet(root: str) -> None:
    """Registers every split of PartImageNet, in both packagings, below the folder ``root``."""
    classes = load_vocabulary("partimagenet")
    for name, (images, json_file) in PARTIMAGENET_SPLITS.items():
        register_part_dataset(
            name, "partimagenet", os.path.join(root, images), os.path.join(root, json_file), classes
        )


register_all_partimagenet(os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets")))
