"""A prompter for small data and small machines; not in the paper."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from detectron2.config import CfgNode, configurable
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from ..structures import Features, PartTargets, Proposals
from .companion import Companion, ContextBlock
from .losses import (
    KINDS_OF_PLACE,
    LOSSES,
    PlaceLoss,
    box_loss,
    class_loss,
    focal_cross_entropy,
    place_loss,
    point_loss,
    presence_loss,
    weighted,
)
from .matcher import CenterMatcher
from .part_head import part_map_loss, tagged_map_loss
from .prompter import PROMPTER_REGISTRY, Decode, EncodePrompts, Prompter, decoded_mask_loss, one_query_a_mask
from .semantic_input import SemanticInput, Shape, resample
from .text_classifier import TextClassifier, build_text_classifier

logger = logging.getLogger(__name__)

# Log odds of "no part" against all C parts together, at the start: a probability of 0.01.
RARE_PARTS = math.log(99)


@PROMPTER_REGISTRY.register()
class DensePrompter(Prompter):
    """Every cell of a memory proposes a class and a box (as FCOS, arXiv 1904.01355) or, from points alone, a point.

    Boxes and points go through the segmenter's own frozen prompt encoder, so prompts are always ones that it knows,
    and can be drawn. Cells lie ``stride`` pixels apart, 8 or 16, and N is their number, (S/stride)^2. With
    ``companion_dim`` a small network of that width looks at the picture beside SAM's encoder.

    Args:
        num_classes: C; ``text_classifier`` in place of the linear class head.
        label_type: WEAK_LABELS.TYPE. With "point" cells propose points, otherwise boxes; a point among boxes teaches a
            class and where its cells are, and leaves boxes alone.
        image_size, embedding_size: S in pixels, and the side of the image embedding in cells; ``dim`` its channels.
        semantic: shapes (D, h, w) by name of the features of a semantic network.
        stride, conv_dim, num_convs, companion_dim, part_weight, part_balance, class_balance: see :meth:`add_config`.
        class_weight, prompt_weight, mask_weight, presence_weight: of the losses.
        encode_prompts, decode: of the encoder.
    """

    CONFIG_NODE = "DENSE_PROMPTER"
    CHOICES: ClassVar = {"STRIDE": (8, 16)}
    PROPOSES_BOXES = True

    anchors: Tensor

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        text_classifier: TextClassifier | None = None,
        label_type: str,
        image_size: int,
        embedding_size: int,
        semantic: Mapping[str, Shape] = {},
        dim: int = 256,
        stride: int,
        conv_dim: int,
        num_convs: int,
        companion_dim: int,
        class_weight: float = 1.0,
        prompt_weight: float = 1.0,
        mask_weight: float = 1.0,
        presence_weight: float = 1.0,
        part_weight: float = 0.0,
        part_balance: float = 0.5,
        class_balance: float = 0.0,
        encode_prompts: EncodePrompts,
        decode: Decode,
    ) -> None:
        super().__init__()
        self.encode_prompts, self.decode = encode_prompts, decode
        self.label_type = label_type
        self.place = "point" if label_type == "point" else "box"
        self.image_size = image_size
        # Context is gathered on a grid twice as coarse as the memory: cells of the embedding along a side of one of it.
        self.pooled = max(1, round(2 * stride * embedding_size / image_size))
        # SAM 3 has cells of 14 pixels: what comes nearest to what is asked for.
        stride = image_size // (2 * (embedding_size // self.pooled))
        self.stride = stride
        self.matcher = CenterMatcher(min_radius=stride)
        self.place_losses: dict[str, PlaceLoss] = {"box": box_loss, "point": partial(point_loss, stride=stride)}
        self.weights = {
            "class": class_weight,
            self.place: prompt_weight,
            "mask": mask_weight,
            "presence": presence_weight,
            "part": part_weight,
        }
        self.part_balance = part_balance
        self.class_balance = class_balance
        self.companion = Companion(companion_dim, stride) if companion_dim else None
        self.semantic = SemanticInput(semantic, conv_dim) if semantic else None
        beside = companion_dim + (conv_dim if semantic else 0)
        # SAM's embedding is mostly a constant per channel: what tells places apart is a small ripple on it.
        self.normalise = nn.InstanceNorm2d(dim)
        self.context = nn.Sequential(
            nn.Conv2d(dim + beside, conv_dim, 1), *(ContextBlock(conv_dim) for _ in range(num_convs))
        )
        self.upsample = nn.Sequential(nn.ConvTranspose2d(conv_dim, conv_dim, 2, 2), LayerNorm2d(conv_dim), nn.GELU())
        self.companion_dim = companion_dim
        self.fuse = nn.Conv2d(conv_dim + beside, conv_dim, 1)
        self.class_tower = self._tower(conv_dim)
        self.prompt_tower = self._tower(conv_dim)
        self.class_head = nn.Conv2d(conv_dim, text_classifier.feature_dim if text_classifier else num_classes + 1, 1)
        self.classifier = text_classifier or nn.Identity()
        self.prompt_head = nn.Conv2d(conv_dim, 4 if self.place == "box" else 2, 1)
        if part_weight:
            self.part_tower = self._tower(conv_dim)
            self.part_head = nn.Conv2d(conv_dim, text_classifier.feature_dim if text_classifier else num_classes + 1, 1)
        # Nearly every cell is "no part": start there, or the first steps are spent on it (RetinaNet, section 4.1).
        if text_classifier is None:
            start = torch.zeros(num_classes + 1)
            start[-1] = RARE_PARTS + math.log(num_classes)
            self.class_head.bias = nn.Parameter(start)
        centres = (torch.arange(image_size // stride) + 0.5) * stride
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        self.register_buffer("anchors", torch.stack([x, y], dim=-1).flatten(0, 1), persistent=False)

    @staticmethod
    def _tower(dim: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1), LayerNorm2d(dim), nn.GELU())

    @staticmethod
    def add_config(node: CfgNode) -> None:
        # 8 | 16, pixels between the cells of the memory. The smallest parts want 8; 16 has a quarter of the cells, and
        # costs a quarter.
        node.STRIDE = 8
        # Depth and width of the convolutions.
        node.NUM_CONVS = 4
        node.CONV_DIM = 128
        # Width of the small trainable network that looks at the picture itself, beside SAM's embedding, which knows
        # edges but hardly colours and textures. 0: none.
        node.COMPANION_DIM = 0
        # Weights of the losses: classes; boxes or points.
        node.CLASS_WEIGHT = 1.0
        node.PROMPT_WEIGHT = 1.0
        # How far parts of few cells are favoured in the loss of classes: 0 every cell counts alike, 1 every part.
        node.CLASS_BALANCE = 0.0
        # Of labels that are masks: SAM's mask for the prompt against the label. Of tags: the surest cell of the class.
        node.MASK_WEIGHT = 1.0
        node.PRESENCE_WEIGHT = 1.0
        # Of the dense head, which says what each cell is, learned from the masks that SAM draws for the labels; with it
        # MODEL.INFERENCE.NAMING can name parts by what is inside them. 0: no such head.
        node.PART_WEIGHT = 0.0
        # How far its rare classes are favoured: 0 every pixel counts alike, 1 every class.
        node.PART_BALANCE = 0.5

    @classmethod
    def from_config(cls, cfg: CfgNode, encoder: Any, semantic: Mapping[str, Shape]) -> dict[str, Any]:
        node = cfg.MODEL.DENSE_PROMPTER
        channels, embedding_size, _ = encoder.spec.features["image_embedding"]
        return {
            "num_classes": cfg.MODEL.PROMPTER.NUM_CLASSES,
            "text_classifier": build_text_classifier(cfg, RARE_PARTS),
            "label_type": cfg.WEAK_LABELS.TYPE,
            "image_size": encoder.spec.image_size,
            "embedding_size": embedding_size,
            "semantic": semantic,
            "dim": channels,
            "stride": node.STRIDE,
            "conv_dim": node.CONV_DIM,
            "num_convs": node.NUM_CONVS,
            "companion_dim": node.COMPANION_DIM,
            "class_weight": node.CLASS_WEIGHT,
            "prompt_weight": node.PROMPT_WEIGHT,
            "mask_weight": node.MASK_WEIGHT,
            "presence_weight": node.PRESENCE_WEIGHT,
            "part_weight": node.PART_WEIGHT,
            "part_balance": node.PART_BALANCE,
            "class_balance": node.CLASS_BALANCE,
            "encode_prompts": encoder.encode_prompts,
            "decode": encoder.decode,
        }

    @classmethod
    def needs_image(cls, cfg: CfgNode) -> bool:
        return cfg.MODEL.DENSE_PROMPTER.COMPANION_DIM > 0

    @classmethod
    def needs_part_maps(cls, cfg: CfgNode) -> bool:
        return cfg.MODEL.DENSE_PROMPTER.PART_WEIGHT > 0

    def remember(self, features: Features) -> Tensor:
        """The memory [B, conv_dim, S/stride, S/stride]: all that is seen, with its context."""
        embedding = F.avg_pool2d(self.normalise(features["image_embedding"]), self.pooled)
        beside = self.companion_features(features)
        if self.semantic is not None:
            beside = [*beside, self.semantic(features, 2 * embedding.shape[-1])]
        coarse = torch.cat([embedding, *(F.avg_pool2d(fine, 2) for fine in beside)], dim=1)
        return self.fuse(torch.cat([self.upsample(self.context(coarse)), *beside], dim=1))

    def predict(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits [B, N, C+1], and boxes [B, N, 4] xyxy or points [B, N, 2] xy in pixels of the padded square.

        They may leave it: a limit would have no gradient beyond it, and training could not bring them back.
        """
        logits = self.classifier(self.class_head(self.class_tower(memory)).flatten(2).transpose(1, 2))
        deltas = self.prompt_head(self.prompt_tower(memory)).flatten(2).transpose(1, 2)
        return logits, self.apply_deltas(deltas)

    def part_map(self, memory: Tensor) -> Tensor:
        """What each cell is: logits [B, C+1, S/stride, S/stride], background last."""
        by_cell = self.part_head(self.part_tower(memory))
        return self.classifier(by_cell.movedim(1, -1)).movedim(-1, 1)

    def propose(self, features: Features) -> Proposals:
        memory = self.remember(features)
        logits, places = self.predict(memory)
        places = self.within_square(places)
        boxes = places if self.place == "box" else _boxes_around(places, self.stride)
        part_map = self.part_map(memory) if self.weights["part"] else None
        return Proposals(logits, lambda image, queries: self.encode(places[image, queries]), boxes, part_map)

    def encode(self, places: Tensor) -> Tensor:
        """Boxes [K, 4] or points [K, 2] to prompt tokens [K, T, D]."""
        return self.encode_prompts(**{"boxes" if self.place == "box" else "points": places})

    def losses(self, features: Features, targets: Sequence[PartTargets]) -> dict[str, Tensor]:
        """Classes (softmax focal loss) and places; with masks, tags and a dense head also theirs."""
        memory = self.remember(features)
        logits, places = self.predict(memory)
        matches = self.matcher(self.anchors, targets)
        losses = {"class": class_loss(focal_cross_entropy, logits, targets, matches, self.class_balance)}
        for name in LOSSES[self.label_type]:
            if not self.weights.get(name):
                continue
            if name == self.place:
                labelled = [target.boxes if name == "box" else target.points for target in targets]
                loss = self.place_losses[name]
                losses[name] = place_loss(KINDS_OF_PLACE[name], loss, places, labelled, targets, matches)
            elif name == "mask":
                asked = one_query_a_mask(matches, targets, self._distances_from_middle(targets, matches))
                prompts = [self.encode(self.within_square(places[i, query])) for i, (query, _) in enumerate(asked)]
                parts = [part for _, part in asked]
                losses[name] = decoded_mask_loss(self.decode, features, prompts, targets, parts)
            elif name == "presence":
                losses[name] = presence_loss(logits, targets)
        if self.weights["part"]:
            part_map = self.part_map(memory)
            losses["part"] = part_map_loss(part_map, targets, self.part_balance)
            if "presence" in losses:
                losses["presence"] = losses["presence"] + tagged_map_loss(part_map, targets)
        return weighted(losses, self.weights)

    def _distances_from_middle(
        self, targets: Sequence[PartTargets], matches: Sequence[tuple[Tensor, Tensor]]
    ) -> list[Tensor]:
        """[K] of each image's matches: how far a cell is from the middle of its part's box."""
        middles = [(target.boxes[:, :2] + target.boxes[:, 2:]) / 2 for target in targets]
        return [(self.anchors[query] - middle[part]).norm(dim=1) for middle, (query, part) in zip(middles, matches)]

    def companion_features(self, features: Features) -> list[Tensor]:
        """Those of the companion [B, companion_dim, S/stride, S/stride], zeros without images; [] without one."""
        if self.companion is None:
            return []
        height, width = (2 * side // self.pooled for side in features["image_embedding"].shape[-2:])
        if "image" not in features:
            logger.warning("the prompter's companion is not shown the images: its scores and prompts will be poorer")
            batch = len(features["image_embedding"])
            return [features["image_embedding"].new_zeros(batch, self.companion_dim, height, width)]
        return [resample(self.companion(features["image"]), width)]

    def apply_deltas(self, deltas: Tensor) -> Tensor:
        """Head outputs [B, N, 4] to boxes xyxy, or [B, N, 2] to points xy, in pixels of the padded square."""
        if self.place == "point":
            return self.anchors + deltas * self.stride
        # Log distances from the cell's centre to the sides, in eighths of the picture, so that training starts from
        # boxes of a likely size; the limit keeps exp() finite.
        distances = deltas.clamp(max=math.log(8)).exp() * (self.image_size / 8)
        left_top, right_bottom = distances.split(2, dim=-1)
        return torch.cat([self.anchors - left_top, self.anchors + right_bottom], dim=-1)

    def within_square(self, places: Tensor) -> Tensor:
        """Boxes or points as the segmenter is asked with them: it knows none outside the square."""
        return places.clamp(0, self.image_size)


def _boxes_around(points: Tensor, radius: float) -> Tensor:
    """Points [..., 2] to boxes [..., 4] of ``radius`` pixels around them, by which proposals can be thinned."""
    return torch.cat([points - radius, points + radius], dim=-1)
