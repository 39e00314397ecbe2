"""Boxes, masks, images and instances."""
# ruff: noqa: F401  (the public names)

from .boxes import Boxes, BoxMode, pairwise_iou
from .image_list import ImageList
from .instances import Instances
from .masks import BitMasks, PolygonMasks, polygons_to_bitmask
