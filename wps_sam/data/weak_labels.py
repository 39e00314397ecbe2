"""Annotation to label: what of it training may see, from a tag to a mask.

Everything is in pixels of the stored pixel grid, before any augmentation. Box corners are continuous
(x, y, x + w, y + h), so a picture spans 0..width. Points follow SAM, where integers are pixel centres and the prompt
encoder adds the half pixel itself, so a picture spans -0.5..width - 0.5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

from wps_sam.masks import deepest_pixel, segmentation_to_mask
from wps_sam.structures import LabelKind

import numpy as np
from detectron2.structures import BoxMode

LabelType = Literal["box", "point", "mask", "as_annotated"]
PointRule = Literal["box_center", "random_pixel", "deepest_pixel"]


def label_kind(annotation: Mapping[str, Any], height: int, width: int, label_type: LabelType) -> LabelKind:
    """What of an annotation is shown to a run of WEAK_LABELS.TYPE ``label_type``; TAG if nothing says where it is.

    "box" and "point" reduce every annotation to that; "mask" takes masks, and boxes where there is no mask;
    "as_annotated" takes the most that the annotation has: mask, box, point.
    """
    if label_type == "point":
        return LabelKind.POINT
    if label_type != "box" and "segmentation" in annotation:
        return LabelKind.MASK
    if usable_box(annotation, height, width) is not None:
        return LabelKind.BOX
    return LabelKind.POINT if "point" in annotation and label_type == "as_annotated" else LabelKind.TAG


def usable_box(annotation: Mapping[str, Any], height: int, width: int) -> tuple[float, float, float, float] | None:
    """The annotation's stored box as (x0, y0, x1, y1), clipped to the picture; its mask is never looked at.

    None where nothing is left: no box, one of no width or height, or outside the picture.
    """
    if "bbox" not in annotation:
        return None
    x0, y0, x1, y1 = BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS)
    x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def part_point(
    annotation: Mapping[str, Any], height: int, width: int, rule: PointRule, seed: int
) -> tuple[float, float] | None:
    """The point (x, y) that stands for one part; None where the annotation can give none.

    Args:
        annotation: with id and one or more of point, bbox and bbox_mode, segmentation. A point that somebody has set is
            taken as it is. A part without a usable mask gets the centre of its box: it must not become a negative
            example.
        height, width: of the picture, in pixels.
        rule: "box_center", the WPS-SAM authors' (it may lie off the part); "random_pixel" of the mask;
            "deepest_pixel" of the mask: the one farthest from its border, where the picture's border counts.
        seed: of "random_pixel". Seed and annotation id alone decide, so that neither the order of the
            data nor the number of workers matters.

    Raises:
        ValueError: names the annotation, whose run-length encoding is malformed.
    """
    if "point" in annotation:
        x, y = annotation["point"]
        return x, y
    if rule != "box_center" and "segmentation" in annotation:
        mask = part_mask(annotation, height, width)
        if mask.any():
            if rule == "random_pixel":
                return _random_pixel(mask, seed, annotation["id"])
            x, y = deepest_pixel(mask)
            return float(x), float(y)
    box = usable_box(annotation, height, width)
    if box is None:
        return None
    x0, y0, x1, y1 = box
    return (x0 + x1) / 2 - 0.5, (y0 + y1) / 2 - 0.5


def part_mask(annotation: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """bool [height, width]: the annotation's mask; ValueError names the annotation whose encoding is malformed."""
    try:
        return segmentation_to_mask(annotation["segmentation"], height, width)
    except ValueError as error:
        raise ValueError(f"annotation {annotation['id']}: {error}") from error


def _random_pixel(mask: np.ndarray, seed: int, annotation_id: int | str) -> tuple[float, float]:
    pixels = np.flatnonzero(mask)
    if isinstance(annotation_id, str):
        annotation_id = int.from_bytes(hashlib.sha256(annotation_id.encode()).digest()[:8], "little")
    # SeedSequence takes no negative numbers, which some tools give as ids.
    rng = np.random.default_rng([seed, annotation_id % 2**64])
    y, x = divmod(int(pixels[rng.integers(len(pixels))]), mask.shape[1])
    return float(x), float(y)
