"""Colours of pictures, varied in training."""

from __future__ import annotations

import cv2
import numpy as np
from detectron2.data import transforms as T
from fvcore.transforms.transform import NoOpTransform, Transform


class PhotometricDistortion(T.Augmentation):
    """SSD's (arXiv 1512.02325): brightness by up to 32, contrast and saturation by half to one and a half times, hue by
    up to 36 degrees; each in half of all cases, contrast before or after the colours."""

    def get_transform(self, image: np.ndarray) -> Transform:
        draw = np.random.uniform
        chosen = np.random.rand(5) < 0.5
        return _Distortion(
            brightness=draw(-32, 32) if chosen[0] else 0.0,
            contrast=draw(0.5, 1.5) if chosen[1] else 1.0,
            saturation=draw(0.5, 1.5) if chosen[2] else 1.0,
            hue=np.random.randint(-18, 19) if chosen[3] else 0,
            contrast_first=bool(chosen[4]),
        )


class _Distortion(Transform):
    """Colours alone: labels and places stay."""

    def __init__(self, brightness: float, contrast: float, saturation: float, hue: int, contrast_first: bool) -> None:
        super().__init__()
        self.brightness, self.contrast, self.contrast_first = brightness, contrast, contrast_first
        self.saturation, self.hue = saturation, hue

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        img = _scaled(img, 1.0, self.brightness)
        if self.contrast_first:
            img = _scaled(img, self.contrast, 0.0)
        hsv = cv2.cvtColor(img, cv2.COLOR_RGB2HSV)
        hsv[..., 1] = _scaled(hsv[..., 1], self.saturation, 0.0)
        hsv[..., 0] = (hsv[..., 0].astype(int) + self.hue) % 180
        img = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        return img if self.contrast_first else _scaled(img, self.contrast, 0.0)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return segmentation

    def inverse(self) -> Transform:
        return NoOpTransform()


def _scaled(values: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    return np.clip(values.astype(np.float32) * alpha + beta, 0, 255).astype(np.uint8)
