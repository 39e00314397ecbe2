"""Registries of models and backbones."""
# ruff: noqa: F401  (the public names)

from ..layers import ShapeSpec
from .backbone import BACKBONE_REGISTRY, Backbone, build_backbone
from .meta_arch import META_ARCH_REGISTRY, build_model
