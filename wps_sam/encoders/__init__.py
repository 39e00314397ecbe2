"""Frozen networks that see pictures: promptable segmenters behind one interface, and semantic networks beside them."""

from .build_sam import build_sam
from .families import all_archs, build_encoder, encoder_class, family_of
from .hugging_face import HuggingFaceSAM
from .promptable import EncoderSpec, MaskPredictions, PromptableEncoder, ResizeLongestSide
from .sam import SAMEncoder
from .semantic import SemanticEncoder, build_semantic, semantic_spec
from .semantic_networks import check_name as check_semantic_name

__all__ = [
    "EncoderSpec",
    "HuggingFaceSAM",
    "MaskPredictions",
    "PromptableEncoder",
    "ResizeLongestSide",
    "SAMEncoder",
    "SemanticEncoder",
    "all_archs",
    "build_encoder",
    "build_sam",
    "build_semantic",
    "check_semantic_name",
    "encoder_class",
    "family_of",
    "semantic_spec",
]
