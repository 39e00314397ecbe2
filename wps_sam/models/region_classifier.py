"""ZSSeg+'s second stage: CLIP names the regions that the first stage found in one object. Pure functions.

Source: OV-PARTS (arXiv 2310.05107), after ZSSeg (arXiv 2112.14757). Axes: Q queries, K classes, R regions, H x W the
picture as the network sees it, S the side of CLIP's input, E width of its joint embedding, g x g its patches.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Cosines times it are logits.
SCALE = 100.0


def class_scores(class_logits: Tensor, masks: Tensor) -> Tensor:
    """Of each class the sum over queries of its probability times that of their mask: float [K, H, W].

    Args:
        class_logits: float [Q, K+1], the last of no object, which takes part in the softmax.
        masks: probabilities float [Q, H, W].
    """
    return torch.einsum("qk,qhw->khw", class_logits.softmax(-1)[:, :-1], masks)


def hard_regions(scores: Tensor, of_object: Tensor) -> Tensor:
    """Where each class is the best, of those that are it anywhere in the object.

    Args:
        scores: float [K, H, W]; all classes compete, those of other objects, too.
        of_object: bool [H, W].

    Returns:
        The regions of R classes, bool [R, H, W], in the order of the classes; they may reach out of the object.
    """
    best = scores.argmax(0)
    classes = best[of_object].unique()
    return best == classes[:, None, None]


def object_box(of_object: Tensor, scale: float) -> tuple[int, int, int, int]:
    """The box of a mask bool [H, W] that is nowhere empty, grown about its middle: x0, y0, x1, y1 in pixels.

    Sides are truncated to whole pixels and clipped to the picture; x1 and y1 are behind the last pixel.
    """
    height, width = of_object.shape
    sides = []
    for axis, length in ((0, width), (1, height)):
        places = of_object.any(axis).nonzero()[:, 0]
        first, last = int(places[0]), int(places[-1]) + 1
        middle, half = (first + last) / 2, (last - first) / 2 * scale
        sides.append((max(int(middle - half), 0), min(int(middle + half), length)))
    (x0, x1), (y0, y1) = sides
    return x0, y0, x1, y1


def squeeze_masks(masks: Tensor, box: tuple[int, int, int, int], size: int) -> Tensor:
    """The box's piece of masks bool [R, H, W], by the nearest, as float 0 or 1 [R, S, S]."""
    x0, y0, x1, y1 = box
    return F.interpolate(masks[None, :, y0:y1, x0:x1].float(), (size, size), mode="nearest")[0]


def masked_means(features: Tensor, masks: Tensor) -> Tensor:
    """The mean feature of the patches that each mask touches: float [R, E]; 0 where it touches none.

    Args:
        features: of patches, float [E, g, g], each of unit length.
        masks: float [R, S, S] of 0 and 1, S a multiple of g.
    """
    height, width = features.shape[-2:]
    touched = F.adaptive_max_pool2d(masks, (height, width)).flatten(1)
    return touched @ features.flatten(1).T / (touched.sum(1, keepdim=True) + 1e-6)


def fuse(parts: Tensor, of_object: Tensor, weight: Tensor) -> Tensor:
    """Features of regions [R, E] and of their object [E], mixed: ``weight`` of the first. Not made unit again."""
    return weight * parts + (1 - weight) * of_object


def ensemble(first: Tensor, second: Tensor, seen: Tensor, weight: float) -> Tensor:
    """Both stages' scores, float [K, H, W], multiplied as powers: first^w second^(1-w) of seen classes, else w and 1-w
    the other way round.

    Args:
        seen: bool [K].
    """
    of_first = torch.where(seen, weight, 1 - weight)[:, None, None]
    return first**of_first * second ** (1 - of_first)
