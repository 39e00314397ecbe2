"""The few layer-level names in use."""

from dataclasses import dataclass

import torch
from torchvision.ops import boxes as box_ops


@dataclass
class ShapeSpec:
    """Channels, size in pixels, and stride to the image of a feature map; None where unknown."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None


def batched_nms(boxes: torch.Tensor, scores: torch.Tensor, idxs: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Non-maximum suppression within each class: boxes [N, 4] xyxy, scores [N], classes int [N].

    Returns the kept indices, surest first.
    """
    # float: half-precision boxes, shifted apart by class, would collide.
    return box_ops.batched_nms(boxes.float(), scores, idxs, iou_threshold)
