"""The set loss of MaskFormer (arXiv 2107.06278), of classes that are names.

Axes: L decoder layers, B images, Q queries, K classes, n masks of an image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.utils import comm
from torch import Tensor
from torch.nn import functional as F

# Of probability, focal loss and dice loss, in the matching and in the sum; and of queries that are of no object.
CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT = 1.0, 20.0, 1.0
NO_OBJECT_WEIGHT = 0.1


def mask_set_loss(
    class_logits: Tensor, mask_logits: Tensor, masks: Sequence[Tensor], classes: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Each layer is matched anew with the labels, and all layers count alike.

    Args:
        class_logits: float [L, B, Q, K+1], the last of no object.
        mask_logits: float [L, B, Q, h, w].
        masks: of each image float [n, H, W] of 0 and 1.
        classes: of each image int64 [n], which of the K.

    Returns:
        loss_class: cross-entropy over all queries; loss_mask: focal loss, the mean over pixels; loss_dice. The last two
        are sums over masks, enlarged to H x W, divided by the number of masks of the batch, at least 1.
    """
    # Not before they are needed: the import takes seconds.
    from transformers.models.maskformer import modeling_maskformer as maskformer

    matcher = maskformer.MaskFormerHungarianMatcher(CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT)
    num_classes = class_logits.shape[-1] - 1
    weights = class_logits.new_ones(num_classes + 1)
    weights[-1] = NO_OBJECT_WEIGHT
    number = _mean_over_processes(sum(map(len, classes)), class_logits)
    size = masks[0].shape[-2:]
    losses = {name: class_logits.new_zeros(()) for name in ("loss_class", "loss_mask", "loss_dice")}
    for of_classes, of_masks in zip(class_logits, mask_logits):
        matches = matcher(of_masks, of_classes, masks, classes)
        targets = torch.full(of_classes.shape[:2], num_classes, device=of_classes.device)
        for i, (queries, labels) in enumerate(matches):
            targets[i, queries] = classes[i][labels.to(classes[i].device)]
        losses["loss_class"] += CLASS_WEIGHT * F.cross_entropy(of_classes.flatten(0, 1), targets.flatten(), weights)
        found = torch.cat([of_masks[i, queries] for i, (queries, _) in enumerate(matches)])
        wanted = torch.cat([masks[i][labels] for i, (_, labels) in enumerate(matches)]).flatten(1)
        found = F.interpolate(found[:, None], size, mode="bilinear", align_corners=False).flatten(1)
        losses["loss_mask"] += MASK_WEIGHT * maskformer.sigmoid_focal_loss(found, wanted, number)  # type: ignore[arg-type]
        losses["loss_dice"] += DICE_WEIGHT * maskformer.dice_loss(found, wanted, number)  # type: ignore[arg-type]
    return losses


def _mean_over_processes(count: int, like: Tensor) -> float:
    """``count`` averaged over processes, at least 1."""
    total = like.new_tensor(float(count))
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(total)
    return max(total.item() / comm.get_world_size(), 1.0)
