"""Which query answers for which labelled part."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..structures import PartTargets, PromptPrediction

# Per image: indices of queries and, at the same place, of the parts they answer for, both int64.
Matches = list[tuple[Tensor, Tensor]]


class HungarianMatcher:
    """One query per part, at the least total cost (paper; DETR, section 3.1).

    cost = class_weight * (-p_query(class)) + prompt_weight * || student - teacher ||_2 over the 512 numbers of
    the two tokens.
    """

    def __init__(self, *, class_weight: float, prompt_weight: float) -> None:
        self.class_weight = class_weight
        self.prompt_weight = prompt_weight

    @torch.no_grad()
    def __call__(self, prediction: PromptPrediction, targets: list[PartTargets]) -> Matches:
        """Raises ValueError if an image has more parts than there are queries."""
        matches = []
        for logits, tokens, target in zip(prediction.logits, prediction.tokens, targets):
            if len(target) > len(logits):
                raise ValueError(
                    f"an image has {len(target)} parts but the prompter only {len(logits)} queries: "
                    f"raise MODEL.PROMPTER.NUM_QUERIES"
                )
            probability = logits.float().softmax(-1)[:, target.labels]
            distance = torch.cdist(
                tokens.float().flatten(1), target.tokens.float().flatten(1),
                compute_mode="donot_use_mm_for_euclid_dist",
            )
            cost = -self.class_weight * probability + self.prompt_weight * distance
            query, part = linear_sum_assignment(cost.cpu().numpy())
            matches.append((torch.as_tensor(query).to(logits.device), torch.as_tensor(part).to(logits.device)))
        return matches


class CenterMatcher:
    """Every cell near the middle of a part answers for it (FCOS with centre sampling, arXiv 2006.09214).

    A cell is near when its centre lies within the middle half of the part's box in both directions, but
    never less than ``min_radius`` pixels around the middle, so that the smallest part has cells too. Among
    several parts the smallest box wins; among points the nearest.
    """

    def __init__(self, *, min_radius: float) -> None:
        self.min_radius = min_radius

    @torch.no_grad()
    def __call__(self, prediction: PromptPrediction, targets: list[PartTargets]) -> Matches:
        anchors = prediction.anchors
        assert anchors is not None, "build_criterion pairs this matcher with a prompter that has anchors"
        matches = []
        for target in targets:
            geometry = target.geometry
            if geometry.shape[1] == 4:
                middle, size = (geometry[:, :2] + geometry[:, 2:]) / 2, geometry[:, 2:] - geometry[:, :2]
            else:
                # Integers are pixel centres in points; anchors are continuous coordinates.
                middle, size = geometry + 0.5, torch.zeros_like(geometry)
            offset = (anchors[:, None] - middle[None]).abs()
            near = (offset <= (size / 4).clamp(min=self.min_radius)[None]).all(-1)
            rank = size.prod(-1)[None].expand_as(near) if geometry.shape[1] == 4 else offset.norm(dim=-1)
            rank = rank.masked_fill(~near, float("inf"))
            query = near.any(1).nonzero().squeeze(1)
            part = rank[query].argmin(1) if len(target) else query
            matches.append((query, part))
        return matches
