"""A rival: an ordinary detector, whose boxes the segmenter is asked with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from ..structures import Features, PartTargets, Proposals
from .prompter import PROMPTER_REGISTRY, EncodePrompts, Prompter
from .semantic_input import Shape


@PROMPTER_REGISTRY.register()
class FCOSPrompter(Prompter):
    """FCOS of torchvision (arXiv 1904.01355) on a pyramid of the frozen networks' features, learned from boxes.

    What a user of boxes has without this project: a detector, then SAM. Matching, losses and non-maximum suppression
    are torchvision's.

    Args:
        num_classes: C.
        shapes: (D, h, w) by name of the features that are read, SAM's embedding among them.
        image_size: S in pixels.
        dim, num_convs: see :meth:`add_config`.
        encode_prompts: of the encoder.
    """

    CONFIG_NODE = "FCOS_PROMPTER"
    PROPOSES_BOXES = True

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        shapes: Mapping[str, Shape],
        image_size: int,
        dim: int,
        num_convs: int,
        encode_prompts: EncodePrompts,
    ) -> None:
        super().__init__()
        self.num_classes, self.image_size = num_classes, image_size
        self.encode_prompts = encode_prompts
        # The finest first, one map a level: of maps of one size, such as SAM's and a semantic one, both.
        self.levels: dict[int, list[str]] = {}
        for name in sorted(shapes, key=lambda name: -shapes[name][1]):
            self.levels.setdefault(shapes[name][1], []).append(name)
        self.normalise = nn.ModuleDict({name: nn.InstanceNorm2d(shapes[name][0]) for name in shapes})
        channels = [sum(shapes[name][0] for name in names) for names in self.levels.values()]
        self.pyramid = FeaturePyramidNetwork(channels, dim, extra_blocks=LastLevelP6P7(dim, dim))
        strides = [image_size // size for size in self.levels]
        strides += [2 * strides[-1], 4 * strides[-1]]
        anchors = AnchorGenerator(tuple((stride,) for stride in strides), ((1.0,),) * len(strides))
        backbone = nn.Identity()
        backbone.out_channels = dim  # type: ignore[assignment]
        head = FCOSHead(dim, 1, num_classes, num_convs)
        # Every detection above this can still be dropped by MODEL.INFERENCE.SCORE_THRESHOLD.
        self.detector = FCOS(backbone, num_classes, anchor_generator=anchors, head=head, score_thresh=0.05)

    @staticmethod
    def add_config(node: CfgNode) -> None:
        # Channels of the pyramid, and convolutions of each tower.
        node.DIM = 128
        node.NUM_CONVS = 2

    @classmethod
    def from_config(cls, cfg: CfgNode, encoder: Any, semantic: Mapping[str, Shape]) -> dict[str, Any]:
        return {
            "num_classes": cfg.MODEL.PROMPTER.NUM_CLASSES,
            "shapes": {"image_embedding": encoder.spec.features["image_embedding"], **semantic},
            "image_size": encoder.spec.image_size,
            "dim": cfg.MODEL.FCOS_PROMPTER.DIM,
            "num_convs": cfg.MODEL.FCOS_PROMPTER.NUM_CONVS,
            "encode_prompts": encoder.encode_prompts,
        }

    def detect(self, features: Features) -> tuple[list[Tensor], dict[str, Tensor], list[Tensor]]:
        """The pyramid's maps [B, dim, h, w], FCOS's outputs for all their cells, and the cells as anchors."""
        levels = {
            str(size): torch.cat([self.normalise[name](features[name]) for name in names], dim=1)
            for size, names in self.levels.items()
        }
        maps = list(self.pyramid(levels).values())
        side = self.image_size
        # It wants the pictures for nothing but their number and size.
        pictures = ImageList(maps[0].new_empty(len(maps[0]), 3, side, side), [(side, side)] * len(maps[0]))
        return maps, self.detector.head(maps), self.detector.anchor_generator(pictures, maps)

    def losses(self, features: Features, targets: Sequence[PartTargets]) -> dict[str, Tensor]:
        """FCOS's own: classes, boxes and how central a cell is."""
        maps, outputs, anchors = self.detect(features)
        truth = [{"boxes": target.boxes, "labels": target.labels} for target in targets]
        losses = self.detector.compute_loss(truth, outputs, anchors, [m[0, 0].numel() for m in maps])
        return {f"loss_{name}": loss for name, loss in losses.items()}

    @torch.no_grad()
    def propose(self, features: Features) -> Proposals:
        """The detections; a picture with fewer than another has some that are surely no part."""
        maps, outputs, anchors = self.detect(features)
        sizes = [m[0, 0].numel() for m in maps]
        found = self.detector.postprocess_detections(
            {name: list(output.split(sizes, dim=1)) for name, output in outputs.items()},
            [list(of_image.split(sizes)) for of_image in anchors],
            [(self.image_size, self.image_size)] * len(anchors),
        )
        most = max(len(of_image["scores"]) for of_image in found)
        logits = maps[0].new_full((len(found), most, self.num_classes + 1), -math.inf)
        logits[..., -1] = 0
        boxes = maps[0].new_zeros(len(found), most, 4)
        for i, of_image in enumerate(found):
            count = len(of_image["scores"])
            boxes[i, :count] = of_image["boxes"]
            logits[i, :count] = _as_logits(of_image["scores"], of_image["labels"], self.num_classes)
        return Proposals(logits, lambda image, queries: self.encode_prompts(boxes=boxes[image, queries]), boxes)


def _as_logits(scores: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Logits [K, C+1] whose softmax is the score at the label and the rest spread evenly: a detection is its label's,
    however low its score."""
    rest = ((1 - scores) / num_classes).clamp(min=1e-6)
    probability = rest[:, None].repeat(1, num_classes + 1)
    probability[torch.arange(len(labels)), labels] = scores
    return probability.log()
