"""Frozen networks that see pictures: promptable segmenters behind one interface."""

from .build_sam import build_sam
from .promptable import EncoderSpec, MaskPredictions, PromptableEncoder, ResizeLongestSide
from .sam import SAMEncoder

__all__ = ["EncoderSpec", "MaskPredictions", "PromptableEncoder", "ResizeLongestSide", "SAMEncoder", "build_sam"]
