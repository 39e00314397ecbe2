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
    rles = mask_util.frPyObjects(
        [np.asarray(polygon, dtype=np.float64) for polygon in polygons], height, width
    )
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

    def __repr__(self) -> str:
        return f"BitMasks(num_instances={len(self)})"

    def nonempty(self) -> torch.Tensor:
        """Bool [N]: any pixel is set."""
        return self.tensor.flatten(1).any(dim=1)

    @staticmethod
    def from_polygon_masks(
        polygon_masks: PolygonMasks | list[list[np.ndarray]], height: int, width: int
    ) -> BitMasks:
        """Draws the polygons of each object."""
        polygons = polygon_masks.polygons if isinstance(polygon_masks, PolygonMasks) else polygon_masks
        masks = [polygons_to_bitmask(of_one, height, width) for of_one in polygons]
        return BitMasks(np.stack(masks) if masks else np.zeros((0, height, width), dtype=bool))

    def get_bounding_boxes(self) -> Boxes:
        """Boxes around the set pixels, right and bottom exclusive; zeros for an empty mask."""
        boxes = torch.zeros(len(self), 4)
        columns, rows = self.tensor.any(dim=1), self.tensor.any(dim=2)
        for i in range(len(self)):
            x, y = columns[i].nonzero().flatten(), rows[i].nonzero().flatten()
            if len(x) and len(y):
                boxes[i] = torch.tensor([int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1])
        return Boxes(boxes)

    @staticmethod
    def cat(bitmasks_list: list[BitMasks]) -> BitMasks:
        """All masks of the list, in order."""
        return BitMasks(torch.cat([masks.tensor for masks in bitmasks_list], dim=0))


class PolygonMasks:
    """Masks of N objects, each a list of polygons [x0, y0, x1, y1, ...] (float64, at least 3 points)."""

    def __init__(self, polygons: list[list[Any]]) -> None:
        self.polygons: list[list[np.ndarray]] = []
        for i, of_one in enumerate(polygons):
            arrays = [np.asarray(polygon, dtype=np.float64).reshape(-1) for polygon in of_one]
            for array in arrays:
                if len(array) % 2 != 0 or len(array) < 6:
                    raise ValueError(
                        f"object {i}: a polygon needs an even count of at least 6 numbers, got {len(array)}"
                    )
            self.polygons.append(arrays)

    def to(self, *args: Any, **kwargs: Any) -> PolygonMasks:
        """Polygons stay on the CPU."""
        return self

    @property
    def device(self) -> torch.device:
        """Always the CPU."""
        return torch.device("cpu")

    def get_bounding_boxes(self) -> Boxes:
        """Boxes around all points of each object."""
        boxes = torch.zeros(len(self), 4)
        for i, of_one in enumerate(self.polygons):
            if of_one:
                points = np.concatenate(of_one).reshape(-1, 2)
                boxes[i] = torch.from_numpy(np.concatenate([points.min(axis=0), points.max(axis=0)]))
        return Boxes(boxes)

    def nonempty(self) -> torch.Tensor:
        """Bool [N]: has a polygon."""
        return torch.tensor([len(of_one) > 0 for of_one in self.polygons], dtype=torch.bool)

    def __getitem__(self, item: Any) -> PolygonMasks:
        if isinstance(item, int):
            return PolygonMasks([self.polygons[item]])
        if isinstance(item, slice):
            return PolygonMasks(self.polygons[item])
        index = torch.as_tensor(item)
        if index.dtype == torch.bool:
            index = index.nonzero().flatten()
        return PolygonMasks([self.polygons[i] for i in index.tolist()])

    def __len__(self) -> int:
        return len(self.polygons)

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        return iter(self.polygons)

    def __repr__(self) -> str:
        return f"PolygonMasks(num_instances={len(self)})"

    @staticmethod
    def cat(polymasks_list: list[PolygonMasks]) -> PolygonMasks:
        """All objects of the list, in order."""
        return PolygonMasks([of_one for masks in polymasks_list for of_one in masks.polygons])
