"""One interface over promptable segmenters: a picture is encoded once, prompts are encoded and decoded to masks.

Axes: B images, K prompts of one image, T tokens a prompt, D their width, S side of the square the network sees, E side
of its masks' logits (S/4 with SAM), n masks a prompt, h x w cells of a feature map.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..structures import Frame
from .frozen import FrozenModule


@dataclass(frozen=True)
class EncoderSpec:
    """What is known of an encoder before it is built.

    ``image_size`` S in pixels; ``resize`` brings a picture to the size at which ``preprocess`` takes it;
    ``features``: name to the shape (channels, h, w) of what ``encode`` gives for one image; ``box_tokens`` and
    ``point_tokens`` T, and ``prompt_dim`` D, of what ``encode_prompts`` makes of a box and of a point; ``mask_size``
    the side of the masks' logits in cells.
    """

    image_size: int
    resize: T.Augmentation
    features: Mapping[str, tuple[int, int, int]]
    box_tokens: int
    point_tokens: int
    prompt_dim: int
    mask_size: int


class MaskPredictions(NamedTuple):
    """The masks of one image's K prompts: ``logits`` [K, n, E, E], and the IoU [K, n] that the segmenter expects of
    each; None where it was not asked for it."""

    logits: Tensor
    iou: Tensor | None


class ResizeLongestSide(T.Augmentation):
    """Scales a picture to ``size`` pixels on its longest side, keeping its shape, as SAM does.

    Unlike Detectron2's ResizeShortestEdge(size, size) it leaves a thin picture at least one pixel thick. Features
    follow from the filter, too: its name is part of what a feature cache is known by.
    """

    FILTER = Image.Resampling.BILINEAR

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        scale = self.size / max(height, width)
        new_height, new_width = (max(1, int(side * scale + 0.5)) for side in (height, width))
        return T.ResizeTransform(height, width, new_height, new_width, self.FILTER)


class PromptableEncoder(FrozenModule, Backbone):
    """A frozen promptable segmenter, registered in Detectron2's BACKBONE_REGISTRY; see :mod:`.families`.

    What an image is, how it is prompted and how masks come back is its own business; a prompter and a model know
    only what is named here. The class methods answer before anything is built.
    """

    spec: EncoderSpec

    # -- by configuration

    @classmethod
    def load(cls, arch: str, weights: str = "", precision: str = "fp32", levels: str = "all") -> PromptableEncoder:
        """The encoder of MODEL.SAM.ARCH, WEIGHTS, PRECISION and LEVELS with all else as it is by default, for use
        without a configuration; an encoder that no ARCH names need not have it."""
        raise NotImplementedError(f"{cls.__name__} is built by a configuration alone")

    @classmethod
    @abstractmethod
    def spec_of(cls, cfg: CfgNode) -> EncoderSpec:
        """Sizes of the encoder that ``cfg`` asks for; ValueError where there is none such."""

    @classmethod
    @abstractmethod
    def feature_settings(cls, cfg: CfgNode) -> dict[str, Any]:
        """All that the features of a picture follow from, by name and ready for JSON: a feature cache of other
        settings does not fit."""

    # -- built

    @property
    def image_size(self) -> int:
        """S, the side of the square input in pixels."""
        return self.spec.image_size

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {"square_size": self.image_size}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(channels=channels, stride=self.image_size // height)
            for name, (channels, height, _) in self.spec.features.items()
        }

    @abstractmethod
    def frame(self, height: int, width: int) -> Frame:
        """Where a picture of this size, in pixels after ``spec.resize``, lies in the square; ValueError if it does not
        fit."""

    @abstractmethod
    def preprocess(self, image: Tensor) -> tuple[Tensor, Frame]:
        """uint8 RGB [3, h, w], as ``spec.resize`` leaves it, to the network's input [3, S, S] and its frame."""

    @abstractmethod
    def encode(self, images: Tensor) -> dict[str, Tensor]:
        """Inputs [B, 3, S, S] to features float32 [B, channels, h, w] by name, as the spec says; without gradient."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """As :meth:`encode`: Detectron2's name for it."""
        return self.encode(images)

    @abstractmethod
    def encode_prompts(
        self, *, boxes: Tensor | None = None, points: Tensor | None = None, inside: Tensor | None = None
    ) -> Tensor:
        """Boxes [K, 4] xyxy, points [K, 2] xy, or both (T is then larger), one a prompt, to tokens [K, T, D].

        With ``inside``, bool [K, P], points are [K, P, 2], P a prompt: the part is at those, and not at the others.
        Coordinates are pixels of the square, in float32 whatever autocast says. Differentiable in them.
        """

    @abstractmethod
    def decode(
        self, features: Mapping[str, Tensor], prompts: Sequence[Tensor], multimask: bool = False
    ) -> list[MaskPredictions]:
        """The masks of every image's prompts; gradients may flow to the prompts.

        Args:
            features: of :meth:`encode`, B images.
            prompts: for each image its tokens [K_i, T, D]; K_i may be 0.
            multimask: the n masks of an ambiguous prompt, each with its expected IoU, instead of the single one.
        """

    @abstractmethod
    def weights_hash(self) -> str:
        """SHA-256 of all weights."""

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of weights, preprocessing and code version: prompters fit the encoder they were trained on, and
        no other."""


# ------------------------------------------------------------------ what encoders share


def padded_frame(size: int, height: int, width: int) -> Frame:
    """A picture in the upper left of its square; ValueError if it does not fit."""
    if max(height, width) > size:
        raise ValueError(
            f"{width}x{height} does not fit the {size}x{size} square; resize the longest side to {size} first"
        )
    return Frame(size, height, width)


def pad(image: Tensor, frame: Frame) -> Tensor:
    """[..., h, w] to its square [..., S, S], zeros around it."""
    right = frame.size - frame.width - frame.left
    bottom = frame.size - frame.height - frame.top
    return F.pad(image, (frame.left, right, frame.top, bottom))


def check_levels(levels: str, needs_all: str) -> None:
    """ValueError if only the embedding is asked for and there is a reason, ``needs_all``, why it would not do."""
    if levels == "coarse" and needs_all:
        raise ValueError(f"MODEL.SAM.LEVELS is 'coarse', but {needs_all}; leave it at 'all'")


def check_columns(name: str, coordinates: Tensor, columns: int) -> None:
    """ValueError unless ``coordinates`` are [K, columns]."""
    if coordinates.dim() != 2 or coordinates.shape[1] != columns:
        raise ValueError(f"{name}: expected [K, {columns}] in pixels, got a tensor {tuple(coordinates.shape)}")


def one_click_a_prompt(points: Tensor) -> tuple[Tensor, Tensor]:
    """Points [K, 2] as [K, 1, 2], and that each is inside, bool [K, 1]."""
    check_columns("points", points, 2)
    return points[:, None], torch.ones(len(points), 1, dtype=torch.bool, device=points.device)
