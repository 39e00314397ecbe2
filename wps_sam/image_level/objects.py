"""Where in a picture the object is whose parts are looked for: a crop, in which a part covers more patches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from torch import Tensor

from ..data.sources.coco_json import CocoAnnotation, CocoImage, read_coco
from ..masks import segmentation_to_mask
from .cams import enlarge

# Added on each side of the box, as a share of its sides: seeds of an object rarely reach all of it.
MARGIN = 0.1


@dataclass(frozen=True)
class Region:
    """A crop of a picture: ``box`` xyxy in whole pixels, right and bottom not included; ``area``: pixels of objects."""

    box: tuple[int, int, int, int]
    area: int

    def cut(self, pixels: np.ndarray) -> np.ndarray:
        """[H, W, ...] of the picture to [h, w, ...] of the crop."""
        x0, y0, x1, y1 = self.box
        return np.ascontiguousarray(pixels[y0:y1, x0:x1])

    def paste(self, pixels: np.ndarray, size: Sequence[int]) -> np.ndarray:
        """[h, w] of the crop to [H, W] of the picture, 0 beside it."""
        x0, y0, x1, y1 = self.box
        whole = np.zeros(size, pixels.dtype)
        whole[y0:y1, x0:x1] = pixels
        return whole

    def enlarge(self, maps: Tensor, size: Sequence[int]) -> Tensor:
        """Maps [T, h, w] of the crop, of any resolution, to [T, H, W] of the picture, 0 beside it."""
        x0, y0, x1, y1 = self.box
        whole = maps.new_zeros(len(maps), *size)
        if len(maps):
            whole[:, y0:y1, x0:x1] = enlarge(maps, y1 - y0, x1 - x0)
        return whole


def whole(height: int, width: int) -> Region:
    """All of a picture."""
    return Region((0, 0, width, height), height * width)


def read_objects(path: str, files: Sequence[str]) -> dict[str, Region]:
    """Of every picture that shows an object, by its file, the box around all of them with :data:`MARGIN`.

    Args:
        path: a COCO file of objects, such as instances.json of a run by their names.
        files: of the pictures, which end with the file names in it.

    Raises:
        ValueError: the file can't be read, or none of its pictures is among these.
    """
    coco = read_coco(path)
    shown: dict[Any, list[CocoAnnotation]] = defaultdict(list)
    for annotation in coco.annotations:
        if annotation.bbox is not None and not annotation.iscrowd:
            shown[annotation.image_id].append(annotation)
    by_name: dict[str, list[CocoImage]] = defaultdict(list)
    for image in coco.images:
        by_name[PurePosixPath(image.file_name).name].append(image)
    found: dict[str, Region] = {}
    known = 0
    for file in files:
        for image in by_name.get(Path(file).name, ()):
            if f"/{Path(file).as_posix()}".endswith(f"/{image.file_name}"):
                known += 1
                if shown[image.id]:
                    found[file] = _around(image, shown[image.id])
    if files and not known:
        raise ValueError(f"objects: {path}: none of the run's pictures is in it, such as {files[0]}")
    return found


def _around(image: CocoImage, objects: Sequence[CocoAnnotation]) -> Region:
    boxes = np.array([one.bbox for one in objects])
    (x0, y0), (x1, y1) = boxes[:, :2].min(0), (boxes[:, :2] + boxes[:, 2:]).max(0)
    dx, dy = MARGIN * (x1 - x0), MARGIN * (y1 - y0)
    left, top = (max(0, int(np.floor(value))) for value in (x0 - dx, y0 - dy))
    right, bottom = min(image.width, int(np.ceil(x1 + dx))), min(image.height, int(np.ceil(y1 + dy)))
    if left >= right or top >= bottom:
        raise ValueError(f"{image.where}: the boxes of its annotations lie outside of the picture")
    covered = np.zeros((image.height, image.width), bool)
    for one in objects:
        x, y, w, h = one.bbox or (0, 0, 0, 0)
        if one.segmentation:
            covered |= segmentation_to_mask(one.segmentation, image.height, image.width)
        else:
            covered[max(0, round(y)) : round(y + h), max(0, round(x)) : round(x + w)] = True
    return Region((left, top, right, bottom), int(covered.sum()))
