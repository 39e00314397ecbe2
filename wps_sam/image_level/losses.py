"""Losses of learned words: FMA-WSSS's two (arXiv 2312.03585) and SemPLeS's three (arXiv 2401.11791)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

# Between which SemPLeS's cosines are kept: a pair outside gives no gradient.
COSINES = (1e-4, 0.9999)


def multi_label_contrastive(logits: Tensor, tags: Tensor) -> Tensor:
    """MCL: every tag of an image against the image's absent classes, mean over the tags of the batch.

    Rows whose classes are all tags, or none, say nothing; without any other row the loss is 0.

    Args:
        logits: [N, C], foreground only.
        tags: bool [N, C].
    """
    valid = tags.any(1) & ~tags.all(1)
    if not valid.any():
        return logits.sum() * 0
    logits, tags = logits[valid], tags[valid]
    absent = logits.masked_fill(tags, -torch.inf).logsumexp(1, keepdim=True)
    return F.softplus(absent - logits)[tags].mean()


def cam_activation(maps: Sequence[Tensor], tags: Sequence[Tensor], seeds: Sequence[Tensor], ignored: int) -> Tensor:
    """CAL: inside a seed a map is pulled up to its own largest value there, elsewhere down to 0.

    Mean over all pixels of all pairs of an image and a tag; without any pixel 0.

    Args:
        maps: of each image [T, h, w], with gradients.
        tags: class ids int64 [T] of each image.
        seeds: of each image class ids int64 [H, W]; anything but the tag, ``ignored`` apart, is background of it.
    """
    total, count = [], 0
    for of_image, classes, seed in zip(maps, tags, seeds):
        if not len(classes):
            continue
        large = F.interpolate(of_image[None], seed.shape, mode="bilinear", align_corners=False)[0]
        known = seed != ignored
        for cam, label in zip(large, classes):
            inside, outside = cam[(seed == label) & known], cam[(seed != label) & known]
            peak = inside.detach().max().clamp(min=0) if len(inside) else cam.new_zeros(())
            total.append((peak - inside).abs().sum() + outside.clamp(min=0).sum())
            count += len(inside) + len(outside)
    if not count:
        return torch.stack([m.sum() * 0 for m in maps]).sum()
    return torch.stack(total).sum() / count


def attract(a: Tensor, b: Tensor) -> Tensor:
    """- log cos, of pairs of unit vectors [n, E]: mean."""
    return -_cosine(a, b).log().mean()


def repel(a: Tensor, b: Tensor) -> Tensor:
    """- log (1 - cos), mean."""
    return -(1 - _cosine(a, b)).log().mean()


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1).clamp(*COSINES)


def label_matching(inside: Tensor, outside: Tensor, labels: Tensor, weight: float) -> Tensor:
    """SemPLeS stage a: what is inside a map is its label, what is outside is not.

    Args:
        inside, outside: image features [n, E] of the picture under the map and under what is left, a row for each
            pair of an image and a tag; ``labels`` text features [n, E] of the pairs' classes.
        weight: lambda_b.
    """
    return attract(inside, labels) + weight * repel(outside, labels)


def contrastive_prompts(outside: Tensor, labels: Tensor, prompts: Tensor, weight: float) -> Tensor:
    """Stage b: a background prompt [n, E] is what is outside a map, and not the label.

    The second term is *plus* log cos: gentle where a prompt is near its label, and bounded.
    """
    return attract(outside, prompts) + weight * _cosine(labels, prompts).log().mean()


def refinement(
    inside: Tensor, outside: Tensor, labels: Tensor, prompts: Tensor, weight: float, refine: float
) -> Tensor:
    """Stage c: stage a, and what is inside a map is not what surrounds its class; ``refine`` is lambda_r."""
    return label_matching(inside, outside, labels, weight) + refine * repel(inside, prompts)


def split_picture(maps: Tensor, images: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """The picture under each map and under what is left of it, [n, 3, S, S] each; the minimum and maximum of a map
    carry gradients, too.

    Args:
        maps: [n, h, w]; ``images`` normalised [n, 3, S, S], a row a pair.
        epsilon: added to a map's range: 0.1 in stages a and c, by which weak maps stay weak, 1e-4 in stage b.
    """
    large = F.interpolate(maps[:, None], images.shape[-2:], mode="bilinear", align_corners=True)
    low, high = large.amin((2, 3), keepdim=True), large.amax((2, 3), keepdim=True)
    mask = (large - low) / (high - low + epsilon)
    return mask * images, (1 - mask) * images
