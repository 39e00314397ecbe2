"""From queries to parts, and from masks and scores to one part map: pure functions."""

from __future__ import annotations

import torch
from detectron2.layers import batched_nms
from torch import Tensor
from torch.nn import functional as F

from ..structures import Frame

MASK_THRESHOLD = 0.5


def keep_queries(
    logits: Tensor,
    boxes: Tensor | None = None,
    *,
    score_threshold: float,
    nms_threshold: float,
    max_parts: int,
    only_parts: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """The queries of one image that are parts, the surest first.

    Args:
        logits: [N, C+1], last = no part.
        boxes: [N, 4] xyxy, for thinning; None where the prompter has none.
        score_threshold: smallest probability of the class.
        nms_threshold: box IoU above which the weaker of two queries of one class goes; 1 keeps all.
        max_parts: how many may stay.
        only_parts: leave out queries that are most likely no part, and those below the threshold. Otherwise each
            has its likeliest part: something has to be said of every pixel.

    Returns:
        indices [K], scores [K] in 0..1 and classes [K].
    """
    probability = logits.float().softmax(-1)
    scores, classes = (probability if only_parts else probability[:, :-1]).max(-1)
    if only_parts:
        kept = ((classes != logits.shape[1] - 1) & (scores >= score_threshold)).nonzero().squeeze(1)
    else:
        kept = torch.arange(len(scores), device=scores.device)
    kept = kept[scores[kept].argsort(descending=True, stable=True)]
    if boxes is not None and nms_threshold < 1 and len(kept):
        kept = kept[batched_nms(boxes[kept].float(), scores[kept], classes[kept], nms_threshold)]
    kept = kept[:max_parts]
    return kept, scores[kept], classes[kept]


def resize_masks(mask_logits: Tensor, frame: Frame, height: int, width: int) -> Tensor:
    """Mask logits [K, S/4, S/4] of the padded square to logits [K, height, width] of the original image.

    Bilinear to the square, padding cut off, bilinear to the image (segment_anything's order).
    """
    if not len(mask_logits):
        return mask_logits.new_zeros(0, height, width)
    square = F.interpolate(mask_logits[:, None], (frame.size, frame.size), mode="bilinear", align_corners=False)
    image = F.interpolate(frame.crop(square), (height, width), mode="bilinear", align_corners=False)
    return image[:, 0]


def merge_semantic(probabilities: Tensor, scores: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Part map scores [C+1, H, W], background last: a pixel has one label.

    The score of class c at a pixel is the largest ``score * p(mask)`` of its queries whose mask covers the pixel
    (reaches one half); a pixel that no mask covers is background.

    Args:
        probabilities: [K, H, W] mask probabilities; ``scores`` [K]; ``classes`` int64 [K].
    """
    part_map = probabilities.new_zeros(num_classes + 1, *probabilities.shape[1:])
    covering = probabilities * (probabilities >= MASK_THRESHOLD) * scores[:, None, None]
    for value, index in zip(covering, classes.tolist()):
        torch.maximum(part_map[index], value, out=part_map[index])
    part_map[-1] = (part_map[:-1] == 0).all(0).to(part_map.dtype)
    return part_map


def merge_authors(probabilities: Tensor, scores: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """The authors' merge: per class the sum of its queries' mask probabilities, a part where it reaches 0.5.

    Same shapes as ``merge_semantic``. Where several classes pass, the largest sum wins the argmax.
    """
    part_map = probabilities.new_zeros(num_classes + 1, *probabilities.shape[1:])
    part_map.index_add_(0, classes, probabilities)
    covered = (part_map[:-1] >= MASK_THRESHOLD).any(0)
    # Sums can exceed 1: an uncovered pixel has none above one half, a covered one has background 0.
    part_map[-1] = (~covered).to(part_map.dtype)
    return part_map


def merge_within_object(probabilities: Tensor, class_probabilities: Tensor) -> Tensor:
    """Scores [C, H, W] of the parts of one object, of which every pixel of the object gets one.

    The largest ``p(class) * p(mask)`` of the queries, as in ``merge_semantic``, but without a threshold, and each
    query speaks for every class: where no mask covers a pixel the nearest guess still says which part it is.

    Args:
        probabilities: [K, H, W] mask probabilities; class_probabilities: [K, C].
    """
    scores = probabilities.new_zeros(class_probabilities.shape[1], *probabilities.shape[1:])
    for mask, of_class in zip(probabilities, class_probabilities):
        torch.maximum(scores, of_class[:, None, None] * mask, out=scores)
    return scores


MERGES = {"semantic": merge_semantic, "authors": merge_authors}
