"""The losses: one over the classes of all queries, one over the prompts of matched queries."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from detectron2.config import CfgNode
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from ..structures import PartTargets, PromptPrediction
from .matcher import CenterMatcher, HungarianMatcher, Matches

# (logits [N, C+1], labels int64 [N]) of one image to a scalar
ClassLoss = Callable[[Tensor, Tensor], Tensor]
# (tokens [K, 2, D], geometry or None) of matched queries and of their parts to a scalar; K > 0
PromptLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over all queries of one image, "no part" among the classes, no re-weighting (the paper's)."""
    return F.cross_entropy(logits, labels)


def focal_loss(logits: Tensor, labels: Tensor, gamma: float = 2.0) -> Tensor:
    """Softmax focal loss (arXiv 1708.02002) of one image: sum over queries, divided by the matched ones."""
    log_p = F.log_softmax(logits, dim=-1).gather(1, labels[:, None]).squeeze(1)
    num_parts = (labels != logits.shape[1] - 1).sum().clamp(min=1)
    return (-((1 - log_p.exp()) ** gamma) * log_p).sum() / num_parts


def token_loss(tokens: Tensor, geometry: Tensor, target_tokens: Tensor, target_geometry: Tensor) -> Tensor:
    """Smooth L1 (beta 1), mean over the numbers of student and teacher tokens (the paper's)."""
    return F.smooth_l1_loss(tokens, target_tokens)


def geometry_loss(
    tokens: Tensor, geometry: Tensor, target_tokens: Tensor, target_geometry: Tensor, *, stride: int
) -> Tensor:
    """1 - GIoU of boxes (arXiv 1902.09630), or the L1 distance of points in cells of ``stride`` pixels."""
    if target_geometry.shape[1] == 4:
        return generalized_box_iou_loss(geometry, target_geometry, reduction="mean")
    return (geometry - target_geometry).abs().sum(-1).mean() / stride


class SetCriterion:
    """Matches queries to parts, then sums the losses, mean over the images of the batch."""

    def __init__(
        self,
        *,
        matcher: Callable[[PromptPrediction, list[PartTargets]], Matches],
        class_loss: ClassLoss,
        prompt_loss: PromptLoss,
        class_weight: float,
        prompt_weight: float,
    ) -> None:
        self.matcher = matcher
        self.class_loss = class_loss
        self.prompt_loss = prompt_loss
        self.class_weight = class_weight
        self.prompt_weight = prompt_weight

    def __call__(self, prediction: PromptPrediction, targets: list[PartTargets]) -> dict[str, Tensor]:
        """``{"loss_class", "loss_prompt"}``, weighted scalars. An image without parts has no prompt loss."""
        class_losses, prompt_losses = [], []
        for image, (query, part) in enumerate(self.matcher(prediction, targets)):
            target, logits = targets[image], prediction.logits[image]
            labels = torch.full((len(logits),), logits.shape[1] - 1, device=logits.device)
            labels[query] = target.labels[part]
            class_losses.append(self.class_loss(logits, labels))
            tokens = prediction.tokens[image, query]
            geometry = tokens if prediction.geometry is None else prediction.geometry[image, query]
            if len(query):
                prompt_losses.append(
                    self.prompt_loss(tokens, geometry, target.tokens[part], target.geometry[part])
                )
            else:
                # Zero, but part of the graph: every process of a distributed run needs the same gradients.
                prompt_losses.append(geometry.sum())
        return {
            "loss_class": self.class_weight * torch.stack(class_losses).mean(),
            "loss_prompt": self.prompt_weight * torch.stack(prompt_losses).mean(),
        }


def build_criterion(cfg: CfgNode) -> SetCriterion:
    """The paper's criterion for DETRPrompter, the dense one for DensePrompter."""
    weights = {"class_weight": cfg.MODEL.LOSS.CLASS_WEIGHT, "prompt_weight": cfg.MODEL.LOSS.PROMPT_WEIGHT}
    if cfg.MODEL.PROMPTER.NAME == "DensePrompter":
        stride = cfg.MODEL.PROMPTER.STRIDE
        return SetCriterion(
            matcher=CenterMatcher(min_radius=stride),
            class_loss=focal_loss,
            prompt_loss=partial(geometry_loss, stride=stride),
            **weights,
        )
    return SetCriterion(
        matcher=HungarianMatcher(
            class_weight=cfg.MODEL.MATCHER.CLASS_WEIGHT, prompt_weight=cfg.MODEL.MATCHER.PROMPT_WEIGHT
        ),
        class_loss=cross_entropy,
        prompt_loss=token_loss,
        **weights,
    )
