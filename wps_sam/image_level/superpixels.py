"""Quasi-superpixels: SAM's masks of a grid of points, whole things before their parts, or the other way round.

segment_anything's automatic mask generator with what FMA-WSSS (arXiv 2312.03585) changed: every mask keeps a level,
thresholds and suppression depend on it, and small pieces survive only where no larger one is. Without that, the masks
are the generator's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from segment_anything.utils import amg
from torch import Tensor
from torchvision.ops import batched_nms

from ..encoders import PromptableEncoder
from ..masks import mask_to_rle
from ..prompt_evaluation import PromptedPicture
from .objects import Region

# Masks that are compared with those before them at a time: a product of millions of pixels.
MASKS_AT_ONCE = 50


@dataclass(frozen=True)
class SuperpixelSettings:
    """The generator's settings, by its own names, and what is changed. The defaults are FMA-WSSS's.

    ``levels``: what the three masks of a point are, 0 a part of a part, 1 a part, 2 a whole: "index", their order as
    the published SAMs give them; "area", the smallest first, for any SAM. ``thresholds``: "absolute" values of the
    expected IoU and of the stability, or "quantile", the shares of a crop's masks that each of them drops, for a SAM
    whose expectations are its own. ``order``: which levels come first, and lie on top; later ones fill the gaps.
    ``iou_offsets``, ``nms_offsets``: added to the expected IoU of levels, in the reverse of that order.
    ``contained``: from this share on a mask of a later level lies in one of an earlier and is dropped. ``max_area``:
    masks above this share of the picture, or of the object in it, are dropped.
    """

    points_per_side: int = 32
    pred_iou_thresh: float = 0.86
    stability_score_thresh: float = 0.92
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 1
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 2
    min_mask_region_area: int = 100
    levels: str = "index"
    thresholds: str = "absolute"
    order: tuple[int, ...] = (2, 1, 0)
    iou_offsets: tuple[float, ...] = (0.0, 0.0, 0.1)
    nms_offsets: tuple[float, ...] = (0.0, 0.0, 1.0)
    contained: float = 0.3
    max_area: float = 1.0

    def __post_init__(self) -> None:
        for name, choices in (("levels", ("index", "area")), ("thresholds", ("absolute", "quantile"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: expected one of {choices}, got {getattr(self, name)!r}")
        if sorted(self.order) != [0, 1, 2]:
            raise ValueError(f"order: expected the levels 0, 1 and 2, got {list(self.order)}")
        if self.points_per_side < 1:
            raise ValueError(f"points_per_side: expected 1 or more, got {self.points_per_side}")

    def rank(self, level: int) -> int:
        """Of a level: 2 comes first and lies on top, 0 last."""
        return 2 - self.order.index(level)


@dataclass(frozen=True, eq=False)
class Superpixel:
    """One mask: ``mask`` bool [H, W], its ``level``, the ``iou`` that SAM expects, ``stability``, the ``point`` xy it
    was asked with, and the ``crop`` xyxy it was seen in."""

    mask: np.ndarray
    level: int
    iou: float
    stability: float
    point: tuple[float, float]
    crop: tuple[int, int, int, int]

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        """Of :func:`_box_of`."""
        return _box_of(self.mask)

    def pasted(self, region: Region, size: Sequence[int]) -> Superpixel:
        """Of a crop, into the picture [H, W] that it was cut from."""
        x0, y0 = region.box[:2]
        cx0, cy0, cx1, cy1 = self.crop
        return replace(
            self,
            mask=region.paste(self.mask, size),
            point=(self.point[0] + x0, self.point[1] + y0),
            crop=(cx0 + x0, cy0 + y0, cx1 + x0, cy1 + y0),
        )

    def to_json(self) -> dict[str, Any]:
        """By the generator's names."""
        x0, y0, x1, y1 = self.box
        return {
            "segmentation": mask_to_rle(self.mask),
            "area": int(self.mask.sum()),
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "level": self.level,
            "predicted_iou": round(self.iou, 5),
            "stability_score": round(self.stability, 5),
            "point_coords": [list(self.point)],
            "crop_box": [self.crop[0], self.crop[1], self.crop[2] - self.crop[0], self.crop[3] - self.crop[1]],
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Superpixel:
        """Of :meth:`to_json`."""
        x, y, width, height = record["crop_box"]
        return cls(
            mask=coco_mask.decode(record["segmentation"]).astype(bool),
            level=record["level"],
            iou=record["predicted_iou"],
            stability=record["stability_score"],
            point=tuple(record["point_coords"][0]),
            crop=(x, y, x + width, y + height),
        )


def superpixels(
    encoder: PromptableEncoder, image: np.ndarray, settings: SuperpixelSettings, area: int | None = None
) -> list[Superpixel]:
    """The masks of a picture uint8 [H, W, 3], RGB; ``area``: pixels that ``max_area`` is a share of, None: all."""
    crops, layers = amg.generate_crop_boxes(image.shape[:2], settings.crop_n_layers, settings.crop_overlap_ratio)
    grids = amg.build_all_layer_point_grids(
        settings.points_per_side, settings.crop_n_layers, settings.crop_n_points_downscale_factor
    )
    found: list[Superpixel] = []
    for crop, layer in zip(crops, layers):
        found += _of_crop(encoder, image, crop, grids[layer], settings)
    if len(crops) > 1:
        # Those of smaller crops win.
        areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (one.crop for one in found)]
        found = _suppress(found, [1 / area for area in areas], settings.crop_nms_thresh)
    found = _without_small_regions(found, settings)
    most = settings.max_area * (image.shape[0] * image.shape[1] if area is None else area)
    return without_contained([one for one in found if one.mask.sum() <= most], settings)


def _of_crop(
    encoder: PromptableEncoder, image: np.ndarray, crop: Sequence[int], grid: np.ndarray, settings: SuperpixelSettings
) -> list[Superpixel]:
    height, width = image.shape[:2]
    x0, y0, x1, y1 = crop
    picture = PromptedPicture(encoder, np.ascontiguousarray(image[y0:y1, x0:x1]))
    points = grid * [x1 - x0, y1 - y0]
    absolute = settings.thresholds == "absolute"
    candidates = []
    for point, (logits, ious) in zip(points, picture.logits(None, points, multimask=True)):
        assert ious is not None
        for one, level, iou in zip(logits, _levels(logits, settings.levels), ious.tolist()):
            expected = iou + settings.iou_offsets[settings.rank(level)]
            if not absolute or expected > settings.pred_iou_thresh:
                candidates.append((expected, one, level, iou, point))
    bound = _bound([c[0] for c in candidates], settings.pred_iou_thresh, absolute)
    found: list[Superpixel] = []
    for expected, one, level, iou, point in candidates:
        if expected <= bound:
            continue
        # One at a time: the masks of a large photo are the largest things here.
        large = picture.enlarged(one)
        stable = _stability(large, settings.stability_score_offset)
        if absolute and stable < settings.stability_score_thresh:
            continue
        inside = (large > 0).cpu().numpy()
        if not amg.is_box_near_crop_edge(torch.tensor([_box_of(inside)]), crop, [0, 0, width, height])[0]:
            mask = np.zeros((height, width), dtype=bool)
            mask[y0:y1, x0:x1] = inside
            at = (float(point[0] + x0), float(point[1] + y0))
            found.append(Superpixel(mask, level, iou, stable, at, (x0, y0, x1, y1)))
    if not absolute:
        bound = _bound([one.stability for one in found], settings.stability_score_thresh, absolute)
        found = [one for one in found if one.stability >= bound]
    order = [one.iou + settings.nms_offsets[settings.rank(one.level)] for one in found]
    return _suppress(found, order, settings.box_nms_thresh)


def _levels(logits: Tensor, rule: str) -> list[int]:
    """The level of each of a point's masks [n, h, w]."""
    if rule == "index":
        return list(range(len(logits)))
    return (logits > 0).flatten(1).sum(1).argsort(stable=True).argsort().tolist()


def _box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """xyxy of bool [H, W] as the generator counts it, the last pixel included: a one-pixel mask is 0 wide; an empty one
    is all 0. Its own function takes a tenth of the whole stage."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return (int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])) if len(rows) else (0, 0, 0, 0)


def _bound(values: Sequence[float], threshold: float, absolute: bool) -> float:
    return threshold if absolute or not values else float(np.quantile(values, threshold))


def _stability(logits: Tensor, offset: float) -> float:
    """As the generator's; a mask that is empty even at the lower threshold is not stable."""
    return float(np.nan_to_num(amg.calculate_stability_score(logits[None], 0.0, offset)[0].item()))


def _suppress(found: Sequence[Superpixel], scores: Sequence[float], threshold: float) -> list[Superpixel]:
    """Non-maximum suppression by boxes; the highest score first."""
    if not found:
        return []
    boxes = torch.tensor([one.box for one in found], dtype=torch.float32)
    kept = batched_nms(boxes, torch.tensor(scores), torch.zeros(len(found)), threshold)
    return [found[k] for k in kept.tolist()]


def _without_small_regions(found: Sequence[Superpixel], settings: SuperpixelSettings) -> list[Superpixel]:
    """Small holes filled, small islands removed; of masks that are now alike those that did not need it win."""
    if settings.min_mask_region_area <= 0:
        return list(found)
    cleaned, scores = [], []
    for one in found:
        mask, filled = amg.remove_small_regions(one.mask, settings.min_mask_region_area, mode="holes")
        mask, removed = amg.remove_small_regions(mask, settings.min_mask_region_area, mode="islands")
        cleaned.append(replace(one, mask=mask))
        scores.append(float(not filled and not removed))
    return _suppress(cleaned, scores, max(settings.box_nms_thresh, settings.crop_nms_thresh))


def without_contained(found: Sequence[Superpixel], settings: SuperpixelSettings) -> list[Superpixel]:
    """Masks of the first level, then of later ones what does not lie in any that came before ("rocks, sand, water").

    Masks of one level may overlap as they like. Until a level has masks, the next one is the first.
    """
    kept: list[Superpixel] = []
    for rank in (2, 1, 0):
        of_level = [one for one in found if settings.rank(one.level) == rank]
        if kept and of_level:
            before = np.stack([one.mask.ravel() for one in kept]).astype(np.float32)
            later: list[Superpixel] = []
            for start in range(0, len(of_level), MASKS_AT_ONCE):
                some = of_level[start : start + MASKS_AT_ONCE]
                now = np.stack([one.mask.ravel() for one in some]).astype(np.float32)
                shares = (now @ before.T).max(1) / np.maximum(now.sum(1), 1)
                later += [one for one, share in zip(some, shares) if share < settings.contained]
            of_level = later
        kept += of_level
    return kept
