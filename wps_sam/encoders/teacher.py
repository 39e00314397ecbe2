"""Weak labels to target tokens, through SAM's frozen prompt encoder (paper, section on prompt learning)."""

from __future__ import annotations

import torch
from segment_anything.modeling import PromptEncoder
from torch import Tensor

from .sam import FrozenModule


class PromptTeacher(FrozenModule):
    """SAM's prompt encoder, asked for exactly two tokens a part: a box's corners, or a point and its padding."""

    def __init__(self, prompt_encoder: PromptEncoder) -> None:
        super().__init__()
        self.prompt_encoder = prompt_encoder
        self.freeze()

    def encode(self, geometry: Tensor) -> Tensor:
        """Boxes [M, 4] xyxy or points [M, 2] xy to tokens [M, 2, 256].

        Coordinates are pixels of the padded square; integers are pixel centres (SAM's prompt encoder adds the
        half pixel itself). Differentiable in the coordinates.
        """
        if geometry.dim() != 2 or geometry.shape[1] not in (2, 4):
            raise ValueError(
                f"expected boxes [M, 4] xyxy or points [M, 2] xy in pixels, got a tensor {tuple(geometry.shape)}"
            )
        if geometry.shape[1] == 4:
            return self.prompt_encoder(points=None, boxes=geometry, masks=None)[0]
        positive = torch.ones(len(geometry), 1, dtype=torch.int64, device=geometry.device)
        return self.prompt_encoder(points=(geometry[:, None], positive), boxes=None, masks=None)[0]

    @torch.no_grad()
    def forward(self, geometry: Tensor) -> Tensor:
        """As ``encode``, without gradients: the teacher of the paper."""
        return self.encode(geometry)

    def dense_prompt(self) -> tuple[Tensor, Tensor]:
        """SAM's "no mask" embedding and its dense position encoding, both [1, 256, S/16, S/16]."""
        no_mask = self.prompt_encoder(points=None, boxes=None, masks=None)[1]
        return no_mask, self.prompt_encoder.get_dense_pe()
