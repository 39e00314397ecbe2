"""Full annotation to weak label: the box or the point that box or point training may see.

Everything is in pixels of the stored pixel grid, before any augmentation. Box corners are continuous
(x, y, x + w, y + h), so a picture spans 0..width. Points follow SAM, where integers are pixel centres and the prompt
encoder adds the half pixel itself, so a picture spans -0.5..width - 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from wps_sam.masks import deepest_pixel, segmentation_to_mask

import numpy as np
from detectron2.structures import BoxMode

LabelType = Literal["box", "point"]
PointRule = Literal["box_center", "random_pixel", "deepest_pixel"]


def usable_box(
    annotation: Mapping[str, Any], height: int, width: int
) -> tuple[float, float, float, float] | None:
    """The annotation's stored box as (x0, y0, x1, y1), clipped to the picture; its mask is never looked at.

    None where nothing is left: a box of no width or height, or outside the picture.
    """
    x0, y0, x1, y1 = BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS)
    x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def part_point(
    annotation: Mapping[str, Any], height: int, width: int, rule: PointRule, seed: int
) -> tuple[float, float] | None:
    """The point (x, y) that stands for one part; None where the annotation can give none.

    Args:
        annotation: with id, bbox, bbox_mode and, for the last two rules, segmentation. A part without a
            usable mask gets the centre of its box: it must not become a negative example.
        height, width: of the picture, in pixels.
        rule: "box_center", the WPS-SAM authors' (it may lie off the part); "random_pixel" of the mask;
            "deepest_pixel" of the mask: the one farthest from its border, where the picture's border counts.
        seed: of "random_pixel". Seed and annotation id alone decide, so that neither the order of the
            data nor the number of workers matters.

    Raises:
        ValueError: names the annotation, whose run-length encoding is malformed.
    """
    if rule != "box_center" and "segmentation" in annotation:
        try:
            mask = segmentation_to_mask(annotation["segmentation"], height, width)
        except ValueError as error:
            raise ValueError(f"annotation {annotation['id']}: {error}") from error
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


def _random_pixel(mask: np.ndarray, seed: int, annotation_id: int) -> tuple[float, float]:
    pixels = np.flatnonzero(mask)
    # SeedSequence takes no negative numbers, which some tools give as ids.
    rng = np.random.default_rng([seed, annotation_id % 2**64])
    y, x = divmod(int(pixels[rng.integers(len(pixels))]), mask.shape[1])
    return float(x), float(y)
