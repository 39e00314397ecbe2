"""The losses of a prompter: classes of all queries, places of matched ones by the kind of their label, masks, presence.

Every loss is a scalar, the mean over the images of a batch; an image with nothing of its kind counts as 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from ..mask_losses import dice_loss, focal_loss
from ..structures import LabelKind, PartTargets
from .matcher import Matches

# (logits [N, C+1], labels int64 [N], classes int64 [T] that some unmatched query may be, weights [N]) of one image to a
# scalar.
ClassLoss = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor]
# (students [K, ...], teachers [K, ...]) of matched queries to a scalar, a mean over them; K > 0.
PlaceLoss = Callable[[Tensor, Tensor], Tensor]

# What is asked of a run by WEAK_LABELS.TYPE: its losses have these names in every step, whatever a batch holds.
LOSSES = {
    "box": ("box",),
    "point": ("point",),
    "mask": ("box", "mask"),
    "as_annotated": ("box", "point", "mask", "presence"),
}
# The labels that say where a part is, by the loss of their place. A mask is also a box.
KINDS_OF_PLACE = {"box": (LabelKind.BOX, LabelKind.MASK), "point": (LabelKind.POINT,)}


def cross_entropy(
    logits: Tensor, labels: Tensor, possible: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """Mean over all queries of one image, "no part" among the classes, no re-weighting (the paper's)."""
    if possible is None and weight is None:
        return F.cross_entropy(logits, labels)
    return _weigh(-log_probability(logits, labels, possible), weight).mean()


def focal_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    possible: Tensor | None = None,
    weight: Tensor | None = None,
    gamma: float = 2.0,
) -> Tensor:
    """Softmax focal loss (arXiv 1708.02002) of one image: sum over queries, divided by the matched ones."""
    log_p = log_probability(logits, labels, possible)
    num_parts = (labels != logits.shape[1] - 1).sum().clamp(min=1)
    return _weigh(-((1 - log_p.exp()) ** gamma) * log_p, weight).sum() / num_parts


def _weigh(losses: Tensor, weight: Tensor | None) -> Tensor:
    return losses if weight is None else losses * weight


def balanced(part: Tensor, balance: float) -> Tensor:
    """Weights [K] of matched queries, mean 1, such that the n queries of a part together count n^(1 - balance).

    ``part`` int64 [K]: which part each answers for.
    """
    queries = part.bincount()[part].float()
    weight = queries**-balance
    return weight * (len(part) / weight.sum())


def log_probability(logits: Tensor, labels: Tensor, possible: Tensor | None = None) -> Tensor:
    """The log probability [N] of what each query of one image should be.

    A query that answers for no labelled part should be "no part" or, where the picture's tags name classes that no
    label places, one of those ``possible`` int64 [T]: which of the two nobody knows (partial labels, arXiv
    2002.08053).
    """
    log_p = F.log_softmax(logits, dim=-1)
    of_label = log_p.gather(1, labels[:, None]).squeeze(1)
    if possible is None:
        return of_label
    no_part = logits.shape[1] - 1
    either = torch.cat([log_p[:, possible], log_p[:, no_part:]], dim=1).logsumexp(1)
    return torch.where(labels == no_part, either, of_label)


def token_loss(tokens: Tensor, teachers: Tensor) -> Tensor:
    """Smooth L1 (beta 1), mean over the numbers of student and teacher tokens (the paper's)."""
    return F.smooth_l1_loss(tokens, teachers)


def box_loss(boxes: Tensor, teachers: Tensor) -> Tensor:
    """1 - GIoU of boxes [K, 4] (arXiv 1902.09630)."""
    return generalized_box_iou_loss(boxes, teachers, reduction="mean")


def point_loss(points: Tensor, teachers: Tensor, *, stride: int) -> Tensor:
    """L1 distance of points [K, 2] in cells of ``stride`` pixels."""
    return (points - teachers).abs().sum(-1).mean() / stride


def class_loss(
    loss: ClassLoss, logits: Tensor, targets: Sequence[PartTargets], matches: Matches, balance: float = 0.0
) -> Tensor:
    """``loss`` of every image of logits [B, N, C+1]; unmatched queries are "no part".

    ``balance``: how far parts that few queries answer for are favoured, see :func:`balanced`.
    """
    losses = []
    for of_image, target, (query, part) in zip(logits, targets, matches):
        labels = torch.full((len(of_image),), of_image.shape[1] - 1, device=of_image.device)
        labels[query] = target.labels[part]
        weight = None
        if balance and len(part):
            weight = torch.ones_like(of_image[:, 0])
            weight[query] = balanced(part, balance)
        losses.append(loss(of_image, labels, unplaced_tags(target), weight))
    return torch.stack(losses).mean()


def place_loss(
    kinds: Sequence[LabelKind],
    loss: PlaceLoss,
    students: Tensor,
    teachers: Sequence[Tensor],
    targets: Sequence[PartTargets],
    matches: Matches,
) -> Tensor:
    """``loss`` of matched queries whose labels are of ``kinds``, each image's weighed by their share of all matched.

    So a label counts alike whatever the others of its picture are, and where all are of one kind it is their plain
    mean.

    Args:
        kinds, loss: what to compare, and how.
        students: of all queries [B, N, ...].
        teachers: of each image's M parts [M, ...].
        targets, matches: of the batch.
    """
    losses = []
    for of_image, of_parts, target, (query, part) in zip(students, teachers, targets, matches):
        chosen = target.of_kind(*kinds)[part]
        count = int(chosen.sum())
        if count < len(part):
            query, part = query[chosen], part[chosen]
        student = of_image[query]
        if not count:
            # Zero, but part of the graph: every process of a distributed run needs the same gradients.
            losses.append(student.sum())
        elif count == len(chosen):
            losses.append(loss(student, of_parts[part]))
        else:
            losses.append(loss(student, of_parts[part]) * (count / len(chosen)))
    return torch.stack(losses).mean()


def mask_loss(logits: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
    """20 focal + dice, as SAM itself is trained, of each image's masks: logits [K, h, w], covered shares [K, h, w]."""
    losses = [
        (20 * focal_loss(of_image, truth) + dice_loss(of_image, truth)).mean() if len(truth) else of_image.sum()
        for of_image, truth in zip(logits, masks)
    ]
    return torch.stack(losses).mean()


def presence_loss(logits: Tensor, targets: Sequence[PartTargets]) -> Tensor:
    """- log of the largest probability that any query gives a class which is tagged but placed by no label.

    Mean over such classes of an image (multiple-instance learning: one query at least is that part); of a crop
    nothing, as they may lie beside it. logits [B, N, C+1].
    """
    losses = []
    for of_image, target in zip(logits, targets):
        tags = None if target.cropped else unplaced_tags(target)
        if tags is None:
            losses.append(of_image.sum() * 0)
        else:
            losses.append(-F.log_softmax(of_image, dim=-1)[:, tags].max(0).values.mean())
    return torch.stack(losses).mean()


def unplaced_tags(target: PartTargets) -> Tensor | None:
    """Classes int64 [T] that are in the picture and that no label places; None where there are none."""
    if target.tags is None:
        return None
    tags = target.tags[~torch.isin(target.tags, target.labels)]
    return tags if len(tags) else None


def weighted(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """``{"loss_NAME": weight * loss}``."""
    return {f"loss_{name}": weights[name] * loss for name, loss in losses.items()}
