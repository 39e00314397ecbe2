"""How a prompter reads the features of a frozen semantic network."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from ..structures import Features

# (D, h, w) of a feature of one image.
Shape = tuple[int, int, int]


class SemanticInput(nn.Module):
    """Every map of a semantic network projected to ``dim`` channels, all added up on one grid.

    Args:
        shapes: (D, h, w) of the maps by name.
        dim: channels that come out.
    """

    def __init__(self, shapes: Mapping[str, Shape], dim: int) -> None:
        super().__init__()
        self.project = nn.ModuleDict({name: nn.Conv2d(shape[0], dim, 1) for name, shape in shapes.items()})

    def forward(self, features: Features, size: int) -> Tensor:
        """The maps among ``features`` to [B, dim, size, size]."""
        return sum(resample(project(features[name]), size) for name, project in self.project.items())  # type: ignore


def resample(feature: Tensor, size: int) -> Tensor:
    """A square map [B, D, h, h] to [B, D, size, size]: means of finer cells, bilinear between coarser ones."""
    if feature.shape[-1] == size:
        return feature
    if feature.shape[-1] > size:
        return F.adaptive_avg_pool2d(feature, size)
    return F.interpolate(feature, (size, size), mode="bilinear", align_corners=False)
