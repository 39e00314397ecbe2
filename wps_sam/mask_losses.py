"""SAM's losses between mask logits and masks (Kirillov et al., ICCV 2023, appendix A)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017), mean over the last two axes. ``targets`` may lie between 0 and 1.

    ``alpha`` weighs the foreground against 1 - alpha; [..., H, W] to [...].
    """
    probability = logits.sigmoid()
    log_foreground = F.logsigmoid(logits)
    # log(1 - sigmoid(x)) = log(sigmoid(x)) - x saves the costliest function a second time.
    foreground = alpha * targets * (1 - probability) ** gamma * log_foreground
    background = (1 - alpha) * (1 - targets) * probability**gamma * (log_foreground - logits)
    return -(foreground + background).mean((-2, -1))


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - (2 |p t| + 1) / (|p| + |t| + 1) (Milletari et al., 2016; smoothed by one pixel); [..., H, W] to [...]."""
    probability = logits.sigmoid()
    overlap = (probability * targets).sum((-2, -1))
    return 1 - (2 * overlap + 1) / (probability.sum((-2, -1)) + targets.sum((-2, -1)) + 1)
