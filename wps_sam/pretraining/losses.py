"""SAM's training loss (Kirillov et al., ICCV 2023, appendix A)."""

from __future__ import annotations

import math
from typing import NamedTuple

from wps_sam.mask_losses import dice_loss, focal_loss

import torch
import torch.nn.functional as F
from torch import Tensor


class PromptLosses(NamedTuple):
    """Per prompt, float32 [P]: ``loss``; of the single-mask output ``focal``, ``dice`` and true ``iou``, zeros where it
    does not learn; ``best_iou`` of the three ambiguous masks, zeros where those do not learn."""

    loss: Tensor
    focal: Tensor
    dice: Tensor
    iou: Tensor
    best_iou: Tensor


def prompt_losses(
    mask_logits: Tensor, predicted_iou: Tensor, targets: Tensor, ambiguous: Tensor, is_part: Tensor
) -> PromptLosses:
    """20 focal + dice on masks, squared error on predicted IoU.

    A prompt that says what it means trains the single-mask output. A single point, which does not, trains the best of
    the three ambiguous masks and, if a part was meant, the single-mask output too: WPS-SAM asks that output for points
    as well as boxes, and wants parts from it.

    Args:
        mask_logits: [P, 4, E, E].
        predicted_iou: [P, 4].
        targets: float32 [P, L, L], the covered share of each cell.
        ambiguous: bool [P], prompts of a single point.
        is_part: bool [P].
    """
    # Only the outputs that learn are brought to the loss's resolution: it costs more than the decoder otherwise.
    learns = torch.cat([(~ambiguous | is_part)[:, None], ambiguous[:, None].expand(-1, predicted_iou.shape[1] - 1)], 1)
    side = targets.shape[-1]
    logits = mask_logits[learns][:, None].float()
    if logits.shape[-1] != side:
        logits = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
    logits = logits[:, 0]
    targets = targets[learns.nonzero()[:, 0]]

    def table(values: Tensor, fill: float) -> Tensor:
        full = values.new_full(learns.shape, fill)
        full[learns] = values
        return full

    focal, dice = focal_loss(logits, targets), dice_loss(logits, targets)
    with torch.no_grad():
        predicted, true = logits > 0, targets > 0.5
        iou = (predicted & true).sum((-2, -1)) / (predicted | true).sum((-2, -1)).clamp(min=1)
    total = table(20 * focal + dice + (predicted_iou[learns].float() - iou) ** 2, math.inf)
    single = learns[:, 0]
    # Both outputs of a point count: their sum is what its prompt costs.
    loss = torch.where(single, total[:, 0], 0) + torch.where(ambiguous, total[:, 1:].min(dim=1).values, 0)
    every_iou = table(iou, 0.0)
    return PromptLosses(
        loss,
        table(focal.detach(), 0.0)[:, 0],
        table(dice.detach(), 0.0)[:, 0],
        every_iou[:, 0],
        every_iou[:, 1:].max(dim=1).values,
    )
