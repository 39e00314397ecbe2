"""Transforms (what is done) and augmentations (that draw what is done); most transforms are fvcore's."""
# ruff: noqa: F401  (the public names)

from fvcore.transforms.transform import (
    CropTransform,
    HFlipTransform,
    NoOpTransform,
    PadTransform,
    Transform,
    TransformList,
    VFlipTransform,
)

from .augmentation import AugInput, Augmentation, AugmentationList
from .augmentation_impl import RandomCrop, RandomFlip, Resize, ResizeShortestEdge
from .transform import ResizeTransform
