"""Class activation maps of tags, and what attention makes of them.

Axes: N images, P = h * w patches, L tokens, K texts, T tags of one image, B texts that are against them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from ..encoders.clip import ImageView


def masked_probability(logits: Tensor, tags: Tensor, others: Tensor) -> Tensor:
    """Softmax of one image's logits [K] over its tags [T] and the texts ``others`` [B] that are against them: [T + B].

    Classes that are neither take no part (CLIP-ES, arXiv 2212.09506, section 3.1). FMA-WSSS's code adds 1e-5 to the
    denominator after taking off the maximum of all classes, absent ones too; this is exact.
    """
    return logits[torch.cat([tags, others])].softmax(0)


def softmax_gradcam(
    view: ImageView, logits: Tensor, tags: Sequence[Tensor], others: Sequence[Tensor], learn: bool = False
) -> list[Tensor]:
    """Maps [T, h, w] of every image's tags, without ReLU and not normalised (CLIP-ES, section 3.1).

    The weight of a channel is the mean over patches, without the class token, of the gradient of a tag's probability;
    a map is the activations' product with it. With a single text among tags and others a map is 0 everywhere.

    Args:
        view: whose features the logits follow from.
        logits: [N, K].
        tags, others: of each image, int64 [T] and [B], T may be 0.
        learn: gradients may flow on from the maps, through the weights alone, to the texts.
    """
    probabilities = [masked_probability(of_image, t, o) for of_image, t, o in zip(logits, tags, others)]
    most = max((len(t) for t in tags), default=0)
    gradients = []
    for j in range(most):
        # Of each image its j-th tag: images do not mix, so one backward pass serves all of them.
        total = torch.stack([p[j] for p, t in zip(probabilities, tags) if j < len(t)]).sum()
        (gradient,) = torch.autograd.grad(total, view.activations, retain_graph=True, create_graph=learn)
        gradients.append(gradient[:, view.prefix :].mean(1))
    patches = view.activations.detach()[:, view.prefix :]
    maps = []
    for i, of_image in enumerate(tags):
        weights = torch.stack([g[i] for g in gradients[: len(of_image)]]) if len(of_image) else patches.new_zeros(0, 1)
        of_tags = weights @ patches[i].T if len(of_image) else patches.new_zeros(0, patches.shape[1])
        maps.append(of_tags.unflatten(1, view.grid))
    return maps if learn else [m.detach() for m in maps]


# ------------------------------------------------------------------ affinity


def balanced_affinity(affinity: Tensor, rounds: int, power: int) -> Tensor:
    """How much each patch passes to each other: attention [P, P] made doubly stochastic, symmetric and sharper.

    ``rounds`` of Sinkhorn's scaling, columns first, then the mean with its transpose, then its matrix ``power``.
    """
    for _ in range(rounds):
        affinity = affinity / affinity.sum(0, keepdim=True)
        affinity = affinity / affinity.sum(1, keepdim=True)
    return torch.linalg.matrix_power((affinity + affinity.T) / 2, power)


def jensen_shannon_affinity(probability: Tensor) -> Tensor:
    """1 - Jensen-Shannon distance (base 2) between the class distributions [P, K] of patches: [P, P] in 0..1.

    Of CD-CLIP's affinity, which is its product with attention.
    """
    p = probability.clamp(min=1e-12)
    entropy = -(p * p.log2()).sum(1)
    mean = (p[:, None] + p[None]) / 2
    divergence = -(mean * mean.log2()).sum(2) - (entropy[:, None] + entropy[None]) / 2
    return 1 - divergence.clamp(0, 1).sqrt()


def class_aware_attention(
    maps: Tensor, affinity: Tensor, threshold: float, scores: bool = True, exclusive_edges: bool = True
) -> Tensor:
    """CAA: each patch gets what the patches inside a class's boxes have, as far as it looks at them (CLIP-ES, 3.3).

    Args:
        maps: [T, h, w].
        affinity: of :func:`balanced_affinity`, [P, P].
        threshold: of the boxes, see :func:`boxes_of`.
        scores: what is passed on: the map between 0 and 1, or else the map itself, negative values too.
        exclusive_edges: see :func:`boxes_of`.
    """
    passed = []
    for cam in maps:
        score = min_max(cam)
        inside = boxes_of(score, threshold, exclusive_edges).flatten().to(affinity)
        passed.append(affinity @ (inside * (score if scores else cam).flatten().to(affinity)))
    return torch.stack(passed).view_as(maps).to(maps) if passed else maps


def boxes_of(score: Tensor, threshold: float, exclusive_edges: bool = True) -> Tensor:
    """bool [h, w]: the union of the boxes around the 8-connected regions of a map that exceed its threshold.

    The map, 0..1, is made bytes, and a region exceeds the whole part of ``threshold`` times the largest byte.
    ``exclusive_edges``: as the published code, by which the last row and the last column are never inside; a map of a
    single row or column keeps them.
    """
    height, width = score.shape
    values = (score.detach().cpu().numpy() * 255).astype(np.uint8)
    regions, _ = ndimage.label(values > int(threshold * values.max(initial=0)), structure=np.ones((3, 3)))
    inside = np.zeros((height, width), dtype=bool)
    last = (max(height - 1, 1), max(width - 1, 1)) if exclusive_edges else (height, width)
    for rows, columns in ndimage.find_objects(regions):
        inside[rows.start : min(rows.stop, last[0]), columns.start : min(columns.stop, last[1])] = True
    return torch.from_numpy(inside)


def min_max(maps: Tensor) -> Tensor:
    """Maps [..., h, w], negative values taken for 0, each stretched to 0..1."""
    floor = maps.clamp(min=0)
    low, high = floor.amin((-2, -1), keepdim=True), floor.amax((-2, -1), keepdim=True)
    return (floor - low) / (high - low + 1e-7)


def enlarge(maps: Tensor, height: int, width: int) -> Tensor:
    """Maps [T, h, w] to [T, height, width], bilinear."""
    return F.interpolate(maps[None], (height, width), mode="bilinear", align_corners=False)[0]


def argmax_labels(maps: Tensor, power: float) -> Tensor:
    """Labels int64 [h, w] of maps alone, 0..T-1, T background: the score of background is (1 - the best)^power."""
    scores = min_max(maps)
    background = (1 - scores.amax(0, keepdim=True)) ** power if len(scores) else scores.new_ones(1, *maps.shape[1:])
    # Background first: it wins where all are alike.
    return (torch.cat([background, scores]).argmax(0) - 1) % (len(scores) + 1)


def threshold_labels(maps: Tensor, threshold: float) -> Tensor:
    """As :func:`argmax_labels`, of maps that are 0..1 already: background is where none exceeds the threshold."""
    background = maps.new_full((1, *maps.shape[1:]), threshold)
    return (torch.cat([background, maps]).argmax(0) - 1) % (len(maps) + 1)
