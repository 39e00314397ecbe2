"""Frozen networks that see pictures: promptable segmenters behind one interface."""

from .promptable import SAMImageEncoder
from .sam import build_sam

__all__ = ["SAMImageEncoder", "build_sam"]
