"""Frozen networks that know what things are, beside a promptable segmenter that knows where they end.

SAM was trained to find edges whatever they belong to; its features hardly say what lies between them. Axes: B images,
S side of the padded square in pixels, D channels of a feature.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from torch import Tensor
from torch.nn import functional as F

from .frozen import FrozenModule, hash_tensors
from .semantic_networks import SemanticNetwork, read_network

# To be raised when the same weights and settings give other features than before.
VERSION = 1
# "semantic_8" has a cell every 8 pixels of the square.
PREFIX = "semantic_"


class SemanticEncoder(FrozenModule):
    """A network of transformers or timm, whose maps come out :func:`normalised`.

    Sources differ by orders of magnitude, between networks and between the stages of one; so they can be added up.

    Args:
        network: sees RGB in 0..1, normalised by its own mean and deviation.
        square: S, the side in pixels of the squares that come in.
        image_size: the side to which the square is scaled for the network.
    """

    def __init__(self, network: SemanticNetwork, square: int, image_size: int) -> None:
        super().__init__()
        self.network = network
        self.square = square
        self.image_size = image_size
        self.freeze()

    @property
    def features(self) -> dict[str, tuple[int, int, int]]:
        """Name to shape (D, h, w) of what :meth:`forward` gives for one image."""
        sides = {stride: self.image_size // stride for stride in self.network.channels}
        return {
            f"{PREFIX}{self.square // sides[stride]}": (channels, sides[stride], sides[stride])
            for stride, channels in self.network.channels.items()
        }

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Padded squares, RGB in 0..255, float [B, 3, S, S], to float32 maps [B, D, h, w] by name."""
        if images.shape[1:] != (3, self.square, self.square):
            raise ValueError(f"expected [B, 3, {self.square}, {self.square}], got {tuple(images.shape)}")
        # Not in the trained part's mixed precision: a cache must hold what training and inference see.
        with torch.autocast(images.device.type, enabled=False):
            size = (self.image_size, self.image_size)
            scaled = F.interpolate(images.float(), size, mode="bicubic", align_corners=False, antialias=True)
            maps = self.network.look(scaled.clamp(0, 255))
            return {name: normalised(feature) for name, feature in zip(self.features, maps)}

    def fingerprint(self) -> str:
        """SHA-256 of weights, preprocessing and code version."""
        about = {
            "version": VERSION,
            "weights": hash_tensors(sorted(self.network.state_dict().items())),
            "square": self.square,
            "image_size": self.image_size,
            "mean": [round(v, 6) for v in self.network.pixel_mean],
            "std": [round(v, 6) for v in self.network.pixel_std],
            "features": self.features,
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def normalised(feature: Tensor) -> Tensor:
    """A map [B, D, h, w] whose cells have mean 0 and variance 1 over their channels."""
    cells = feature.float().movedim(1, -1)
    return F.layer_norm(cells, cells.shape[-1:], eps=1e-6).movedim(-1, 1).contiguous()


class SemanticSpec(NamedTuple):
    """What is known of an encoder without keeping it: the shapes (D, h, w) of its features, and its fingerprint."""

    features: Mapping[str, tuple[int, int, int]]
    fingerprint: str


def build_semantic(cfg: CfgNode, square: int) -> SemanticEncoder | None:
    """The encoder of MODEL.SEMANTIC for squares of ``square`` pixels; None where no NAME is set.

    Raises:
        ValueError: the weights are missing, of another family, or incomplete; or sides do not fit.
    """
    node = cfg.MODEL.SEMANTIC
    return build_semantic_encoder(node.NAME, node.WEIGHTS, node.IMAGE_SIZE, square) if node.NAME else None


@cache
def _semantic_spec(name: str, weights: str, image_size: int, square: int) -> SemanticSpec:
    encoder = build_semantic_encoder(name, weights, image_size, square)
    return SemanticSpec(encoder.features, encoder.fingerprint())


def semantic_spec(cfg: CfgNode, square: int) -> SemanticSpec:
    """As :func:`build_semantic`, read for as long as it takes to hash it; no features where no NAME is set."""
    node = cfg.MODEL.SEMANTIC
    return _semantic_spec(node.NAME, node.WEIGHTS, node.IMAGE_SIZE, square) if node.NAME else SemanticSpec({}, "")


def build_semantic_encoder(name: str, weights: str, image_size: int, square: int) -> SemanticEncoder:
    """As :func:`build_semantic`, of MODEL.SEMANTIC.NAME, WEIGHTS and IMAGE_SIZE themselves."""
    network = read_network(name, weights)
    coarsest = max(network.channels)
    # A cell of a ViT then is a cell of SAM's; networks with several stages see the square as it is.
    image_size = image_size or (square // 16 * coarsest if len(network.channels) == 1 else square)
    if image_size % coarsest or square % (image_size // coarsest):
        raise ValueError(
            f"MODEL.SEMANTIC.IMAGE_SIZE is {image_size}; for {name!r} it must be a multiple of {coarsest}, its "
            f"coarsest cell, and have a number of them that divides {square}"
        )
    return SemanticEncoder(network, square, image_size)
