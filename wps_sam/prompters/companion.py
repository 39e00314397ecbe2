"""A small trainable network beside the frozen encoder.

SAM was trained to find edges whatever they belong to, so its embedding says little about what things are: colour
and texture, which name most parts, are what it learned to ignore. The companion looks at the picture itself.
"""

from __future__ import annotations

from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F


class ContextBlock(nn.Module):
    """A ConvNeXt block (arXiv 2201.03545): 7x7 depth-wise convolution, then a two-layer perceptron per cell."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = LayerNorm2d(dim)
        self.expand = nn.Conv2d(dim, 4 * dim, 1)
        self.reduce = nn.Conv2d(4 * dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.reduce(F.gelu(self.expand(self.norm(self.mix(x)))))


class Companion(nn.Sequential):
    """Normalised images [B, 3, S, S] to features [B, dim, S/stride, S/stride]; a two-stage ConvNeXt."""

    def __init__(self, dim: int, stride: int) -> None:
        patch = stride // 2
        super().__init__(
            nn.Conv2d(3, dim // 2, patch, stride=patch),
            LayerNorm2d(dim // 2),
            ContextBlock(dim // 2),
            LayerNorm2d(dim // 2),
            nn.Conv2d(dim // 2, dim, 2, stride=2),
            ContextBlock(dim),
            ContextBlock(dim),
            LayerNorm2d(dim),
        )
