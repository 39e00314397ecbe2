"""The augmentations in use. They draw from numpy in Detectron2's order: the same seed, the same result."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from fvcore.transforms.transform import CropTransform, HFlipTransform, NoOpTransform, Transform, VFlipTransform
from PIL import Image

from .augmentation import Augmentation
from .transform import ResizeTransform


class RandomFlip(Augmentation):
    """Flips, horizontally or vertically, with probability ``prob``."""

    def __init__(self, prob: float = 0.5, *, horizontal: bool = True, vertical: bool = False) -> None:
        if horizontal == vertical:
            raise ValueError("expected exactly one of horizontal and vertical")
        self.prob, self.horizontal = prob, horizontal

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        if np.random.uniform() >= self.prob:
            return NoOpTransform()
        return HFlipTransform(width) if self.horizontal else VFlipTransform(height)


class Resize(Augmentation):
    """Resizes to ``shape`` (height, width), or to a square of one number."""

    def __init__(self, shape: int | tuple[int, int], interp: int = Image.Resampling.BILINEAR) -> None:
        self.shape = (shape, shape) if isinstance(shape, int) else (shape[0], shape[1])
        self.interp = interp

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        return ResizeTransform(height, width, *self.shape, self.interp)


class ResizeShortestEdge(Augmentation):
    """Resizes the shorter side to a drawn length, but the longer to ``max_size`` at most.

    ``short_edge_length`` is a range (min, max), or lengths to choose from, by ``sample_style``.
    """

    def __init__(
        self,
        short_edge_length: int | Sequence[int],
        max_size: float = float("inf"),
        sample_style: str = "range",
        interp: int = Image.Resampling.BILINEAR,
    ) -> None:
        lengths = (short_edge_length,) * 2 if isinstance(short_edge_length, int) else short_edge_length
        if sample_style not in ("range", "choice") or (sample_style == "range" and len(lengths) != 2):
            raise ValueError(f"sample_style={sample_style!r} of {lengths}: expected choice, or range of (min, max)")
        self.lengths, self.max_size, self.sample_style, self.interp = lengths, max_size, sample_style, interp

    def get_transform(self, image: np.ndarray) -> Transform:
        if self.sample_style == "range":
            size = np.random.randint(self.lengths[0], self.lengths[1] + 1)
        else:
            size = np.random.choice(self.lengths)
        if size == 0:
            return NoOpTransform()
        height, width = image.shape[:2]
        new_shape = self.get_output_shape(height, width, size, self.max_size)
        return ResizeTransform(height, width, *new_shape, self.interp)

    @staticmethod
    def get_output_shape(oldh: int, oldw: int, short_edge_length: int, max_size: float) -> tuple[int, int]:
        """(height, width) with the shorter side ``short_edge_length`` and no side above ``max_size``."""
        size = float(short_edge_length)
        scale = size / min(oldh, oldw)
        # The shorter side is the number itself, not a product that may round to one less.
        height, width = (size, scale * oldw) if oldh < oldw else (scale * oldh, size)
        shrink = min(1.0, max_size / max(height, width))
        return int(height * shrink + 0.5), int(width * shrink + 0.5)


class RandomCrop(Augmentation):
    """Crops at a random place.

    ``crop_size`` is (height, width): of a share of the image (``relative``), of shares drawn between it
    and 1 (``relative_range``), in pixels (``absolute``), or of pixel sides drawn from its (min, max)
    (``absolute_range``).
    """

    def __init__(self, crop_type: str, crop_size: tuple[float, float]) -> None:
        if crop_type not in ("relative_range", "relative", "absolute", "absolute_range"):
            raise ValueError(f"crop_type={crop_type!r}: expected (relative|absolute)[_range]")
        self.crop_type, self.crop_size = crop_type, crop_size

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        crop_height, crop_width = self.get_crop_size((height, width))
        top = np.random.randint(height - crop_height + 1)
        left = np.random.randint(width - crop_width + 1)
        return CropTransform(left, top, crop_width, crop_height)

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Draws (height, width) of the crop for an image of (height, width)."""
        height, width = image_size
        if self.crop_type == "absolute":
            return min(int(self.crop_size[0]), height), min(int(self.crop_size[1]), width)
        if self.crop_type == "absolute_range":
            low, high = int(self.crop_size[0]), int(self.crop_size[1])
            drawn = [np.random.randint(min(side, low), min(side, high) + 1) for side in image_size]
            return drawn[0], drawn[1]
        share: np.ndarray = np.asarray(self.crop_size, dtype=np.float32)
        if self.crop_type == "relative_range":
            share = share + np.random.rand(2) * (1 - share)
        return int(height * share[0] + 0.5), int(width * share[1] + 0.5)
