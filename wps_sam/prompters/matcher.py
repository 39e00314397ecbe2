"""Which query answers for which labelled part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..structures import LabelKind, PartTargets

# Per image: indices of queries and, at the same place, of the parts they answer for, both int64.
Matches = list[tuple[Tensor, Tensor]]


class HungarianMatcher:
    """One query per part, at the least total cost (paper; DETR, section 3.1).

    cost = class_weight * (-p_query(class)) + prompt_weight * || student - teacher ||_2 over the numbers of a prompt's
    tokens.
    """

    def __init__(self, *, class_weight: float, prompt_weight: float) -> None:
        self.class_weight = class_weight
        self.prompt_weight = prompt_weight

    @torch.no_grad()
    def __call__(
        self, logits: Tensor, tokens: Tensor, targets: Sequence[PartTargets], taught: Sequence[Tensor]
    ) -> Matches:
        """Matches of a batch.

        Args:
            logits: [B, N, C+1].
            tokens: the students, [B, N, T, D].
            targets: the labels of each image, M parts.
            taught: the teachers of each image, [M, T, D].

        Raises:
            ValueError: an image has more parts than there are queries.
        """
        matches = []
        for of_image, student, target, teacher in zip(logits, tokens, targets, taught):
            if len(target) > len(of_image):
                raise ValueError(
                    f"an image has {len(target)} parts but the prompter only {len(of_image)} queries: "
                    f"raise MODEL.DETR_PROMPTER.NUM_QUERIES"
                )
            probability = of_image.float().softmax(-1)[:, target.labels]
            distance = torch.cdist(
                student.float().flatten(1), teacher.float().flatten(1), compute_mode="donot_use_mm_for_euclid_dist"
            )
            cost = -self.class_weight * probability + self.prompt_weight * distance
            # scipy stops at NaN, naming nothing; so the loss becomes NaN, and the trainer says where.
            query, part = linear_sum_assignment(np.nan_to_num(cost.cpu().numpy()))
            matches.append((torch.as_tensor(query).to(logits.device), torch.as_tensor(part).to(logits.device)))
        return matches


class CenterMatcher:
    """Every cell near the middle of a part answers for it (FCOS with centre sampling, arXiv 2006.09214).

    A cell is near when its centre lies within the middle half of the part's box in both directions, but never less than
    ``min_radius`` pixels around the middle, so that the smallest part has cells too; of a part labelled by a point,
    within ``min_radius`` of it. Among several parts the smallest box wins; among points the nearest, and a point
    before any box.
    """

    def __init__(self, *, min_radius: float) -> None:
        self.min_radius = min_radius

    @torch.no_grad()
    def __call__(self, anchors: Tensor, targets: Sequence[PartTargets]) -> Matches:
        """Matches of a batch; cells have their centres at ``anchors`` [N, 2], xy in pixels of the padded square."""
        matches = []
        for target in targets:
            is_point = target.of_kind(LabelKind.POINT)
            boxes = target.boxes
            middle = torch.where(is_point[:, None], target.points, (boxes[:, :2] + boxes[:, 2:]) / 2)
            size = boxes[:, 2:] - boxes[:, :2]
            offset = (anchors[:, None] - middle[None]).abs()
            near = (offset <= (size / 4).clamp(min=self.min_radius)[None]).all(-1)
            # Double, so that the shift that puts points before boxes costs no digit.
            distance, area = offset.norm(dim=-1).double(), size.prod(-1).double()
            rank = torch.where(is_point[None], distance - distance.sum() - 1, area[None].expand_as(near))
            rank = rank.masked_fill(~near, float("inf"))
            query = near.any(1).nonzero().squeeze(1)
            part = rank[query].argmin(1) if len(target) else query
            matches.append((query, part))
        return matches
