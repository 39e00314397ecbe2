"""The registry of backbones."""

from __future__ import annotations

from ...config import CfgNode
from ...layers import ShapeSpec
from ...utils.registry import Registry
from .backbone import Backbone

BACKBONE_REGISTRY = Registry("BACKBONE")
BACKBONE_REGISTRY.__doc__ = "Backbones by name, called as ``name(cfg, input_shape)``."


def build_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> Backbone:
    """Builds ``cfg.MODEL.BACKBONE.NAME``; the input has as many channels as ``cfg.MODEL.PIXEL_MEAN``."""
    if input_shape is None:
        input_shape = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, input_shape)
    if not isinstance(backbone, Backbone):
        raise TypeError(f"{cfg.MODEL.BACKBONE.NAME} is a {type(backbone).__name__}, expected a Backbone")
    return backbone
