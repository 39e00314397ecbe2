"""Which encoder MODEL.SAM.ARCH asks for."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY

from .build_sam import SAM_ARCHS
from .hugging_face_networks import HUGGING_FACE_ARCHS
from .promptable import PromptableEncoder

# Every encoder of this project, by its name in BACKBONE_REGISTRY, and the values of MODEL.SAM.ARCH that it builds.
FAMILIES: Mapping[str, Collection[str]] = {
    "SAMEncoder": SAM_ARCHS,
    "HuggingFaceSAM": HUGGING_FACE_ARCHS,
}


def all_archs() -> list[str]:
    """Every value of MODEL.SAM.ARCH that an encoder of this project builds."""
    return [arch for archs in FAMILIES.values() for arch in archs]


def family_of(arch: str) -> type[PromptableEncoder]:
    """The encoder that builds MODEL.SAM.ARCH ``arch``; ValueError lists what there is."""
    for name, archs in FAMILIES.items():
        if arch in archs:
            return BACKBONE_REGISTRY.get(name)
    raise ValueError(f"MODEL.SAM.ARCH: unknown SAM {arch!r}; expected one of {', '.join(all_archs())}")


def encoder_class(cfg: CfgNode) -> type[PromptableEncoder]:
    """The encoder of MODEL.BACKBONE.NAME; where that is empty, or one of ours, the one that builds MODEL.SAM.ARCH.

    Raises:
        ValueError: no encoder is registered under that name, or none builds that ARCH.
    """
    name = cfg.MODEL.BACKBONE.NAME
    if not name or name in FAMILIES:
        return family_of(cfg.MODEL.SAM.ARCH)
    if name not in BACKBONE_REGISTRY:
        raise ValueError(
            f"MODEL.BACKBONE.NAME is {name!r}, and no such encoder is registered; leave it empty for that of "
            "MODEL.SAM.ARCH (once 'SAMImageEncoder')"
        )
    return BACKBONE_REGISTRY.get(name)


def build_encoder(cfg: CfgNode) -> PromptableEncoder:
    """What :func:`encoder_class` says, built; Detectron2's ``build_backbone`` for encoders that ARCH chooses."""
    return encoder_class(cfg)(cfg, ShapeSpec(channels=3))
