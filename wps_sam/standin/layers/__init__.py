"""The few layer-level names in use."""

from .nms import batched_nms
from .shape_spec import ShapeSpec
from .wrappers import cat, interpolate, nonzero_tuple

__all__ = ["ShapeSpec", "batched_nms", "cat", "interpolate", "nonzero_tuple"]
