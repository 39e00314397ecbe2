"""Masks as bitmaps and as polygons."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch

from .boxes import Boxes


def polygons_to_bitmask(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Draws polygons [x0, y0, x1, y1, ...] as one mask, bool [height, width]."""
    if len(polygons) == 0:
        return np.zeros((height, width), dtype=bool)
    rles = mask_util.frPyObjects([np.asarray(polygon, dtype=np.float64) for polygon in polygons], height, width)
    return mask_util.decode(mask_util.merge(rles)).astype(bool)


class BitMasks:
    """Masks of N objects: ``tensor`` bool [N, H, W]."""

    def __init__(self, tensor: torch.Tensor | np.ndarray) -> None:
        tensor = torch.as_tensor(tensor).to(torch.bool)
        if tensor.dim() != 3:
            raise ValueError(f"expected masks of shape [N, H, W], got {tuple(tensor.shape)}")
        self.image_size = tensor.shape[1:]
        self.tensor = tensor

    def to(self, *args: Any, **kwargs: Any) -> BitMasks:
        """The masks on another device."""
        return BitMasks(self.tensor.to(*args, **kwargs))

    @property
    def device(self) -> torch.device:
        """Where the tensor is."""
        return self.tensor.device

    def __getitem__(self, item: Any) -> BitMasks:
        masks = self.tensor[item]
        return BitMasks(masks[None] if isinstance(item, int) else masks)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield from self.tensor

    def nonempty(self) -> torch.Tensor:
        """Bool [N]: any pixel is set."""
        return self.tensor.flatten(1).any(dim=1)

    @staticmethod
    def from_polygon_masks(polygon_masks: PolygonMasks | list[list[np.ndarray]], height: int, width: int) -> BitMasks:
        """Draws the polygons of each object."""
        masks = [polygons_to_bitmask(of_one, height, width) for of_one in polygon_masks]
        return BitMasks(np.stack(masks) if masks else np.zeros((0, height, width), dtype=bool))

    def get_bounding_boxes(self) -> Boxes:
        """Boxes around the set pixels, right and bottom exclusive; zeros for an empty mask."""
        boxes = torch.zeros(len(self), 4)
        for box, mask in zip(boxes, self.tensor):
            if mask.any():
                y, x = mask.nonzero(as_tuple=True)
                box[:] = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1])
        return Boxes(boxes)

    @staticmethod
    def cat(bitmasks_list: list[BitMasks]) -> BitMasks:
        """All masks of the list, in order."""
        return BitMasks(torch.cat([masks.tensor for masks in bitmasks_list]))


class PolygonMasks:
    """Masks of N objects, each a list of polygons [x0, y0, x1, y1, ...] (float64, at least 3 points)."""

    def __init__(self, polygons: list[list[Any]]) -> None:
        self.polygons = [[np.asarray(p, dtype=np.float64).reshape(-1) for p in of_one] for of_one in polygons]
        for i, of_one in enumerate(self.polygons):
            if any(len(p) % 2 != 0 or len(p) < 6 for p in of_one):
                raise ValueError(f"object {i}: a polygon needs an even count of at least 6 numbers")

    def nonempty(self) -> torch.Tensor:
        """Bool [N]: has a polygon."""
        return torch.tensor([len(of_one) > 0 for of_one in self.polygons], dtype=torch.bool)

    def get_bounding_boxes(self) -> Boxes:
        """Boxes around all points of each object; zeros where there are none."""
        points = [np.concatenate(of_one).reshape(-1, 2) if of_one else np.zeros((1, 2)) for of_one in self.polygons]
        return Boxes(np.array([[*xy.min(axis=0), *xy.max(axis=0)] for xy in points]))

    def __getitem__(self, item: int | slice | torch.Tensor | np.ndarray) -> PolygonMasks:
        chosen = np.arange(len(self))[np.asarray(item) if isinstance(item, torch.Tensor) else item]
        return PolygonMasks([self.polygons[i] for i in np.atleast_1d(chosen)])

    def __len__(self) -> int:
        return len(self.polygons)

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        return iter(self.polygons)
