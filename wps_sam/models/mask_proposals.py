"""ZSSeg+'s first stage: masks inside of one object, each with a vector to compare with class names.

MaskFormer (arXiv 2107.06278) as OV-PARTS (arXiv 2310.05107) turned it to parts. Axes: B images, L decoder layers, Q
queries, E width of the joint embedding, D width of the network, H x W its input, h x w = H/4 x W/4 its masks.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders.clip import import_transformers
from ..prompters.transformer import Decoder
from .resnet import ResNet

# Sides of what the network sees are multiples of it: the stride of res5, at which queries look at the picture.
STRIDE = 32
# Width, heads, feed-forward, decoder layers, and width inside of the class head; tiny ones for tests.
SIZES = {"published": (256, 8, 2048, 6, 1024), "tiny": (32, 4, 64, 2, 64)}
DROPOUT = 0.1


class Proposals(NamedTuple):
    """Of every decoder layer, the last one last: ``features`` float [L, B, Q, E] of unit length, ``masks`` logits
    [L, B, Q, h, w]."""

    features: Tensor
    masks: Tensor


class MaskProposals(nn.Module):
    """Backbone, pixel decoder and queries.

    Args:
        backbone: gives res2 to res5.
        size: a key of :data:`SIZES`.
        num_queries: Q.
        embedding_dim: E.
        attention: "inside": queries look at the object's cells alone, or at all if the object covers none. "additive":
            the reference's code, whose mask of numbers PyTorch adds to the scores: 1 more for cells outside.
    """

    def __init__(
        self,
        backbone: ResNet,
        *,
        size: str,
        num_queries: int,
        embedding_dim: int,
        attention: Literal["inside", "additive"] = "inside",
    ) -> None:
        super().__init__()
        import_transformers("MODEL.META_ARCHITECTURE ZSSeg")
        from transformers.models.maskformer import modeling_maskformer as maskformer

        dim, num_heads, ffn_dim, num_layers, inside = SIZES[size]
        self.attention = attention
        self.backbone = backbone
        *lateral, top = backbone.channels
        self.pixel_decoder: Any = maskformer.MaskFormerPixelDecoder(
            top, lateral, feature_size=dim, mask_feature_size=dim
        )
        self.position = maskformer.MaskFormerSinePositionEmbedding(dim // 2, normalize=True)
        self.queries = nn.Embedding(num_queries, dim)
        self.input_projection = nn.Conv2d(top, dim, 1)
        self.decoder = Decoder(num_layers, dim, num_heads, ffn_dim, DROPOUT)
        self.mask_head = nn.Sequential(
            *(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        )
        self.class_head = nn.Sequential(nn.Linear(dim, inside), nn.ReLU(), nn.Linear(inside, embedding_dim))
        for module in (*self.pixel_decoder.modules(), self.input_projection):
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for parameter in self.decoder.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, images: Tensor, objects: Tensor) -> Proposals:
        """Normalised images [B, 3, H, W] and masks of their objects, float 0 or 1, [B, 1, H, W], to proposals."""
        maps = self.backbone(images)
        pixels = self.pixel_decoder(maps).last_hidden_state
        memory = self.input_projection(maps[-1])
        position = self.position(memory.shape, memory.device, memory.dtype)
        queries = self.queries.weight.expand(len(images), -1, -1)
        states = self.decoder(
            *(torch.zeros_like(queries), queries, _cells(memory), _cells(position)),
            memory_mask=self.memory_mask(objects),
        )
        of_object = object_features(pixels, objects)
        features = F.normalize(self.class_head(states + of_object[:, None]), dim=-1)
        return Proposals(features, torch.einsum("lbqd,bdhw->lbqhw", self.mask_head(states), pixels))

    def memory_mask(self, objects: Tensor) -> Tensor:
        """Masks float [B, 1, H, W] to what attention does with the cells of res5, [B, cells]; see ``attention``."""
        outside = 1 - F.max_pool2d(objects, STRIDE).flatten(1)
        if self.attention == "additive":
            return outside
        closed = outside > 0
        return closed & ~closed.all(1, keepdim=True)


def object_features(pixels: Tensor, objects: Tensor) -> Tensor:
    """Features float [B, D, h, w] in the object's mask, float [B, 1, H, W], summed, divided by all pixels: [B, D].

    By **all**, so that a small object's is short. Features are enlarged to H x W by the nearest, which is to say that a
    cell counts as much as of it is covered.
    """
    height, width = pixels.shape[-2:]
    covered = F.adaptive_avg_pool2d(objects, (height, width))
    return (pixels * covered).mean((2, 3))


def _cells(grid: Tensor) -> Tensor:
    """[B, D, h, w] to [B, h * w, D]."""
    return grid.flatten(2).transpose(1, 2)
