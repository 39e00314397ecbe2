"""Non-maximum suppression."""

import torch
from torchvision.ops import boxes as box_ops


def batched_nms(
    boxes: torch.Tensor, scores: torch.Tensor, idxs: torch.Tensor, iou_threshold: float
) -> torch.Tensor:
    """Suppresses within each class only.

    ``boxes`` [N, 4] xyxy, ``scores`` [N], ``idxs`` int [N] classes. Returns the kept indices, surest first.
    """
    # float: half-precision boxes, shifted apart by class, would collide.
    return box_ops.batched_nms(boxes.float(), scores, idxs, iou_threshold)
