"""``ShapeSpec``: what a module needs to know of a feature map before there is one."""

from dataclasses import dataclass
from typing import Optional


@dataclass
class ShapeSpec:
    """Channels, size in pixels, and stride to the image; None where unknown."""

    channels: Optional[int] = None
    height: Optional[int] = None
    width: Optional[int] = None
    stride: Optional[int] = None
