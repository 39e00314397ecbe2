"""A trained model labels the pictures of which only tags are known, for a student that learns from all of them.

The names are not the model's to choose: it says where the tagged classes are and nothing else, so that its labels are
much better than its answers (self-training, arXiv 1911.04252, with image tags, as in arXiv 2103.14581).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import Tensor
from tqdm import tqdm

from ..data.weak_labels import usable_box
from ..masks import mask_to_rle, record_size, segmentation_to_mask
from .evaluate import set_vocabulary, trained_model
from .loader import build_test_loader

logger = logging.getLogger(__name__)

# Of the pieces of a class in one picture, those below this share of the largest one are taken for crumbs.
CRUMB = 0.1


def pseudo_labels(cfg: CfgNode, dataset_name: str, root: str | Path) -> tuple[dict[str, Any], int]:
    """A COCO file of the data set, file names relative to ``root``, in which tagged pictures have boxes.

    Pictures with an annotation that says where something is keep their labels as they are; pictures without tags stay
    without labels. Tags stay, also those of which the model finds nothing.

    Args:
        cfg: of the model, whose weights MODEL.WEIGHTS names; the features are those of a cache where it says so.
        dataset_name: a registered data set.
        root: of the pictures.

    Returns:
        The file's content, and how many pictures the model has labelled.

    Raises:
        ValueError: see :func:`wps_sam.engine.evaluate.trained_model`.
    """
    model, training = trained_model(cfg)
    model.eval()
    set_vocabulary(model, dataset_name, training["class_names"])
    records, names = DatasetCatalog.get(dataset_name), MetadataCatalog.get(dataset_name).thing_classes
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    labelled = 0
    for batch in tqdm(build_test_loader(cfg, dataset_name), total=len(records), unit="picture"):
        for model_input in batch:
            record = records[len(images)]
            labels = [label for part in record["annotations"] if (label := _as_coco(part, record))]
            if record.get("tags") and not labels:
                with torch.no_grad():
                    part_map = tagged_map(model([model_input])[0]["sem_seg"], record["tags"])
                labels = boxes_of(part_map, record["tags"])
                labelled += 1
            height, width = record_size(record)
            image = {"id": record["image_id"], "file_name": os.path.relpath(record["file_name"], root)}
            tags = {"tags": [names[c] for c in record["tags"]]} if record.get("tags") else {}
            images.append({**image, "height": height, "width": width, **tags})
            annotations += [{"id": len(annotations) + k, "image_id": image["id"], **a} for k, a in enumerate(labels)]
    categories = [{"id": c, "name": name} for c, name in enumerate(names)]
    return {"images": images, "annotations": annotations, "categories": categories}, labelled


def tagged_map(sem_seg: Tensor, tags: Collection[int]) -> np.ndarray:
    """The part map int64 [H, W] of scores [C+1, H, W], background last, if only classes of ``tags`` are there."""
    known = torch.tensor([*tags, len(sem_seg) - 1], device=sem_seg.device)
    return known[sem_seg[known].argmax(0)].cpu().numpy()


def boxes_of(part_map: np.ndarray, classes: Collection[int]) -> list[dict[str, Any]]:
    """A box, XYWH in pixels, around every connected piece of a class in a part map [H, W], crumbs left out."""
    found = []
    for c in classes:
        _, _, pieces, _ = cv2.connectedComponentsWithStats((part_map == c).astype(np.uint8), connectivity=8)
        # The first is all that is not of the class.
        pieces = pieces[1:]
        sizes = pieces[:, cv2.CC_STAT_AREA]
        for x, y, width, height, _ in pieces[sizes >= CRUMB * sizes.max(initial=0)].tolist():
            found.append({"category_id": c, "bbox": [x, y, width, height]})
    return found


def _as_coco(part: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any] | None:
    """An annotation with all that it says of a place; None if that is nothing."""
    height, width = record_size(record)
    place: dict[str, Any] = {}
    if (box := usable_box(part, height, width)) is not None:
        place["bbox"] = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
    if "point" in part:
        place["point"] = list(part["point"])
    if "segmentation" in part:
        place["segmentation"] = mask_to_rle(segmentation_to_mask(part["segmentation"], height, width))
    return {"category_id": part["category_id"], "iscrowd": part.get("iscrowd", 0), **place} if place else None
