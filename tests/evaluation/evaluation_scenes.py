"""Tiny pictures with known parts, and model outputs for them, shared by the evaluators' tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wps_sam.masks import mask_to_box, mask_to_rle
from wps_sam.structures import Frame

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

CLASSES = ["Animal Head", "Animal Body", "Car Wheel"]
# What fits a scene, in the order of the results; pred_all is for scenes with unseen classes.
PART_PROTOCOLS = (*("d2_semseg", "pin41", "wps_image_part", "wps_authors", "coco_ap", "error_breakdown", "pascal_sq"),)


def box_mask(height: int, width: int, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    """bool [height, width], True in the pixels of the box, x1 and y1 exclusive."""
    mask = np.zeros((height, width), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def annotation(category: int, mask: np.ndarray, **changes: Any) -> dict[str, Any]:
    x0, y0, x1, y1 = mask_to_box(mask)
    made = {
        "id": 1,
        "category_id": category,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "bbox_mode": BoxMode.XYWH_ABS,
        "iscrowd": 0,
        "segmentation": mask_to_rle(mask),
    }
    return {key: value for key, value in (made | changes).items() if value is not None}


@dataclass
class Scene:
    """A data set in memory; pictures need not exist, as evaluators never open them."""

    name: str
    folder: Path
    classes: list[str] = field(default_factory=lambda: list(CLASSES))
    ignore_label: int = 255
    records: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self,
        annotations: list[dict[str, Any]],
        size: tuple[int, int] = (16, 16),
        part_map: np.ndarray | None = None,
        image_id: Any = None,
    ) -> dict[str, Any]:
        """Adds a picture of size (height, width), with a label PNG if ``part_map`` is given."""
        number = len(self.records)
        record: dict[str, Any] = {
            "file_name": f"picture_{number}.JPEG",
            "image_id": number if image_id is None else image_id,
            "height": size[0],
            "width": size[1],
            "annotations": [a | {"id": number * 100 + i} for i, a in enumerate(annotations)],
        }
        if part_map is not None:
            png = self.folder / f"{self.name}_{number}.png"
            Image.fromarray(part_map).save(png)
            record["sem_seg_file_name"] = str(png)
        self.records.append(record)
        return record

    def register(self) -> str:
        records, count = self.records, len(self.classes)
        DatasetCatalog.register(self.name, lambda: records)
        MetadataCatalog.get(self.name).set(
            thing_classes=self.classes,
            stuff_classes=[*self.classes, "background"],
            part_supercategories=[name.split(" ")[0] for name in self.classes],
            background_label=count,
            ignore_label=self.ignore_label,
            label_map={label: label for label in range(count + 1)},
            evaluator_type="part_seg",
        )
        return self.name

    def remove(self) -> None:
        if self.name in DatasetCatalog.list():
            DatasetCatalog.remove(self.name)
            MetadataCatalog.remove(self.name)

    def output(
        self,
        record: dict[str, Any],
        parts: list[tuple[int, np.ndarray]],
        scores: list[float] | None = None,
        logits: torch.Tensor | None = None,
        frame: Frame | None = None,
    ) -> dict[str, Any]:
        """What the model would say: (class, mask) parts, painted in this order into the part map.

        Without ``logits`` the masks also become mask_logits; boxes at multiples of 4 pixels come back exactly.
        """
        height, width = record["height"], record["width"]
        part_map = np.full((height, width), len(self.classes))
        for category, mask in parts:
            part_map[mask] = category
        masks = torch.from_numpy(np.array([m for _, m in parts], dtype=bool).reshape(-1, height, width))
        side = max(height, width)
        instances = Instances((height, width))
        instances.pred_masks = masks
        instances.pred_boxes = Boxes(torch.tensor([mask_to_box(m) for _, m in parts]).reshape(-1, 4))
        instances.pred_classes = torch.tensor([category for category, _ in parts], dtype=torch.int64)
        instances.scores = torch.tensor([1.0] * len(parts) if scores is None else scores)
        if logits is None:
            square = torch.zeros(len(parts), side, side)
            square[:, :height, :width] = masks.float()
            # Enough that the corner pixel inside, 0.39 of its own cell, stays in: 0.39 * 32 > 0.61 * 20; and
            # little enough that the edge pixel outside, 0.375 of the neighbour, stays out: 0.375 * 32 < 0.625 * 20.
            logits = 52.0 * square[:, 2::4, 2::4] - 20.0
        instances.mask_logits = logits
        sem_seg = torch.nn.functional.one_hot(torch.from_numpy(part_map).long(), len(self.classes) + 1)
        return {
            "instances": instances,
            "sem_seg": sem_seg.permute(2, 0, 1).float(),
            "frame": frame or Frame(side, height, width),
        }


def run(evaluator: Any, records: list[dict[str, Any]], outputs: list[Any], batch_size: int = 1) -> Any:
    """Evaluates as Detectron2 does."""
    evaluator.reset()
    for start in range(0, len(records), batch_size):
        batch = slice(start, start + batch_size)
        evaluator.process(records[batch], outputs[batch])
    return evaluator.evaluate()
