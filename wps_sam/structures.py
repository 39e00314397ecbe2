"""Typed values that stages of the model hand to each other.

Axes in comments: B images, N prompt queries, M labelled parts of one image, C part classes, T tokens a prompt and D
their width (2 and 256 with SAM), S side of the network's square in pixels, E that of its masks' logits in cells (S/4
with SAM).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch

# Of a batch, by name: what an encoder saw, such as "image_embedding" [B, 256, h, w], and "image" [B, 3, S, S], the
# normalised pictures themselves, where somebody looks at them.
Features = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Frame:
    """Where one resized image lies in the padded S x S square the network sees.

    All values in pixels. ``left`` and ``top`` are 0 with SAM's own padding (bottom and right).
    ``stretched``: both sides were scaled to the square's, each by its own factor, as SAM 2 does.
    """

    size: int
    height: int
    width: int
    top: int = 0
    left: int = 0
    stretched: bool = False

    def crop(self, square: torch.Tensor) -> torch.Tensor:
        """Cuts the image region out of ``square`` [..., S, S] and returns [..., height, width]."""
        if square.shape[-2:] != (self.size, self.size):
            raise ValueError(f"expected a [..., {self.size}, {self.size}] tensor, got {tuple(square.shape)}")
        return square[..., self.top : self.top + self.height, self.left : self.left + self.width]


def input_size(model_input: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) in pixels of a model input's picture after augmentation.

    Read off "image" [3, h, w], or "image_size", which stands in its place where nobody needs the pixels.
    """
    if "image" in model_input:
        height, width = model_input["image"].shape[-2:]
    else:
        height, width = model_input["image_size"]
    return height, width


# In a part map: nobody knows what a pixel shows; and it is beside the picture, in the padding of its square.
UNKNOWN = 65535
PADDING = 65534


class LabelKind(IntEnum):
    """What is known of one labelled part, the least first."""

    TAG = 0  # that it is in the picture
    POINT = 1
    BOX = 2
    MASK = 3


@dataclass
class PartTargets:
    """The labels of one image, each as weak as its annotation.

    Of the M parts with a place: ``labels`` int64 [M]; ``kinds`` int64 [M] of :class:`LabelKind`, POINT, BOX or MASK;
    ``boxes`` float [M, 4] xyxy of boxes and masks, ``points`` float [M, 2] xy of points, in pixels of the padded
    square, of which the first spans 0 to 1: both reach a segmenter in this system, as in the authors' code, where a
    point is the centre of a box; ``masks`` float [M, E, E], the covered share of each cell, of masks. Rows of
    another kind hold zeros; ``masks`` is None where no part has one. ``tags`` int64 [T]: classes that are in the
    picture, nobody says where; ``cropped``: of which only a piece is seen, so that they may lie beside it.
    ``part_map`` int64 [S, S]: the class of each pixel, C for background, UNKNOWN, or PADDING beside the picture; None
    where the model learns none.
    """

    labels: torch.Tensor
    kinds: torch.Tensor
    boxes: torch.Tensor
    points: torch.Tensor
    masks: torch.Tensor | None = None
    tags: torch.Tensor | None = None
    cropped: bool = False
    part_map: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of_boxes(cls, labels: torch.Tensor, boxes: torch.Tensor) -> PartTargets:
        """Parts [M] of boxes [M, 4]."""
        kinds = torch.full_like(labels, LabelKind.BOX)
        return cls(labels, kinds, boxes, boxes.new_zeros(len(boxes), 2))

    @classmethod
    def of_points(cls, labels: torch.Tensor, points: torch.Tensor) -> PartTargets:
        """Parts [M] of points [M, 2]."""
        kinds = torch.full_like(labels, LabelKind.POINT)
        return cls(labels, kinds, points.new_zeros(len(points), 4), points)

    def of_kind(self, *kinds: LabelKind) -> torch.Tensor:
        """bool [M]: the parts of these kinds."""
        chosen = torch.zeros_like(self.kinds, dtype=torch.bool)
        for kind in kinds:
            chosen |= self.kinds == kind
        return chosen


@dataclass
class Proposals:
    """The parts that a prompter proposes for a batch, and how it would ask a segmenter for each.

    ``logits`` float [B, N, C+1], last = no part; ``boxes`` float [B, N, 4] xyxy in pixels of the padded square, by
    which proposals can be thinned, None where the prompter says no place; ``encode`` (image, queries int64 [K]) to
    prompt tokens [K, T, D], for those alone that are to be decoded; ``part_map`` float [B, C+1, h, w], the logits of
    every cell of the square, background last, where the prompter also says what each pixel is.
    """

    logits: torch.Tensor
    encode: Callable[[int, torch.Tensor], torch.Tensor]
    boxes: torch.Tensor | None = None
    part_map: torch.Tensor | None = None

    @property
    def tokens(self) -> torch.Tensor:
        """The prompts of all N queries [B, N, T, D]."""
        queries = torch.arange(self.logits.shape[1], device=self.logits.device)
        return torch.stack([self.encode(image, queries) for image in range(len(self.logits))])
