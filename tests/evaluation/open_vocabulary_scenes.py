"""Tiny pictures of objects with named parts, as OV-PARTS' records, and model outputs for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wps_sam.masks import mask_to_rle
from wps_sam.vocabulary import object_of_part

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

# A boat has no parts, and "cat" is in "wildcat's tail".
OBJECTS = ["cat", "wildcat", "bus", "boat"]
CAT, WILDCAT, BUS, BOAT = range(4)
CLASSES = ["cat's head", "cat's leg", "wildcat's tail", "bus's wheel", "bus's door"]
UNSEEN = [3, 4]
NOTHING = len(CLASSES)


@dataclass
class OVScene:
    """A data set in memory with its label PNGs on disk; pictures need not exist, as evaluators never open them."""

    name: str
    folder: Path
    classes: list[str] = field(default_factory=lambda: list(CLASSES))
    objects: list[str] = field(default_factory=lambda: list(OBJECTS))
    unseen: list[int] = field(default_factory=lambda: list(UNSEEN))
    ignore_label: int = 255
    records: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self, part_map: Any, object_map: Any, object_id: int | None = None, stem: str | None = None
    ) -> dict[str, Any]:
        """Adds a picture of Pascal-Part-116's kind, whose records know no size: of all its objects, or of one."""
        stem = stem or f"picture_{len(self.records)}"
        record = {
            "file_name": f"images/{stem}.jpg",
            "image_id": stem if object_id is None else f"{stem}_{object_id}",
            "sem_seg_file_name": self._save(f"{stem}_part", part_map),
            "obj_sem_seg_file_name": self._save(f"{stem}_obj", object_map),
        }
        return self._append(record, object_id)

    def add_instances(
        self, part_map: Any, instances: Sequence[tuple[int, Any]], object_id: int | None = None
    ) -> dict[str, Any]:
        """Adds a picture of ADE20K-Part-234's kind: (object, mask) instances, of which one may be the record's."""
        height, width = np.shape(part_map)
        stem = f"picture_{len(self.records)}"
        record = {
            "file_name": f"images/{stem}.jpg",
            "image_id": stem,
            "height": height,
            "width": width,
            "sem_seg_file_name": self._save(f"{stem}_part", part_map),
            "obj_sem_seg_file_name": "NA",
            "obj_annotations": [
                {"id": i, "category_id": category, "segmentation": mask_to_rle(np.asarray(mask, bool))}
                for i, (category, mask) in enumerate(instances)
            ],
        }
        return self._append(record, object_id)

    def _append(self, record: dict[str, Any], object_id: int | None) -> dict[str, Any]:
        self.records.append(record if object_id is None else record | {"category_id": object_id})
        return self.records[-1]

    def _save(self, name: str, labels: Any) -> str:
        path = self.folder / f"{self.name}_{name}.png"
        Image.fromarray(np.asarray(labels, np.uint16 if self.ignore_label > 255 else np.uint8)).save(path)
        return str(path)

    def register(self, **metadata: Any) -> str:
        records, classes = self.records, self.classes
        DatasetCatalog.register(self.name, lambda: records)
        made: dict[str, Any] = {
            "thing_classes": classes,
            "stuff_classes": classes,
            "part_supercategories": [object_of_part(name) for name in classes],
            "obj_classes": self.objects,
            "part_objects": [self.objects.index(object_of_part(name)) for name in classes],
            "ignore_label": self.ignore_label,
            "label_map": {label: label for label in range(len(classes))},
            "evaluation_set": {"base": [c for c in range(len(classes)) if c not in self.unseen]},
            "evaluator_type": "sem_seg",
            "family": "tiny_ov",
        }
        MetadataCatalog.get(self.name).set(**(made | metadata))
        return self.name

    def remove(self) -> None:
        if self.name in DatasetCatalog.list():
            DatasetCatalog.remove(self.name)
            MetadataCatalog.remove(self.name)


def output(*rankings: Any, num_channels: int = NOTHING + 1) -> dict[str, Any]:
    """A model's output: at each pixel the label of the first [H, W] map wins, then that of the second, and so on."""
    scores = torch.zeros(num_channels, *np.shape(rankings[0]))
    for rank, labels in enumerate(reversed(rankings), start=1):
        scores.scatter_(0, torch.as_tensor(np.asarray(labels, np.int64))[None], float(rank))
    return {"sem_seg": scores}


def own_output(record: dict[str, Any], classes: Sequence[int], labels: Any) -> dict[str, Any]:
    """The output for an object-conditioned input: the scores of ``classes`` alone, those of ``labels`` winning."""
    full = output(labels)["sem_seg"]
    return {"sem_seg": full[list(classes)], "part_classes": torch.tensor(classes)}
