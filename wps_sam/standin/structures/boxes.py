"""Axis-aligned boxes in continuous pixel coordinates."""

from __future__ import annotations

from enum import IntEnum, unique
from typing import Any, Iterator, Union

import numpy as np
import torch

__all__ = ["BoxMode", "Boxes", "matched_pairwise_iou", "pairwise_intersection", "pairwise_ioa", "pairwise_iou"]

_RawBoxes = Union[list, tuple, torch.Tensor, np.ndarray]


@unique
class BoxMode(IntEnum):
    """How four numbers (five, with an angle) describe a box; the values are Detectron2's, stored in files."""

    XYXY_ABS = 0
    XYWH_ABS = 1
    XYXY_REL = 2
    XYWH_REL = 3
    XYWHA_ABS = 4

    @staticmethod
    def convert(box: _RawBoxes, from_mode: BoxMode, to_mode: BoxMode) -> _RawBoxes:
        """Converts one box (list, tuple) or many (array or tensor [N, 4]); the type stays.

        Raises:
            NotImplementedError: other than between corner and width-height form, both absolute.
        """
        if from_mode == to_mode:
            return box
        if {from_mode, to_mode} != {BoxMode.XYXY_ABS, BoxMode.XYWH_ABS}:
            raise NotImplementedError(f"no conversion from {from_mode!r} to {to_mode!r}")
        if isinstance(box, (list, tuple)):
            if len(box) != 4:
                raise ValueError(f"expected 4 numbers for a box, got {len(box)}")
            array = torch.tensor(box)
        else:
            array = torch.from_numpy(box) if isinstance(box, np.ndarray) else box
        sign = 1 if from_mode == BoxMode.XYWH_ABS else -1
        corner, other = array[..., :2], array[..., 2:]
        array = torch.cat([corner, other + sign * corner], dim=-1)
        if isinstance(box, (list, tuple)):
            return type(box)(array.tolist())
        return array.numpy() if isinstance(box, np.ndarray) else array


class Boxes:
    """Boxes of one image: ``tensor`` float32 [N, 4], each (x0, y0, x1, y1), in pixels."""

    def __init__(self, tensor: Any) -> None:
        if not isinstance(tensor, torch.Tensor):
            tensor = torch.as_tensor(tensor, dtype=torch.float32, device=torch.device("cpu"))
        tensor = tensor.to(torch.float32)
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
        sides = self.tensor[:, 2:] - self.tensor[:, :2]
        return sides[:, 0] * sides[:, 1]

    def clip(self, box_size: tuple[int, int]) -> None:
        """Cuts, in place, to an image of (height, width)."""
        if not torch.isfinite(self.tensor).all():
            raise AssertionError("box tensor contains infinite or NaN")
        height, width = box_size
        limit = self.tensor.new_tensor([width, height, width, height])
        self.tensor = torch.minimum(self.tensor.clamp(min=0), limit)

    def nonempty(self, threshold: float = 0.0) -> torch.Tensor:
        """Bool [N]: both sides are longer than ``threshold``."""
        return (self.tensor[:, 2:] - self.tensor[:, :2] > threshold).all(dim=1)

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> torch.Tensor:
        """Bool [N]: within an image of (height, width), grown by ``boundary_threshold``."""
        height, width = box_size
        high = self.tensor.new_tensor([width, height]) + boundary_threshold
        low_in = (self.tensor[:, :2] >= -boundary_threshold).all(dim=1)
        return low_in & (self.tensor[:, 2:] < high).all(dim=1)

    def get_centers(self) -> torch.Tensor:
        """Centres (x, y), float [N, 2]."""
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiplies, in place, x by ``scale_x`` and y by ``scale_y``."""
        self.tensor[:, 0::2] *= scale_x
        self.tensor[:, 1::2] *= scale_y

    @classmethod
    def cat(cls, boxes_list: list[Boxes]) -> Boxes:
        """All boxes of the list, in order."""
        if not boxes_list:
            return cls(torch.empty(0))
        return cls(torch.cat([boxes.tensor for boxes in boxes_list], dim=0))

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


def pairwise_intersection(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """Areas of intersection, float [N, M]."""
    a, b = boxes1.tensor[:, None], boxes2.tensor[None]
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    return sides.prod(dim=-1)


def _ratio(part: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    # Two empty boxes would give 0/0.
    return torch.where(part > 0, part / whole, part.new_zeros(1))


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """Intersection over union of all pairs, float [N, M]; 0 where they do not meet."""
    intersection = pairwise_intersection(boxes1, boxes2)
    return _ratio(intersection, boxes1.area()[:, None] + boxes2.area() - intersection)


def pairwise_ioa(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """Intersection over the area of ``boxes2``, float [N, M]."""
    return _ratio(pairwise_intersection(boxes1, boxes2), boxes2.area())


def matched_pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """Intersection over union of the i-th with the i-th, float [N]."""
    if len(boxes1) != len(boxes2):
        raise ValueError(f"expected two lists of one length, got {len(boxes1)} and {len(boxes2)}")
    low = torch.maximum(boxes1.tensor[:, :2], boxes2.tensor[:, :2])
    high = torch.minimum(boxes1.tensor[:, 2:], boxes2.tensor[:, 2:])
    intersection = (high - low).clamp(min=0).prod(dim=1)
    return intersection / (boxes1.area() + boxes2.area() - intersection)
