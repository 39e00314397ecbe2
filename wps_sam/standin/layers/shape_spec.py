"""``ShapeSpec``: what a module needs to know of a feature map before there is one."""

from dataclasses import dataclass


@dataclass
class ShapeSpec:
    """Channels, size in pixels, and stride to the image; None where unknown."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None
