"""Distinct colours."""

from __future__ import annotations

import colorsys
import random

import numpy as np

# Steps of the golden ratio spread hues so that any first N differ well.
_GOLDEN = 0.618033988749895
_COLORS = np.array(
    [
        colorsys.hsv_to_rgb((i * _GOLDEN) % 1.0, (0.9, 0.6, 0.75)[i % 3], (0.95, 0.85, 0.65)[(i // 3) % 3])
        for i in range(72)
    ],
    dtype=np.float32,
)


def colormap(rgb: bool = False, maximum: int = 255) -> np.ndarray:
    """Returns float32 [72, 3] colours in [0, maximum], RGB or else BGR."""
    colors = _COLORS * maximum
    return colors if rgb else colors[:, ::-1]


def random_color(rgb: bool = False, maximum: int = 255) -> np.ndarray:
    """One of ``colormap``'s colours, float32 [3]."""
    return colormap(rgb, maximum)[random.randrange(len(_COLORS))]
