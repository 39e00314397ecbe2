"""Polygons and curves that objects and clutter are cut from: float64 [K, 2], xy, y down."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Point = Sequence[float] | np.ndarray


def rotation(angle: float) -> np.ndarray:
    """The matrix [2, 2] that turns a column xy by ``angle`` radians, from +x towards +y."""
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s], [s, c]])


def curve(points: np.ndarray, count: int) -> np.ndarray:
    """``count`` points on the Catmull-Rom spline through ``points`` [K, 2]."""
    points = np.asarray(points, np.float64)
    if len(points) == 2:
        return points[0] + np.linspace(0, 1, count)[:, None] * (points[1] - points[0])
    padded = np.vstack([2 * points[0] - points[1], points, 2 * points[-1] - points[-2]])
    t = np.linspace(0, len(points) - 1 - 1e-9, count)
    i = t.astype(int)
    u = (t - i)[:, None]
    a, b, c, d = padded[i], padded[i + 1], padded[i + 2], padded[i + 3]
    return 0.5 * (2 * b + (c - a) * u + (2 * a - 5 * b + 4 * c - d) * u**2 + (3 * b - a - 3 * c + d) * u**3)


def limb(spine: Sequence[Point] | np.ndarray, widths: Sequence[float], count: int = 18) -> np.ndarray:
    """The outline of a body of varying half width around a curved spine, with round ends.

    Args:
        spine: points the spine runs through, at least two.
        widths: half widths at even steps along the spine.
        count: points of the outline on each side.
    """
    spine_xy = curve(np.array(spine), count)
    t = np.linspace(0, 1, count)
    half = np.interp(t, np.linspace(0, 1, len(widths)), widths)
    tangent = np.gradient(spine_xy, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1)
    left, right = spine_xy + normal * half[:, None], spine_xy - normal * half[:, None]
    angles = np.linspace(0, np.pi, 7)[1:-1, None]
    end = spine_xy[-1] + half[-1] * (np.cos(angles) * normal[-1] + np.sin(angles) * tangent[-1])
    start = spine_xy[0] + half[0] * (-np.cos(angles) * normal[0] - np.sin(angles) * tangent[0])
    return np.vstack([left, end, right[::-1], start])


def ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0, count: int = 28) -> np.ndarray:
    """``count`` points on the ellipse around (x, y) with half axes rx and ry, turned by ``angle`` radians."""
    t = np.linspace(0, 2 * np.pi, count, endpoint=False)
    local = np.stack([rx * np.cos(t), ry * np.sin(t)], 1)
    return local @ rotation(angle).T + (x, y)


def round_corners(points: Sequence[Point] | np.ndarray, times: int = 2) -> np.ndarray:
    """Chaikin's corner cutting: a polygon with soft corners."""
    polygon = np.array(points, np.float64)
    for _ in range(times):
        following = np.roll(polygon, -1, axis=0)
        cut = np.stack([0.75 * polygon + 0.25 * following, 0.25 * polygon + 0.75 * following], 1)
        polygon = cut.reshape(-1, 2)
    return polygon


def walk(x: float, y: float, angles: Sequence[float], lengths: Sequence[float]) -> list[tuple[float, float]]:
    """Joints of a chain that starts at xy; an angle of 0 points down, positive turns towards +x."""
    joints = [(x, y)]
    for angle, length in zip(angles, lengths):
        x, y = x + length * math.sin(angle), y + length * math.cos(angle)
        joints.append((x, y))
    return joints
