"""A large picture as a whole and in tiles: the whole speaks for what is large, tiles for what is small.

All rectangles are (y0, x0, y1, x1) in pixels, y1 and x1 exclusive.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import cv2
import numpy as np

from ..masks import mask_to_box
from .overlap import SAME_PART_IOU, different_parts
from .parts import PartPrediction

# Tiles reach so far into their neighbours, as a share of their sides: a part that is smaller is whole in one of them.
OVERLAP = 0.25
# What covers a larger share of a tile is large: of it the whole picture shows more.
SMALL_SHARE = 0.25

Rectangle = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Part:
    """A part that tiles found: its mask bool [h, w] of the whole picture, and what those tiles could see of it."""

    class_id: int
    score: float
    mask: np.ndarray
    seen: np.ndarray

    @property
    def is_cut(self) -> bool:
        """Whether it reaches the end of what was seen, and not that of the picture."""
        around = cv2.dilate(self.mask.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))
        return bool((around.astype(bool) & ~self.seen).any())


def tile_rectangles(height: int, width: int, rows: int, columns: int) -> list[Rectangle]:
    """Equal tiles that cover H x W pixels and overlap by OVERLAP of their sides, row by row."""
    return [(y0, x0, y1, x1) for (y0, y1), (x0, x1) in product(_intervals(height, rows), _intervals(width, columns))]


def _intervals(length: int, count: int) -> Iterator[tuple[int, int]]:
    side = length / (count - (count - 1) * OVERLAP)
    for number in range(count):
        start = number * side * (1 - OVERLAP)
        first = min(length - 1, round(start))
        yield first, min(length, max(first + 1, round(start + side)))


def merge_tiles(whole: PartPrediction, tiles: list[tuple[Rectangle, PartPrediction]]) -> PartPrediction:
    """The parts of a picture by what was found in it as a whole and in its tiles.

    Parts of one name of two tiles that agree where both tiles see (a mask IoU above SAME_PART_IOU) are one. One that a
    tile's border cuts off and no neighbour confirms goes, and so does one that is large, or that is a piece of a large
    part of the same name in the whole picture. The others stand in the place of the parts of their name in the whole
    picture that they mostly cover.

    Args:
        whole: of the whole picture, h x w its coarse size.
        tiles: where each lies in h x w, and what was found in it, its coarse size that of the rectangle.
    """
    height, width = whole.coarse_map.shape
    found: list[_Part] = []
    for rectangle, tile in tiles:
        found = _joined(found, rectangle, list(_of_tile(rectangle, tile, height, width)))
    # Tiles are equal but for rounding.
    (y0, x0, y1, x1), _ = tiles[0]
    largest = SMALL_SHARE * (y1 - y0) * (x1 - x0)
    small = [part for part in found if part.mask.sum() <= largest and not part.is_cut]

    masks, classes, scores = list(whole.coarse_masks), whole.classes.tolist(), whole.scores.tolist()
    part_map = whole.coarse_map.copy()
    # Largest first, so that a small part on a large one stays visible.
    for part in sorted(small, key=lambda part: -int(part.mask.sum())):
        same = [k for k in range(len(masks)) if classes[k] == part.class_id]
        area = part.mask.sum()
        if any(masks[k].sum() > largest and (masks[k] & part.mask).sum() > area / 2 for k in same):
            continue
        for k in reversed([k for k in same if _iou(masks[k], part.mask) > SAME_PART_IOU]):
            part_map[masks[k] & ~part.mask & (part_map == part.class_id)] = len(whole.class_names)
            del masks[k], classes[k], scores[k]
        masks.append(part.mask)
        classes.append(part.class_id)
        scores.append(part.score)
        part_map[part.mask] = part.class_id

    order = np.argsort(-np.array(scores, np.float32), kind="stable")
    stack = np.stack([masks[k] for k in order]) if masks else whole.coarse_masks
    kinds = np.array(classes, np.int64)[order]
    kept = different_parts(stack, kinds)
    return replace(
        whole,
        classes=kinds[kept],
        scores=np.array(scores, np.float32)[order][kept],
        coarse_masks=stack[kept],
        coarse_boxes=np.array([mask_to_box(mask) for mask in stack[kept]], np.float32).reshape(-1, 4),
        coarse_map=part_map,
    )


def _of_tile(rectangle: Rectangle, tile: PartPrediction, height: int, width: int) -> Iterator[_Part]:
    inside = _slices(rectangle)
    seen = np.zeros((height, width), bool)
    seen[inside] = True
    for class_id, score, small in zip(tile.classes, tile.scores, tile.coarse_masks):
        mask = np.zeros((height, width), bool)
        mask[inside] = small
        yield _Part(int(class_id), float(score), mask, seen)


def _joined(found: list[_Part], rectangle: Rectangle, of_tile: list[_Part]) -> list[_Part]:
    """The parts found before, and those of one more tile; of those that agree, one."""
    inside = _slices(rectangle)
    result = []
    for part in of_tile:
        mask = part.mask[inside]
        for other in [other for other in found if other.class_id == part.class_id and other.mask[inside].any()]:
            both = other.seen[inside]
            if _iou(mask & both, other.mask[inside] & both) > SAME_PART_IOU:
                found = [one for one in found if one is not other]
                score = max(part.score, other.score)
                part = _Part(part.class_id, score, part.mask | other.mask, part.seen | other.seen)
        result.append(part)
    return found + result


def _slices(rectangle: Rectangle) -> tuple[slice, slice]:
    y0, x0, y1, x1 = rectangle
    return slice(y0, y1), slice(x0, x1)


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    union = (one | other).sum()
    return float((one & other).sum() / union) if union else 0.0
