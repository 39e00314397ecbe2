"""Typed values that stages of the model hand to each other.

Axes in comments: B images, N prompt queries, M ground-truth parts of one image, C part classes,
T = 2 prompt tokens, D = 256 (SAM's prompt width), S side of the padded network square in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Frame:
    """Where one resized image lies in the padded S x S square the network sees.

    All values in pixels. ``left`` and ``top`` are 0 with SAM's own padding (bottom and right).
    """

    size: int
    height: int
    width: int
    top: int = 0
    left: int = 0

    def crop(self, square: torch.Tensor) -> torch.Tensor:
        """Cuts the image region out of ``square`` [..., S, S] and returns [..., height, width]."""
        if square.shape[-2:] != (self.size, self.size):
            raise ValueError(f"expected a [..., {self.size}, {self.size}] tensor, got {tuple(square.shape)}")
        return square[..., self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass
class PartTargets:
    """The weak labels of one image, as the criterion needs them.

    ``labels`` int64 [M]; ``tokens`` float [M, 2, D], the teacher's prompt tokens; ``geometry`` float
    [M, 4] boxes xyxy or [M, 2] points xy, in pixels of the padded square.
    """

    labels: torch.Tensor
    tokens: torch.Tensor
    geometry: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass
class PromptPrediction:
    """What a prompter says of a batch.

    ``logits`` float [B, N, C+1], last = no part; ``tokens`` float [B, N, 2, D]; ``geometry`` float
    [B, N, 4] or [B, N, 2] in pixels of the padded square where the prompter reads prompts out as boxes
    or points, None where it regresses tokens directly (the paper's way); ``anchors`` [N, 2] the
    reference points xy of a prompter whose queries have a fixed place, else None.
    """

    logits: torch.Tensor
    tokens: torch.Tensor
    geometry: torch.Tensor | None = None
    anchors: torch.Tensor | None = None
