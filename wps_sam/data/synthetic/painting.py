"""Painting: what a part tends to look like, a shape on the canvas, and what a camera makes of the canvas.

A canvas is float32 [H, W, 3] RGB, 0..255 and somewhat beyond until :func:`expose` makes a picture of it.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import NamedTuple

from wps_sam.data.synthetic.textures import TEXTURE_SIDE, texture_bank

import cv2
import numpy as np


class Paint(NamedTuple):
    """How a part tends to look: HSV centre (0..1), and the textures it may wear."""

    hue: float
    saturation: float
    value: float
    textures: tuple[str, ...]


# Broad statistics, jittered per object and per part: a hint of the name, never the whole answer.
PAINTS: dict[str, Paint] = {
    "Quadruped Head": Paint(0.08, 0.45, 0.72, ("fur", "noise")),
    "Quadruped Ear": Paint(0.02, 0.45, 0.50, ("fur", "plain")),
    "Quadruped Torso": Paint(0.08, 0.55, 0.55, ("fur", "stripes", "spots")),
    "Quadruped Leg": Paint(0.07, 0.50, 0.38, ("fur", "plain")),
    "Quadruped Tail": Paint(0.09, 0.35, 0.80, ("fur", "stripes")),
    "Bird Head": Paint(0.98, 0.65, 0.70, ("noise", "plain")),
    "Bird Beak": Paint(0.12, 0.85, 0.90, ("plain",)),
    "Bird Body": Paint(0.58, 0.45, 0.65, ("scales", "noise")),
    "Bird Wing": Paint(0.60, 0.65, 0.42, ("stripes", "scales")),
    "Bird Tail": Paint(0.64, 0.55, 0.32, ("stripes",)),
    "Bird Leg": Paint(0.09, 0.75, 0.75, ("plain",)),
    "Fish Head": Paint(0.09, 0.65, 0.85, ("plain", "noise")),
    "Fish Body": Paint(0.06, 0.80, 0.75, ("scales", "stripes")),
    "Fish Fin": Paint(0.14, 0.70, 0.85, ("stripes",)),
    "Fish Tail": Paint(0.01, 0.75, 0.70, ("stripes",)),
    "Snake Head": Paint(0.22, 0.60, 0.75, ("plain", "noise")),
    "Snake Body": Paint(0.30, 0.60, 0.50, ("scales", "checks", "spots")),
    "Car Body": Paint(0.00, 0.75, 0.75, ("plain", "gloss")),
    "Car Window": Paint(0.55, 0.25, 0.62, ("gloss",)),
    "Car Wheel": Paint(0.60, 0.10, 0.17, ("rings",)),
    "Car Light": Paint(0.14, 0.45, 0.97, ("plain",)),
    "Aeroplane Body": Paint(0.58, 0.06, 0.90, ("plain", "gloss")),
    "Aeroplane Wing": Paint(0.58, 0.12, 0.66, ("plain", "gloss")),
    "Aeroplane Engine": Paint(0.60, 0.15, 0.38, ("gloss", "rings")),
    "Aeroplane Tail": Paint(0.62, 0.75, 0.65, ("plain", "stripes")),
    "Person Head": Paint(0.07, 0.45, 0.85, ("plain", "noise")),
    "Person Torso": Paint(0.45, 0.60, 0.60, ("checks", "stripes", "cloth")),
    "Person Arm": Paint(0.06, 0.40, 0.78, ("plain", "cloth")),
    "Person Leg": Paint(0.63, 0.55, 0.35, ("cloth", "noise")),
}


@dataclass
class Shape:
    """One polygon to paint. ``part`` is a class name or None for clutter; ``darken`` < 1 for limbs of the far side."""

    points: np.ndarray  # float [K, 2] xy, pixels
    part: str | None
    paint: Paint
    owner: int = -1  # which object of the picture
    darken: float = 1.0


def to_rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """HSV to RGB float32 [3], 0..255: hues go round, the others are clipped, and nothing is quite black."""
    hsv = (hue % 1.0, min(max(saturation, 0), 1), min(max(value, 0.03), 1))
    return np.array(colorsys.hsv_to_rgb(*hsv), np.float32) * 255


def draw(canvas: np.ndarray, shape: Shape, light: np.ndarray, rng: np.random.Generator) -> None:
    """Paints a shape on ``canvas``, in place: two colours mixed by a texture, shaded as if it were round.

    Args:
        canvas: float32 [H, W, 3].
        shape: may lie partly or wholly outside.
        light: float [2], xy of the direction it falls in, length 1; zeros for none.
        rng: of the colours and the place of the texture.
    """
    height, width = canvas.shape[:2]
    x0, y0 = np.maximum(np.floor(shape.points.min(0)).astype(int) - 2, 0)
    x1, y1 = np.minimum(np.ceil(shape.points.max(0)).astype(int) + 3, (width, height))
    # All random numbers are drawn even for a shape outside the frame: the picture depends on the seed alone.
    hue, saturation, value = shape.paint[:3]
    jitter = rng.normal(size=6)
    group = texture_bank()[shape.paint.textures[rng.integers(len(shape.paint.textures))]]
    texture = group[rng.integers(len(group))]
    at_x, at_y = rng.integers(0, TEXTURE_SIDE, 2)
    contrast, roundness = rng.uniform(0.15, 0.6), rng.uniform(0.1, 0.55)
    if x1 <= x0 or y1 <= y0:
        return
    w, h = int(x1 - x0), int(y1 - y0)
    mask = np.zeros((h, w), np.uint8)
    fixed = np.round((shape.points - (x0, y0)) * 16).astype(np.int32)
    cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, 4)
    alpha = mask.astype(np.float32) * (1 / 255)

    first = to_rgb(hue + 0.03 * jitter[0], saturation + 0.1 * jitter[1], value + 0.08 * jitter[2])
    away = contrast * (0.7 if value > 0.5 else -0.7)
    second = to_rgb(hue + 0.05 * jitter[3], saturation + 0.15 * jitter[4], value + 0.1 * jitter[5] - away)
    at_x = at_x % (TEXTURE_SIDE - min(w, TEXTURE_SIDE - 1))
    at_y = at_y % (TEXTURE_SIDE - min(h, TEXTURE_SIDE - 1))
    patch = texture[at_y : at_y + h, at_x : at_x + w]
    if patch.shape != (h, w):
        patch = cv2.resize(texture, (w, h))
    patch = patch[..., None]
    colour = (second + (first - second) * patch) * _shade(alpha, shape, light, roundness)[..., None]
    region = canvas[y0:y1, x0:x1]
    region += (colour - region) * alpha[..., None]


def _shade(alpha: np.ndarray, shape: Shape, light: np.ndarray, roundness: float) -> np.ndarray:
    """Brightness, float [h, w], of a shape whose cover of each pixel is ``alpha`` float32 [h, w]."""
    # The blurred mask is a cheap height field; its slope towards the light gives body to flat polygons.
    h, w = alpha.shape
    area = max(float(alpha.sum()), 1.0)
    thickness = 2 * area / (cv2.arcLength(shape.points.astype(np.float32)[:, None], True) + 1e-6)
    sigma = max(1.0, 0.5 * thickness)
    if sigma > 4:
        # A wide blur of a smaller copy costs a fraction and looks the same.
        small = cv2.resize(alpha, (max(1, w // 4), max(1, h // 4)), interpolation=cv2.INTER_AREA)
        small = cv2.GaussianBlur(small, (0, 0), sigma / 4)
        height_field = cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR)
    else:
        height_field = cv2.GaussianBlur(alpha, (0, 0), sigma)
    slope_x = cv2.Sobel(height_field, cv2.CV_32F, 1, 0, scale=0.125)
    slope_y = cv2.Sobel(height_field, cv2.CV_32F, 0, 1, scale=0.125)
    slope = slope_x * light[0] + slope_y * light[1]
    return shape.darken * (1 - 0.45 * roundness * (1 - height_field) + (2.2 * roundness * sigma) * slope)


def expose(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a camera does: light falling off to one side, white balance, blur and noise.

    Args:
        canvas: float32 [size, size, 3].
        rng: of the light, the colours and the noise.

    Returns:
        uint8 [size, size, 3] RGB.
    """
    size = canvas.shape[0]
    corners = rng.uniform(0.75, 1.2, (2, 2)).astype(np.float32)
    fall_off = cv2.resize(corners, (size, size), interpolation=cv2.INTER_LINEAR)
    balance = rng.uniform(0.9, 1.1, 3).astype(np.float32)
    canvas = canvas * (fall_off[..., None] * balance)
    if rng.random() < 0.5:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.4, 0.9))
    noise = rng.standard_normal((size, size, 1), dtype=np.float32) * np.float32(rng.uniform(0.5, 7))
    return np.clip(canvas + noise, 0, 255).astype(np.uint8)
