"""Which proposals of one image become parts: pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

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
    no_part_competes: bool = True,
) -> Selection:
    """The proposals of one image that are parts, the surest first.

    Args:
        logits: [N, C+1], last = no part.
        boxes: [N, 4] xyxy, for thinning; None where the prompter has none.
        score_threshold: smallest probability of the likeliest class.
        nms_threshold: box IoU above which the weaker of two proposals of one class goes; 1 keeps all.
        max_parts: how many may stay.
        no_part_competes: leave out proposals that are most likely no part. Otherwise each is its likeliest part, and
            the threshold alone decides.
    """
    probability = logits.float().softmax(-1)
    scores, classes = (probability if no_part_competes else probability[:, :-1]).max(-1)
    kept = ((classes != logits.shape[1] - 1) & (scores >= score_threshold)).nonzero().squeeze(1)
    kept = kept[scores[kept].argsort(descending=True, stable=True)]
    if boxes is not None and nms_threshold < 1 and len(kept):
        kept = kept[batched_nms(boxes[kept].float(), scores[kept], classes[kept], nms_threshold)]
    kept = kept[:max_parts]
    return Selection(kept, scores[kept], classes[kept])


def threshold_before_naming(confidence: Any, share: float) -> Any:
    """The smallest probability with which a proposal can still reach ``confidence``, a number or tensor of 0 to 1, when
    what lies inside its mask, yet to be asked, has this ``share`` in its score."""
    return confidence ** (1 / (1 - share)) if share < 1 else 0.0 * confidence


def select_for_object(
    logits: Tensor,
    boxes: Tensor | None,
    part_classes: Sequence[int],
    *,
    nms_threshold: float,
    max_parts: int,
) -> Selection:
    """As :func:`select_parts`, but of the c ``part_classes`` of one object alone; every proposal speaks for each.

    None is too unlikely: something has to be said of every pixel.
    """
    logits = logits[:, [*part_classes, -1]]
    queries = select_parts(
        logits,
        boxes,
        score_threshold=0.0,
        nms_threshold=nms_threshold,
        max_parts=max_parts,
        no_part_competes=False,
    ).queries
    scores = logits[queries].float().softmax(-1)[:, :-1]
    return Selection(queries, scores, torch.tensor(part_classes, device=logits.device))
