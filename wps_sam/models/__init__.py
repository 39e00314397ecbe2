"""The meta-architectures: WPSSAM, and the baselines that run through the same tools."""

from .catseg import CATSeg
from .clipseg import CLIPSeg
from .mask2former import Mask2Former
from .wps_sam import WPSSAM
from .zsseg import ZSSeg

__all__ = ["WPSSAM", "CATSeg", "CLIPSeg", "Mask2Former", "ZSSeg"]
