"""What stands behind and around the objects: a backdrop, and clutter that belongs to nothing."""

from __future__ import annotations

from wps_sam.data.synthetic.painting import Paint, Shape, draw, to_rgb
from wps_sam.data.synthetic.shapes import ellipse, limb, rotation, round_corners, walk
from wps_sam.data.synthetic.textures import TEXTURE_SIDE, TEXTURES, texture_bank

import cv2
import numpy as np


def clutter_shape(rng: np.random.Generator, size: int, small: bool) -> Shape:
    """A stick, blob, slab or scrap in any colour: things that look a little like parts but belong to nothing."""
    u = rng.uniform
    x, y = u(0, size, 2)
    r = size * (u(0.02, 0.1) if small else u(0.05, 0.3))
    kind = rng.integers(4)
    if kind == 0:
        angle, bend = u(0, 2 * np.pi), u(-0.6, 0.6)
        joints = walk(x, y, [angle, angle + bend], [1.6 * r, 1.6 * r])
        points = limb(joints, list(r * u(0.06, 0.35, 3)), count=12)
    elif kind == 1:
        points = ellipse(x, y, r, r * u(0.3, 1.0), u(0, np.pi), count=20)
    elif kind == 2:
        box = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (r, r * u(0.2, 1.0))
        points = box @ rotation(u(0, np.pi)).T + (x, y)
    else:
        angles = np.sort(u(0, 2 * np.pi, rng.integers(4, 9)))
        corners_x = x + r * u(0.4, 1, len(angles)) * np.cos(angles)
        corners_y = y + r * u(0.4, 1, len(angles)) * np.sin(angles)
        points = round_corners(np.stack([corners_x, corners_y], 1), 1)
    paint = Paint(u(), u(0.0, 0.8), u(0.1, 0.95), (TEXTURES[rng.integers(len(TEXTURES))],))
    return Shape(points, None, paint, darken=float(u(0.75, 1.05)))


def backdrop(rng: np.random.Generator, size: int) -> np.ndarray:
    """Sky over ground, or a wall: low-frequency colour with a texture. float32 [size, size, 3]."""
    u = rng.uniform
    base = to_rgb(u(), u(0, 0.55), u(0.25, 0.95))
    cells = int(rng.integers(2, 7))
    field = base + rng.normal(0, 28, (cells, cells, 3)).astype(np.float32)
    canvas = cv2.resize(field.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.6:
        left = u(0.3, 0.8) * size
        right = left + u(-0.15, 0.15) * size
        ground = np.array([(-2, left), (size + 2, right), (size + 2, size + 2), (-2, size + 2)])
        paint = Paint(u(), u(0.1, 0.6), u(0.2, 0.8), ("noise", "fur", "cloth", "spots"))
        draw(canvas, Shape(ground, None, paint), np.zeros(2), rng)
    group = texture_bank()[("noise", "fur", "cloth", "gloss")[rng.integers(4)]]
    texture = group[rng.integers(len(group))]
    if size < TEXTURE_SIDE:
        at_x, at_y = rng.integers(0, TEXTURE_SIDE - size, 2)
        texture = texture[at_y : at_y + size, at_x : at_x + size]
    else:
        texture = cv2.resize(texture, (size, size))
    return canvas + (texture[..., None] - 0.5) * u(5, 70)
