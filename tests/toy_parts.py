"""A meta-architecture that trains in no time, for tests of what is around a model."""

from __future__ import annotations

from wps_sam.structures import Frame

import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from torch import nn

# Entries of a configuration.
TOY = ("MODEL.META_ARCHITECTURE", "ToyParts", "SOLVER.MAX_ITER", 6, "SOLVER.BASE_LR", 0.01)


@META_ARCH_REGISTRY.register()
class ToyParts(nn.Module):
    """A loss of pictures, boxes and (with MODEL.DETR_PROMPTER.PROMPT_WEIGHT) random numbers; finds nothing."""

    def __init__(self, cfg):
        super().__init__()
        self.num_classes = cfg.MODEL.PROMPTER.NUM_CLASSES
        self.noise = cfg.MODEL.DETR_PROMPTER.PROMPT_WEIGHT
        self.backbone = nn.Linear(3, 4)
        self.head = nn.Linear(4, 4)
        self.backbone.requires_grad_(False)

    def forward(self, batched_inputs):
        if self.training:
            losses = []
            for x in batched_inputs:
                target = x["instances"].gt_boxes.tensor.sum(0) / 100
                found = self.head(self.backbone(x["image"].float().mean((1, 2)) / 255))
                losses.append(((found - target) ** 2).mean() + self.noise * (found * torch.rand(4)).mean())
            return {"loss_toy": torch.stack(losses).mean(), "loss_norm": self.head.weight.square().mean()}
        return [self.find_nothing(x) for x in batched_inputs]

    def find_nothing(self, x):
        instances = Instances((x["height"], x["width"]))
        instances.pred_masks = torch.zeros(0, x["height"], x["width"], dtype=torch.bool)
        instances.pred_boxes = Boxes(torch.zeros(0, 4))
        instances.pred_classes = torch.zeros(0, dtype=torch.int64)
        instances.scores = torch.zeros(0)
        instances.mask_logits = torch.zeros(0, 64, 64)
        sem_seg = torch.zeros(self.num_classes + 1, x["height"], x["width"])
        sem_seg[-1] = 1
        return {"instances": instances, "sem_seg": sem_seg, "frame": Frame(256, *x["image"].shape[1:])}

    def prompt_boxes(self, batched_inputs, boxes):
        """Marks the left half of a picture as every part: neither perfect nor nothing."""
        masks = []
        for x, b in zip(batched_inputs, boxes):
            mask = torch.full((len(b), x["height"], x["width"]), -1.0)
            mask[:, :, : x["width"] // 2] = 1.0
            masks.append(mask)
        return masks
