"""The loss of a dense head, which says what each cell of a picture is, beside what there is in it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..structures import UNKNOWN, PartTargets


def part_map_loss(logits: Tensor, targets: Sequence[PartTargets], balance: float = 0.0) -> Tensor:
    """Cross-entropy of the cells of logits [B, C+1, h, w] against part maps, at a quarter of their resolution.

    Pixels that are UNKNOWN say nothing. A batch without any known pixel counts as 0.

    Args:
        logits: background last.
        targets: with ``part_map`` int64 [S, S] each.
        balance: 0: every pixel of the batch counts alike; 1: every class that occurs in it; between them, the n pixels
            of a class together count n^(1 - balance).
    """
    maps = torch.stack([target.part_map for target in targets if target.part_map is not None])[:, 2::4, 2::4]
    fine = F.interpolate(logits.float(), maps.shape[-2:], mode="bilinear", align_corners=False)
    known = maps != UNKNOWN
    if not known.any():
        return logits.sum() * 0
    labels = maps[known]
    # One pixel at least: classes that do not occur have no weight to speak of.
    count = labels.bincount(minlength=logits.shape[1]).clamp(min=1).float()
    return F.cross_entropy(fine.movedim(1, -1)[known], labels, count**-balance)
