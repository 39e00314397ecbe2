"""The meta-architectures: WPSSAM, and the baselines that run through the same tools."""

from .clipseg import CLIPSeg
from .wps_sam import WPSSAM

__all__ = ["WPSSAM", "CLIPSeg"]
