"""Prompters: image embedding in, class scores and SAM prompt tokens out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import torch
from detectron2.config import CfgNode, configurable
from fvcore.common.registry import Registry
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from ..structures import PromptPrediction
from .companion import Companion, ContextBlock
from .text_classifier import TextClassifier, build_text_classifier
from ..encoders.sam import PATCH_SIZE, PROMPT_DIM, get_arch
from .transformer import Transformer

logger = logging.getLogger(__name__)

PROMPTER_REGISTRY = Registry("PROMPTER")
PROMPTER_REGISTRY.__doc__ = """
Prompters. Called as ``prompter_class(cfg, encode_prompts)``; ``encode_prompts`` turns boxes [M, 4] or points
[M, 2] into SAM's tokens [M, 2, 256]. A prompter's forward takes the image embedding [B, 256, S/16, S/16] and the
normalised images [B, 3, S, S] that it was made of, which a prompter may look at or not, and returns a
``PromptPrediction``.
"""

EncodePrompts = Callable[[Tensor], Tensor]

# Log odds of "no part" against all C parts together, at the start of a dense prompter: a probability of 0.01.
RARE_PARTS = math.log(99)


def build_prompter(cfg: CfgNode, encode_prompts: EncodePrompts) -> nn.Module:
    """Builds ``MODEL.PROMPTER.NAME``."""
    return PROMPTER_REGISTRY.get(cfg.MODEL.PROMPTER.NAME)(cfg, encode_prompts)


@PROMPTER_REGISTRY.register()
class DETRPrompter(nn.Module):
    """The paper's prompter: strided neck, transformer, N learned queries, token regression.

    At the paper's sizes and C = 40 it has 12,717,609 parameters.
    """

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        text_classifier: TextClassifier | None = None,
        num_queries: int,
        embedding_size: int,
        neck_strides: Sequence[int],
        num_heads: int,
        ffn_dim: int,
        num_encoder_layers: int,
        num_decoder_layers: int,
    ) -> None:
        """``embedding_size``: side of the image embedding in cells, S/16."""
        super().__init__()
        dim = PROMPT_DIM
        neck: list[nn.Module] = []
        size = embedding_size
        for stride in neck_strides:
            neck += [nn.Conv2d(dim, dim, 3, stride, padding=1), LayerNorm2d(dim), nn.GELU()]
            size = -(-size // stride)
        self.neck = nn.Sequential(*neck)
        self.position = nn.Parameter(torch.zeros(1, dim, size, size))
        self.queries = nn.Embedding(num_queries, dim)
        self.transformer = Transformer(
            dim=dim,
            num_heads=num_heads,
            ffn_dim=ffn_dim,
            num_encoder_layers=num_encoder_layers,
            num_decoder_layers=num_decoder_layers,
        )
        self.class_head = nn.Linear(dim, text_classifier.dim if text_classifier else num_classes + 1)
        self.classifier = text_classifier or nn.Identity()
        self.prompt_head = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, 2 * dim))

    @classmethod
    def from_config(cls, cfg: CfgNode, encode_prompts: EncodePrompts) -> dict:
        node = cfg.MODEL.PROMPTER
        return {
            "num_classes": node.NUM_CLASSES,
            "text_classifier": build_text_classifier(cfg) if node.CLASSIFIER == "text" else None,
            "num_queries": node.NUM_QUERIES,
            "embedding_size": get_arch(cfg.MODEL.SAM.ARCH).image_size // PATCH_SIZE,
            "neck_strides": node.NECK_STRIDES,
            "num_heads": node.NUM_HEADS,
            "ffn_dim": node.FFN_DIM,
            "num_encoder_layers": node.NUM_ENCODER_LAYERS,
            "num_decoder_layers": node.NUM_DECODER_LAYERS,
        }

    def forward(self, image_embedding: Tensor, images: Tensor | None = None) -> PromptPrediction:
        memory = self.neck(image_embedding).flatten(2).transpose(1, 2)
        position = self.position.flatten(2).transpose(1, 2)
        hidden = self.transformer(memory, position, self.queries.weight)
        return PromptPrediction(
            logits=self.classifier(self.class_head(hidden)),
            tokens=self.prompt_head(hidden).unflatten(-1, (2, PROMPT_DIM)),
        )


@PROMPTER_REGISTRY.register()
class DensePrompter(nn.Module):
    """Every cell of a memory proposes a class and a box (as FCOS, arXiv 1904.01355) or a point.

    Boxes and points go through SAM's own frozen prompt encoder, so prompts are always ones that SAM knows, and
    can be drawn. Cells lie ``stride`` pixels apart, 8 or 16, and N is their number, (S/stride)^2. With
    ``companion_dim`` a small network of that width looks at the picture beside SAM's encoder. Not in the paper.
    """

    anchors: Tensor

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        text_classifier: TextClassifier | None = None,
        label_type: str,
        image_size: int,
        stride: int,
        conv_dim: int,
        num_convs: int,
        companion_dim: int,
        encode_prompts: EncodePrompts,
    ) -> None:
        super().__init__()
        self.encode_prompts = encode_prompts
        self.image_size = image_size
        self.stride = stride
        # Context is gathered on a grid twice as coarse as the memory: cells of the embedding along a side of one of it.
        self.pooled = 2 * stride // PATCH_SIZE
        self.label_type = label_type
        self.companion = Companion(companion_dim, stride) if companion_dim else None
        # SAM's embedding is mostly a constant per channel: what tells places apart is a small ripple on it.
        self.normalise = nn.InstanceNorm2d(PROMPT_DIM)
        self.context = nn.Sequential(
            nn.Conv2d(PROMPT_DIM + companion_dim, conv_dim, 1),
            *(ContextBlock(conv_dim) for _ in range(num_convs)),
        )
        self.upsample = nn.Sequential(
            nn.ConvTranspose2d(conv_dim, conv_dim, 2, 2), LayerNorm2d(conv_dim), nn.GELU()
        )
        self.companion_dim = companion_dim
        self.merge = nn.Conv2d(conv_dim + companion_dim, conv_dim, 1)
        self.class_tower = self._tower(conv_dim)
        self.prompt_tower = self._tower(conv_dim)
        self.class_head = nn.Conv2d(conv_dim, text_classifier.dim if text_classifier else num_classes + 1, 1)
        self.classifier = text_classifier or nn.Identity()
        self.prompt_head = nn.Conv2d(conv_dim, 4 if label_type == "box" else 2, 1)
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

    @classmethod
    def from_config(cls, cfg: CfgNode, encode_prompts: EncodePrompts) -> dict:
        node = cfg.MODEL.PROMPTER
        return {
            "num_classes": node.NUM_CLASSES,
            "text_classifier": build_text_classifier(cfg, RARE_PARTS) if node.CLASSIFIER == "text" else None,
            "label_type": cfg.WEAK_LABELS.TYPE,
            "image_size": get_arch(cfg.MODEL.SAM.ARCH).image_size,
            "stride": node.STRIDE,
            "conv_dim": node.CONV_DIM,
            "num_convs": node.NUM_CONVS,
            "companion_dim": node.COMPANION_DIM,
            "encode_prompts": encode_prompts,
        }

    def forward(self, image_embedding: Tensor, images: Tensor | None = None) -> PromptPrediction:
        seen = self.look(image_embedding, images)
        embedding = F.avg_pool2d(self.normalise(image_embedding), self.pooled)
        coarse = torch.cat([embedding, *(F.avg_pool2d(fine, 2) for fine in seen)], dim=1)
        memory = self.merge(torch.cat([self.upsample(self.context(coarse)), *seen], dim=1))
        logits = self.classifier(self.class_head(self.class_tower(memory)).flatten(2).transpose(1, 2))
        raw = self.prompt_head(self.prompt_tower(memory)).flatten(2).transpose(1, 2)
        geometry = self.read_out(raw)
        # What is learned is the geometry; SAM's code of it is only for SAM.
        with torch.no_grad():
            tokens = self.encode_prompts(geometry.flatten(0, 1)).unflatten(0, geometry.shape[:2])
        return PromptPrediction(logits=logits, tokens=tokens, geometry=geometry, anchors=self.anchors)

    def look(self, image_embedding: Tensor, images: Tensor | None) -> list[Tensor]:
        """The companion's features [B, companion_dim, S/stride, S/stride], zeros without images; [] without one."""
        if self.companion is None:
            return []
        if images is None:
            logger.warning("the prompter's companion is not shown the images: its scores and prompts will be poorer")
            batch, _, height, width = image_embedding.shape
            grid = (2 * height // self.pooled, 2 * width // self.pooled)
            return [image_embedding.new_zeros(batch, self.companion_dim, *grid)]
        return [self.companion(images)]

    def read_out(self, raw: Tensor) -> Tensor:
        """Head outputs [B, N, 4] to boxes xyxy, or [B, N, 2] to points xy, in pixels of the padded square."""
        if self.label_type == "point":
            return (self.anchors + raw * self.stride).clamp(0, self.image_size)
        # Log distances from the cell's centre to the sides, in eighths of the picture, so that training starts from
        # boxes of a likely size; the limit keeps exp() finite.
        distances = raw.clamp(max=math.log(8)).exp() * (self.image_size / 8)
        left_top, right_bottom = distances.split(2, dim=-1)
        boxes = torch.cat([self.anchors - left_top, self.anchors + right_bottom], dim=-1)
        return boxes.clamp(0, self.image_size)
