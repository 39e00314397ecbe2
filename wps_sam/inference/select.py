"""Which proposals of one image become parts: pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.layers import batched_nms
from torch import Tensor


class Selection(NamedTuple):
    """The K proposals of one image that are decoded, the surest first.

    ``queries`` int64 [K]; ``scores`` [K] in 0..1 and ``classes`` int64 [K], or, where the c parts of one object are
    asked for, ``scores`` [K, c] and those parts' ``classes`` [c].
    """

    queries: Tensor
    scores: Tensor
    classes: Tensor


def select_parts(
    logits: Tensor,
    boxes: Tensor | None = None,
    *,
    score_threshold: float,
    nms_threshold: float,
    max_parts: int,
    only_parts: bool = True,
) -> Selection:
    """The proposals of one image that are parts, the surest first.

    Args:
        logits: [N, C+1], last = no part.
        boxes: [N, 4] xyxy, for thinning; None where the prompter has none.
        score_threshold: smallest probability of the class.
        nms_threshold: box IoU above which the weaker of two proposals of one class goes; 1 keeps all.
        max_parts: how many may stay.
        only_parts: leave out proposals that are most likely no part, and those below the threshold. Otherwise each
            has its likeliest part: something has to be said of every pixel.
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
    return Selection(kept, scores[kept], classes[kept])


def select_for_object(
    logits: Tensor,
    boxes: Tensor | None,
    part_classes: Sequence[int],
    *,
    score_threshold: float,
    nms_threshold: float,
    max_parts: int,
) -> Selection:
    """As :func:`select_parts`, but of the c ``part_classes`` of one object alone; every proposal speaks for each."""
    logits = logits[:, [*part_classes, -1]]
    queries = select_parts(
        logits,
        boxes,
        score_threshold=score_threshold,
        nms_threshold=nms_threshold,
        max_parts=max_parts,
        only_parts=False,
    ).queries
    scores = logits[queries].float().softmax(-1)[:, :-1]
    return Selection(queries, scores, torch.tensor(part_classes, device=logits.device))
