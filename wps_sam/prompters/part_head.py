"""The loss of a dense head, which says what each cell of a picture is, beside what there is in it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..structures import PADDING, UNKNOWN, PartTargets
from .losses import unplaced_tags


def part_map_loss(logits: Tensor, targets: Sequence[PartTargets], balance: float = 0.0) -> Tensor:
    """Cross-entropy of the cells of logits [B, C+1, h, w] against part maps, at a quarter of their resolution.

    Pixels that are UNKNOWN or PADDING say nothing. A batch without any known pixel counts as 0.

    Args:
        logits: background last.
        targets: with ``part_map`` int64 [S, S] each.
        balance: 0: every pixel of the batch counts alike; 1: every class that occurs in it; between them, the n pixels
            of a class together count n^(1 - balance).
    """
    maps = torch.stack([target.part_map for target in targets if target.part_map is not None])[:, 2::4, 2::4]
    fine = F.interpolate(logits.float(), maps.shape[-2:], mode="bilinear", align_corners=False)
    known = maps < PADDING
    if not known.any():
        return logits.sum() * 0
    labels = maps[known]
    # One pixel at least: classes that do not occur have no weight to speak of.
    count = labels.bincount(minlength=logits.shape[1]).clamp(min=1).float()
    return F.cross_entropy(fine.movedim(1, -1)[known], labels, count**-balance)


def tagged_map_loss(logits: Tensor, targets: Sequence[PartTargets]) -> Tensor:
    """What tags that no label places say of the cells of logits [B, C+1, h, w] which nobody knows: mean over images.

    Every such cell is one of these parts or background (partial labels, arXiv 2002.08053), and each of these parts is
    somewhere, in 3 cells by 3 (multiple-instance learning), unless it may lie beside the crop that is seen. An image
    without such tags, or without such cells, counts as 0.
    """
    losses = []
    for of_image, target in zip(logits.float(), targets):
        tags, unknown = unplaced_tags(target), _unknown_cells(target, of_image.shape[-1])
        if tags is None or unknown is None:
            losses.append(of_image.sum() * 0)
            continue
        log_p = F.log_softmax(of_image, dim=0)
        background = tags.new_tensor([len(log_p) - 1])
        loss = -log_p[torch.cat([tags, background])].logsumexp(0)[unknown].mean()
        if not target.cropped:
            around = F.avg_pool2d((log_p[tags].exp() * unknown)[None], 3, stride=1, padding=1)[0]
            loss = loss - around.flatten(1).amax(1).clamp(min=1e-6).log().mean()
        losses.append(loss)
    return torch.stack(losses).mean()


def _unknown_cells(target: PartTargets, size: int) -> Tensor | None:
    """bool [size, size]: cells whose middle is UNKNOWN; None if none is."""
    if target.part_map is None:
        return None
    stride = len(target.part_map) // size
    unknown = target.part_map[stride // 2 :: stride, stride // 2 :: stride] == UNKNOWN
    return unknown if bool(unknown.any()) else None
