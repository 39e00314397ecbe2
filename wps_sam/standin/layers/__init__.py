"""The few layer-level names in use."""

from .nms import batched_nms
from .shape_spec import ShapeSpec

__all__ = ["ShapeSpec", "batched_nms"]
