"""WPSSAM: one file per box of the paper's figure, ``meta_arch`` composes them. Baselines: ``clipseg``."""

from .backbone import SAMImageEncoder
from .clipseg import CLIPSeg
from .meta_arch import WPSSAM
from .prompter import PROMPTER_REGISTRY, DensePrompter, DETRPrompter
from .sam import build_sam

__all__ = [
    "PROMPTER_REGISTRY",
    "WPSSAM",
    "CLIPSeg",
    "DETRPrompter",
    "DensePrompter",
    "SAMImageEncoder",
    "build_sam",
]
