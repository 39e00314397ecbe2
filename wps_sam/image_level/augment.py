"""How pictures vary while words are learned: FMA-WSSS's augmentation, step by step as its OpenCV code computes it."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np


def colour_jitter(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast about black, saturation and hue, in any order, each in half of all cases.

    Every step is |alpha v + beta| cut at 255: dark values and small hues bounce back at 0, large ones stick at 255.

    Args:
        image: uint8 [H, W, 3], RGB.
    """
    steps: list[Callable[[np.ndarray], np.ndarray]] = [
        lambda x: cv2.convertScaleAbs(x, alpha=1.0, beta=rng.uniform(-25, 25)),
        lambda x: cv2.convertScaleAbs(x, alpha=rng.uniform(0.6, 1.4), beta=0),
        lambda x: _of_channel(x, 1, rng.uniform(0.5, 1.5), 0.0),
        lambda x: _of_channel(x, 0, 1.0, rng.uniform(-25, 25)),
    ]
    for k in rng.permutation(len(steps)):
        if rng.random() < 0.5:
            image = steps[k](image)
    return image


def _of_channel(image: np.ndarray, channel: int, alpha: float, beta: float) -> np.ndarray:
    """A step on one channel of hue (0..255), saturation and value."""
    converted = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    converted[..., channel] = cv2.convertScaleAbs(converted[..., channel], alpha=alpha, beta=beta).reshape(
        converted.shape[:2]
    )
    return cv2.cvtColor(converted, cv2.COLOR_HSV2RGB_FULL)


def scale_and_crop(
    image: np.ndarray, label: np.ndarray, crop: int, long_side: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A square of ``crop`` pixels out of the picture and its label map, scaled alike, mirrored in half of all cases.

    The longer side becomes a whole number of pixels of the range, ends included, or more if the shorter one would be
    less than the crop.
    """
    height, width = image.shape[:2]
    ratio = max(rng.integers(long_side[0], long_side[1] + 1) / max(height, width), crop / min(height, width))
    size = (max(round(width * ratio), crop), max(round(height * ratio), crop))
    image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    # OpenCV's nearest, of 16-bit labels.
    label = cv2.resize(label.astype(np.uint16), size, interpolation=cv2.INTER_NEAREST).astype(np.int64)
    x, y = (int(rng.integers(0, side - crop + 1)) for side in size)
    image, label = image[y : y + crop, x : x + crop], label[y : y + crop, x : x + crop]
    if rng.random() < 0.5:
        image, label = image[:, ::-1], label[:, ::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(label)
