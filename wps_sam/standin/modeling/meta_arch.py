"""Meta-architectures: whole models, from a list of dicts to losses or predictions."""

import torch
from torch import nn

from ..config import CfgNode
from ..utils.registry import Registry

# Called as ``name(cfg)``.
META_ARCH_REGISTRY = Registry("META_ARCH")


def build_model(cfg: CfgNode) -> nn.Module:
    """Builds ``cfg.MODEL.META_ARCHITECTURE`` on ``cfg.MODEL.DEVICE``, without loading weights."""
    return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg).to(torch.device(cfg.MODEL.DEVICE))
