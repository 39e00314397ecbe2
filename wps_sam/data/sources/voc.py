"""PASCAL VOC 2012's 20 objects as label PNGs: what image-level methods are measured on. Objects, not parts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from wps_sam.data.sources.fields import read_text
from wps_sam.vocabulary import PartVocabulary

from detectron2.data import DatasetCatalog, MetadataCatalog

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
FOLDER = "VOCdevkit/VOC2012"
# train_aug: with SBD's labels, the list of 10,582 pictures that is passed around with SegmentationClassAug.
SPLITS = ("train", "train_aug", "val")


def load_voc2012(root: str, split: str) -> list[dict[str, Any]]:
    """Records of file_name, image_id and sem_seg_file_name, of ``root``/VOCdevkit/VOC2012.

    Raises:
        ValueError: the list of the split, or the picture or label of one of its names, is missing; names the file.
    """
    folder = Path(root) / FOLDER
    listed = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
    if not os.path.isfile(listed):
        raise ValueError(f"{listed}: the list of the split does not exist; see datasets/README.md")
    lines = read_text(listed, "list of pictures").splitlines()
    names = [Path(line.split()[0]).stem for line in lines if line.strip()]
    records = []
    for name in names:
        image, labels = folder / "JPEGImages" / f"{name}.jpg", folder / "SegmentationClassAug" / f"{name}.png"
        for path in (image, labels):
            if not os.path.isfile(path):
                raise ValueError(f"{path}: does not exist, but {listed} lists it")
        records.append({"file_name": str(image), "image_id": name, "sem_seg_file_name": str(labels), "annotations": []})
    return records


def register_voc2012(root: str) -> None:
    """Registers every split; files are read when it is first used."""
    vocabulary = PartVocabulary(
        names=CLASSES,
        supercategories=CLASSES,
        object_names=CLASSES,
        part_objects=tuple(range(len(CLASSES))),
        dataset_ids=tuple(range(1, len(CLASSES) + 1)),
        background_ids=(0,),
        ignore_label=255,
        family="voc2012",
    )
    for split in SPLITS:
        name = f"voc2012_{split}"
        DatasetCatalog.register(name, lambda split=split: load_voc2012(root, split))
        MetadataCatalog.get(name).set(
            **vocabulary.metadata(), evaluator_type="sem_seg", protocols=("pin41", "d2_semseg")
        )
