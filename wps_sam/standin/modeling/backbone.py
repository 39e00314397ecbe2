"""Backbones: an image in, named feature maps out."""

from __future__ import annotations

import torch
from torch import nn

from ..config import CfgNode
from ..layers import ShapeSpec
from ..utils.registry import Registry

# Called as ``name(cfg, input_shape)``.
BACKBONE_REGISTRY = Registry("BACKBONE")


class Backbone(nn.Module):
    """A network from an image [N, 3, H, W] to a dict of feature maps.

    Subclasses set ``_out_features``, ``_out_feature_channels`` and ``_out_feature_strides``, or replace
    ``output_shape``.
    """

    _out_features: list[str]
    _out_feature_channels: dict[str, int]
    _out_feature_strides: dict[str, int]

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns feature maps by name."""
        raise NotImplementedError

    @property
    def size_divisibility(self) -> int:
        """Image sides must be a multiple of this; 0: of nothing."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """What ``ImageList.from_tensors`` has to keep: ``size_divisibility``, ``square_size``."""
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each feature map."""
        channels, strides = self._out_feature_channels, self._out_feature_strides
        return {name: ShapeSpec(channels=channels[name], stride=strides[name]) for name in self._out_features}


def build_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> Backbone:
    """Builds ``cfg.MODEL.BACKBONE.NAME``; the input has as many channels as ``cfg.MODEL.PIXEL_MEAN``."""
    if input_shape is None:
        input_shape = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, input_shape)
    if not isinstance(backbone, Backbone):
        raise TypeError(f"{cfg.MODEL.BACKBONE.NAME} is a {type(backbone).__name__}, expected a Backbone")
    return backbone
