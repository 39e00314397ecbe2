"""Axis-aligned boxes in continuous pixel coordinates."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum, unique
from typing import Any

import numpy as np
import torch


@unique
class BoxMode(IntEnum):
    """How four numbers (five, with an angle) describe a box; the values are Detectron2's, stored in files."""

    XYXY_ABS = 0
    XYWH_ABS = 1
    XYXY_REL = 2
    XYWH_REL = 3
    XYWHA_ABS = 4

    @staticmethod
    def convert(box: Any, from_mode: BoxMode, to_mode: BoxMode) -> Any:
        """Converts one box (list, tuple) or many (array or tensor [N, 4]); the type stays.

        Raises:
            NotImplementedError: other than between corner and width-height form, both absolute.
        """
        if from_mode == to_mode:
            return box
        if {from_mode, to_mode} != {BoxMode.XYXY_ABS, BoxMode.XYWH_ABS}:
            raise NotImplementedError(f"no conversion from {from_mode!r} to {to_mode!r}")
        if isinstance(box, (list, tuple)) and len(box) != 4:
            raise ValueError(f"expected 4 numbers for a box, got {len(box)}")
        array = torch.as_tensor(box)
        corner, other = array[..., :2], array[..., 2:]
        sign = 1 if from_mode == BoxMode.XYWH_ABS else -1
        array = torch.cat([corner, other + sign * corner], dim=-1)
        if isinstance(box, (list, tuple)):
            return type(box)(array.tolist())
        return array.numpy() if isinstance(box, np.ndarray) else array


class Boxes:
    """Boxes of one image: ``tensor`` float32 [N, 4], each (x0, y0, x1, y1), in pixels."""

    def __init__(self, tensor: Any) -> None:
        tensor = torch.as_tensor(tensor, dtype=torch.float32)
        if tensor.numel() == 0:
            # torch.zeros(0) and [] have no second axis to check.
            tensor = tensor.reshape(-1, 4)
        if tensor.dim() != 2 or tensor.size(-1) != 4:
            raise ValueError(f"expected boxes of shape [N, 4], got {tuple(tensor.shape)}")
        self.tensor = tensor

    def clone(self) -> Boxes:
        """A deep copy."""
        return Boxes(self.tensor.clone())

    def to(self, device: Any) -> Boxes:
        """The boxes on another device."""
        return Boxes(self.tensor.to(device=device))

    def area(self) -> torch.Tensor:
        """Areas, float [N]."""
        return (self.tensor[:, 2:] - self.tensor[:, :2]).prod(dim=1)

    def clip(self, box_size: tuple[int, int]) -> None:
        """Cuts, in place, to an image of (height, width)."""
        if not torch.isfinite(self.tensor).all():
            raise AssertionError("box tensor contains infinite or NaN")
        limit = self.tensor.new_tensor([box_size[1], box_size[0]] * 2)
        self.tensor = torch.minimum(self.tensor.clamp(min=0), limit)

    def nonempty(self, threshold: float = 0.0) -> torch.Tensor:
        """Bool [N]: both sides are longer than ``threshold``."""
        return (self.tensor[:, 2:] - self.tensor[:, :2] > threshold).all(dim=1)

    def get_centers(self) -> torch.Tensor:
        """Centres (x, y), float [N, 2]."""
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiplies, in place, x by ``scale_x`` and y by ``scale_y``."""
        self.tensor[:, 0::2] *= scale_x
        self.tensor[:, 1::2] *= scale_y

    @staticmethod
    def cat(boxes_list: list[Boxes]) -> Boxes:
        """All boxes of the list, in order."""
        return Boxes(torch.cat([boxes.tensor for boxes in boxes_list]) if boxes_list else torch.empty(0))

    @property
    def device(self) -> torch.device:
        """Where the tensor is."""
        return self.tensor.device

    def __getitem__(self, item: Any) -> Boxes:
        rows = self.tensor[item]
        return Boxes(rows.view(1, -1) if isinstance(item, int) else rows)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield from self.tensor

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """Intersection over union of all pairs, float [N, M]; 0 where they do not meet."""
    a, b = boxes1.tensor[:, None], boxes2.tensor[None]
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    intersection = sides.prod(dim=-1)
    union = boxes1.area()[:, None] + boxes2.area() - intersection
    # Two empty boxes would give 0/0.
    return torch.where(intersection > 0, intersection / union, intersection.new_zeros(1))
