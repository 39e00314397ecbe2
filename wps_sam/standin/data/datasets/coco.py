"""COCO's annotation files, and label images, as records."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from typing import Any

import pycocotools.mask as mask_util
from pycocotools.coco import COCO

from ...structures import BoxMode
from ...utils.file_io import PathManager
from ..catalog import DatasetCatalog, MetadataCatalog

logger = logging.getLogger(__name__)


def load_coco_json(
    json_file: str, image_root: str, dataset_name: str | None = None, extra_annotation_keys: list[str] | None = None
) -> list[dict]:
    """Reads a COCO instance file as records; no image is opened.

    With ``dataset_name``, categories become contiguous in the order of their ids, and
    ``thing_classes`` and ``thing_dataset_id_to_contiguous_id`` are set. Annotations whose polygons are all
    invalid (an odd count, fewer than 3 points) are left out, with a warning.

    Raises:
        ValueError: an annotation with an empty box, or an id given twice.
        KeyError: a category id that is not among the categories.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        coco = COCO(PathManager.get_local_path(json_file))
    id_map: dict[int, int] | None = None
    if dataset_name is not None:
        categories = sorted(coco.dataset["categories"], key=lambda category: category["id"])
        id_map = {category["id"]: i for i, category in enumerate(categories)}
        metadata = MetadataCatalog.get(dataset_name)
        metadata.set(thing_classes=[category["name"] for category in categories])
        metadata.set(thing_dataset_id_to_contiguous_id=id_map)
    if len(coco.anns) != len(coco.dataset.get("annotations", ())):
        raise ValueError(f"{json_file}: annotation ids are not unique")
    keys = ["iscrowd", "bbox", "keypoints", "category_id", *(extra_annotation_keys or [])]
    records, invalid = [], 0
    for image_id, image in sorted(coco.imgs.items()):
        annotations = []
        for annotation in coco.imgToAnns.get(image_id, ()):
            entry = {key: annotation[key] for key in keys if key in annotation}
            entry["bbox_mode"] = BoxMode.XYWH_ABS
            if not entry.get("bbox", True):
                raise ValueError(f"{json_file}: annotation {annotation['id']} has an empty bbox")
            if annotation.get("segmentation"):
                entry["segmentation"] = _valid_segmentation(annotation["segmentation"])
                if not entry["segmentation"]:
                    invalid += 1
                    continue
            if id_map is not None:
                if entry["category_id"] not in id_map:
                    place = f"{json_file}: annotation {annotation['id']}"
                    raise KeyError(f"{place}: category_id {entry['category_id']} is not among the categories")
                entry["category_id"] = id_map[entry["category_id"]]
            annotations.append(entry)
        record = {"file_name": os.path.join(image_root, image["file_name"]), "image_id": image_id}
        records.append(record | {"height": image["height"], "width": image["width"], "annotations": annotations})
    logger.info("Loaded %d images in COCO format from %s", len(records), json_file)
    if invalid:
        logger.warning("%s: left out %d annotations without a valid segmentation", json_file, invalid)
    return records


def _valid_segmentation(segmentation: Any) -> Any:
    """A compressed RLE, or the valid polygons."""
    if isinstance(segmentation, list):
        return [polygon for polygon in segmentation if len(polygon) % 2 == 0 and len(polygon) >= 6]
    if isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, *segmentation["size"])
    return segmentation


def load_sem_seg(gt_root: str, image_root: str, gt_ext: str = "png", image_ext: str = "jpg") -> list[dict]:
    """Pairs the images of one folder with the label images of another, by their names without extension.

    Raises:
        AssertionError: there are no label images.
    """

    def listed(folder: str, extension: str) -> dict[str, str]:
        names = sorted(name for name in PathManager.ls(folder) if name.endswith(extension))
        return {name[: -len(extension)]: os.path.join(folder, name) for name in names}

    images, labels = listed(image_root, image_ext), listed(gt_root, gt_ext)
    if not labels:
        raise AssertionError(f"no label images *.{gt_ext} in {gt_root}")
    both = [name for name in images if name in labels]
    if not len(both) == len(images) == len(labels):
        counts = (len(images), image_root, len(labels), gt_root, len(both))
        logger.warning("%d images in %s, %d label images in %s: only the %d in both are used", *counts)
    return [{"file_name": images[name], "sem_seg_file_name": labels[name]} for name in both]


def register_coco_instances(name: str, metadata: dict[str, Any], json_file: str, image_root: str) -> None:
    """Registers a COCO instance file; ``metadata`` are further things to know of it."""
    DatasetCatalog.register(name, lambda: load_coco_json(json_file, image_root, name))
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata)
