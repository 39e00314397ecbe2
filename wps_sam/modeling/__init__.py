"""The model: one file per box of the paper's figure, ``meta_arch`` composes them."""

from .backbone import SAMImageEncoder
from .meta_arch import WPSSAM
from .prompter import PROMPTER_REGISTRY, DensePrompter, DETRPrompter
from .sam import build_sam

__all__ = ["PROMPTER_REGISTRY", "WPSSAM", "DETRPrompter", "DensePrompter", "SAMImageEncoder", "build_sam"]
