"""What a mask shows, by what lies inside it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor
from torch.nn import functional as F

from ..structures import Frame
from .merge import resize_masks
from .select import Selection


def class_inside(mask_logits: Tensor, part_map: Tensor) -> Tensor:
    """The mean probability [K, C+1] of each class within each mask; that of a mask's peak where it covers nothing.

    Args:
        mask_logits: [K, h, w], of a square.
        part_map: logits [C+1, H, W] of the same square's cells, background last.
    """
    size = mask_logits.shape[-2:]
    fine = F.interpolate(part_map[None].float(), size, mode="bilinear", align_corners=False)[0]
    of_cell = fine.softmax(0).flatten(1)
    # Sure pixels count more than those of the border; the small number keeps empty masks from dividing by nothing.
    covered = mask_logits.float().sigmoid().flatten(1)
    weight = (covered - 0.5).clamp(min=0) + 1e-6 * covered
    return weight @ of_cell.T / weight.sum(1, keepdim=True)


def pixel_probability(part_map: Tensor, frame: Frame, height: int, width: int) -> Tensor:
    """Part map logits [C+1, h, w] of a square's cells to probabilities [C+1, height, width] of the original picture."""
    size = (frame.size // 4, frame.size // 4)
    fine = F.interpolate(part_map[None].float(), size, mode="bilinear", align_corners=False)[0]
    return resize_masks(fine, frame, height, width).softmax(0)


def within_object(of_pixels: Tensor, part_classes: Sequence[int], unseen: Collection[int]) -> Tensor:
    """How likely each pixel is each part [c, H, W] of an object that it is known to be of; not normalised.

    Of the places that training calls "no part", those inside of an object are the parts that training did not show. So
    the probability of "no part" goes to these, divided as their names' own are (a gate of novelty, as in arXiv
    1301.3666, whose detector of outliers is here what the labels leave out). Needs no label of theirs, and no bias.

    Args:
        of_pixels: probabilities [C+1, H, W], background last.
        part_classes: the object's c classes.
        unseen: classes that training did not show, of any objects.
    """
    parts = of_pixels[list(part_classes)]
    hidden = [i for i, c in enumerate(part_classes) if c in unseen]
    if hidden:
        share = parts[hidden] / parts[hidden].sum(0).clamp(min=1e-30)
        parts[hidden] += of_pixels[-1] * share
    return parts


def agreed_probability(logits: Tensor, mask_logits: Tensor, part_map: Tensor, share: float) -> Tensor:
    """What K proposals of logits [K, C+1] and the insides of their masks agree on: the geometric mean [K, C+1] of both
    probabilities, with ``share`` of the insides; the others as for :func:`class_inside`."""
    return logits.float().softmax(-1) ** (1 - share) * class_inside(mask_logits, part_map) ** share


def name_masks(
    selected: Selection,
    mask_logits: Tensor,
    logits: Tensor,
    part_map: Tensor,
    share: float,
    confidence: float | None = None,
) -> tuple[Selection, Tensor]:
    """The parts of one image with the classes that proposals and the insides of their masks agree on, the surest first.

    Of both probabilities the geometric mean counts. Parts for which it favours "no part" are left out, unless every
    proposal has to speak for the parts of an object.

    Args:
        selected: K proposals, or those for one object.
        mask_logits: [K, h, w] of the square.
        logits: [N, C+1] of all proposals, last = no part.
        part_map: [C+1, H, W], logits of the square's cells, background last.
        share: of the insides, 0..1.
        confidence: leave out the parts whose mean is smaller instead, whether "no part" would be likelier or not.

    Returns:
        The selection, and the mask logits in its order.
    """
    both = agreed_probability(logits[selected.queries], mask_logits, part_map, share)
    if selected.scores.dim() == 2:
        return selected._replace(scores=both[:, selected.classes]), mask_logits
    scores, classes = (both if confidence is None else both[:, :-1]).max(-1)
    kept = ((classes != logits.shape[1] - 1) & (scores >= (confidence or 0))).nonzero().squeeze(1)
    kept = kept[scores[kept].argsort(descending=True, stable=True)]
    return Selection(selected.queries[kept], scores[kept], classes[kept]), mask_logits[kept]
