"""Grey textures that parts, clutter and backdrops wear."""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np

TEXTURES = ("plain", "fur", "noise", "stripes", "spots", "scales", "checks", "cloth", "gloss", "rings")
TEXTURE_SIDE = 768


@functools.lru_cache(maxsize=1)
def texture_bank() -> dict[str, list[np.ndarray]]:
    """Six textures of each name in ``TEXTURES``, to be cut at random places: float32 [768, 768] in 0..1.

    Made once, always the same.
    """
    rng = np.random.default_rng(20240713)
    side = TEXTURE_SIDE
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)

    def noise(cell_x: float, cell_y: float) -> np.ndarray:
        small = rng.random((max(2, int(side / cell_y)), max(2, int(side / cell_x))), dtype=np.float32)
        return cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC).clip(0, 1)

    def along(angle: float) -> np.ndarray:
        return x * math.cos(angle) + y * math.sin(angle)

    def wave(distance: np.ndarray, period: float) -> np.ndarray:
        return np.sin(distance * (2 * math.pi / period))

    bank: dict[str, list[np.ndarray]] = {name: [] for name in TEXTURES}
    for k in range(6):
        angle = math.pi * k / 6
        warp = 14 * noise(50, 50)
        period = (7, 10, 14, 18, 9, 12)[k]
        bank["plain"].append(0.5 + 0.15 * (noise(60, 60) - 0.5))
        bank["noise"].append(0.55 * noise(12, 12) + 0.45 * noise(3, 3))
        fur = noise(2.5, 14) if k % 2 else noise(14, 2.5)
        bank["fur"].append(0.6 * fur + 0.4 * noise(30, 30))
        bank["stripes"].append(0.5 + 0.5 * np.tanh(3 * wave(along(angle) + warp, period)))
        squares = 4 * wave(along(angle), period) * wave(along(angle + math.pi / 2), period)
        bank["checks"].append(0.5 + 0.5 * np.tanh(squares))
        ripple = 1.2 * wave(along(angle + 1.5), period)
        bank["scales"].append(np.abs(np.sin(along(angle) * (math.pi / period) + ripple)))
        bank["spots"].append(1 / (1 + np.exp(-24 * (noise(period, period) - 0.62))))
        bank["cloth"].append(0.35 + 0.4 * noise(26, 26) + 0.25 * ((x + (k + 1) * y) % 3 < 1.5))
        bank["gloss"].append(0.5 + 0.5 * np.sin(along(angle) * (math.pi / 45) + 3 * noise(120, 120)))
        bank["rings"].append(0.5 + 0.5 * wave(np.hypot((x % 40) - 20, (y % 40) - 20), period))
    return {name: [np.ascontiguousarray(t, np.float32).clip(0, 1) for t in group] for name, group in bank.items()}
