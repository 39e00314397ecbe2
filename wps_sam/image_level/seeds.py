"""SAMS: from maps and masks to seeds, a label for every pixel (FMA-WSSS, arXiv 2312.03585)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# So that a map that is alike in all masks divides by something.
EPSILON = 1e-7


@dataclass(frozen=True, eq=False)
class Seeds:
    """``labels`` int64 [H, W]: 0..T-1, the tags in their order, T background. ``of_masks`` int64 [S] and ``scores``
    float [S]: what each mask is, and how sure that is."""

    labels: np.ndarray
    of_masks: np.ndarray
    scores: np.ndarray


def seed(maps: Tensor, masks: Tensor, levels: Tensor, power: float) -> Seeds:
    """Names every mask by the map that is strongest in it, and paints them, low levels first.

    Args:
        maps: of the T tags, [T, H, W].
        masks: bool [S, H, W]; pixels in none of them are background.
        levels: int64 [S]; a mask is painted over those of lower levels, and of its own level over less sure ones.
        power: of background's score, (1 - the best)^power: larger means more foreground.
    """
    num_tags = len(maps)
    height, width = maps.shape[1:]
    labels = np.full((height, width), num_tags, dtype=np.int64)
    if not len(masks):
        return Seeds(labels, np.zeros(0, np.int64), np.zeros(0))
    means = mask_means(maps.clamp(min=0), masks)
    low, high = means.amin(1, keepdim=True), means.amax(1, keepdim=True)
    scores = (means - low) / (high - low + EPSILON)
    best = scores.amax(0, keepdim=True) if num_tags else scores.new_zeros(1, len(masks))
    # Background first: of equal scores the first wins.
    score, winner = torch.cat([(1 - best) ** power, scores]).max(0)
    winner = torch.where(winner == 0, num_tags, winner - 1)
    order = sorted(range(len(masks)), key=lambda s: (int(levels[s]), float(score[s])))
    shapes = masks.cpu().numpy()
    for s in order:
        labels[shapes[s]] = int(winner[s])
    return Seeds(labels, winner.cpu().numpy(), score.cpu().numpy())


def mask_means(maps: Tensor, masks: Tensor) -> Tensor:
    """The mean of each map [T, H, W] inside each mask bool [S, H, W]: [T, S]; an empty mask has 0."""
    flat = masks.flatten(1).to(maps.dtype)
    return maps.flatten(1) @ flat.T / flat.sum(1).clamp(min=1)
