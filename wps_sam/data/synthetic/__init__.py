"""Generated pictures with part labels: the data set ``synthetic_parts``, so that everything runs with no download.

A picture shows one or two animals, people or vehicles, drawn as textured and shaded polygons in a random pose over a
cluttered background. A part's class is recognisable from its shape, its neighbours and loosely from its colour, as in
photos; pose, rotation, scale, texture, light and occlusion vary. Limbs, wings and snakes are oblique or
curved on purpose: a filled bounding box is a poor mask of them, so a segmenter has something to win.

Coordinates are xy; an object is built in its own units (about 2 long, y down) and mapped to pixels at the end.
"""

from __future__ import annotations

import colorsys
import functools
import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from wps_sam.masks import mask_to_box, mask_to_rle

import cv2
import numpy as np

logger = logging.getLogger(__name__)

PARTS: dict[str, tuple[str, ...]] = {
    "Quadruped": ("Head", "Ear", "Torso", "Leg", "Tail"),
    "Bird": ("Head", "Beak", "Body", "Wing", "Tail", "Leg"),
    "Fish": ("Head", "Body", "Fin", "Tail"),
    "Snake": ("Head", "Body"),
    "Car": ("Body", "Window", "Wheel", "Light"),
    "Aeroplane": ("Body", "Wing", "Engine", "Tail"),
    "Person": ("Head", "Torso", "Arm", "Leg"),
}
SUPERCATEGORIES: tuple[str, ...] = tuple(PARTS)
CATEGORIES: tuple[tuple[str, str], ...] = tuple((s, p) for s, parts in PARTS.items() for p in parts)
CLASS_NAMES: tuple[str, ...] = tuple(f"{s} {p}" for s, p in CATEGORIES)
BACKGROUND: int = len(CLASS_NAMES)

# Smaller visible pieces are not labelled: nobody could draw them, and PartImageNet has none.
MIN_PIXELS = 30
MAX_PARTS = 16

_CLASS_ID = {pair: i for i, pair in enumerate(CATEGORIES)}


class Paint(NamedTuple):
    """How a part tends to look: HSV centre and spread (0..1), and the textures it may wear."""

    hue: float
    saturation: float
    value: float
    textures: tuple[str, ...]


# Broad statistics, jittered per object and per part: a hint of the name, never the whole answer.
_PAINTS: dict[str, Paint] = {
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
class _Shape:
    """One polygon to paint. ``part`` is a class name or None for clutter; ``darken`` < 1 for limbs of the far side."""

    points: np.ndarray  # float [K, 2] xy
    part: str | None
    paint: Paint
    owner: int = -1
    darken: float = 1.0


class Instance(NamedTuple):
    """A visible connected piece of a part: class 0..C-1, bool [H, W] mask, and which object of the picture it is of."""

    category_id: int
    mask: np.ndarray
    object_id: int


class SyntheticPicture(NamedTuple):
    """``image`` uint8 [H, W, 3] RGB; ``part_map`` int32 [H, W], C where background; ``instances``; the
    supercategory index of every object."""

    image: np.ndarray
    part_map: np.ndarray
    instances: list[Instance]
    objects: list[int]


# ---------------------------------------------------------------- polygons


def _curve(points: np.ndarray, count: int) -> np.ndarray:
    """``count`` points on the Catmull-Rom spline through ``points`` [K, 2] (or [K, D])."""
    points = np.asarray(points, np.float64)
    if len(points) == 2:
        return points[0] + np.linspace(0, 1, count)[:, None] * (points[1] - points[0])
    padded = np.vstack([2 * points[0] - points[1], points, 2 * points[-1] - points[-2]])
    t = np.linspace(0, len(points) - 1 - 1e-9, count)
    i = t.astype(int)
    u = (t - i)[:, None]
    a, b, c, d = padded[i], padded[i + 1], padded[i + 2], padded[i + 3]
    return 0.5 * (2 * b + (c - a) * u + (2 * a - 5 * b + 4 * c - d) * u**2 + (3 * b - a - 3 * c + d) * u**3)


def _limb(spine: list, widths: list, count: int = 18) -> np.ndarray:
    """The outline of a body of varying half width around a curved spine, with round ends."""
    spine_xy = _curve(np.array(spine), count)
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


def _ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0, count: int = 28) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, count, endpoint=False)
    local = np.stack([rx * np.cos(t), ry * np.sin(t)], 1)
    return local @ _rotation(angle).T + (x, y)


def _rotation(angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s], [s, c]])


def _round(points: list | np.ndarray, times: int = 2) -> np.ndarray:
    """Chaikin's corner cutting: a polygon with soft corners."""
    polygon = np.array(points, np.float64)
    for _ in range(times):
        following = np.roll(polygon, -1, axis=0)
        polygon = np.stack([0.75 * polygon + 0.25 * following, 0.25 * polygon + 0.75 * following], 1).reshape(
            -1, 2
        )
    return polygon


def _walk(x: float, y: float, angles: list[float], lengths: list[float]) -> list[tuple[float, float]]:
    """Joints of a chain that starts at xy; an angle of 0 points down, positive turns towards +x."""
    joints = [(x, y)]
    for angle, length in zip(angles, lengths):
        x, y = x + length * math.sin(angle), y + length * math.cos(angle)
        joints.append((x, y))
    return joints


# ---------------------------------------------------------------- objects, back to front: (part, polygon, darken)

_Parts = list[tuple[str, np.ndarray, float]]


def _quadruped(rng: np.random.Generator) -> _Parts:
    u = rng.uniform
    girth, leg, thick, neck = u(0.15, 0.26), u(0.35, 0.7), u(0.05, 0.085), u(0.2, 0.5)
    shapes: _Parts = []

    def add_legs(darken: float) -> None:
        for x in (-0.42, 0.40):
            swing, bend = u(-0.55, 0.55), u(-0.4, 0.4)
            joints = _walk(x + u(-0.06, 0.06), 0.05, [swing, swing + bend], [leg * 0.55, leg * 0.6])
            foot = (joints[-1][0] + 0.06, joints[-1][1] + 0.01)
            shapes.append(
                ("Leg", _limb([*joints, foot], [thick * 1.7, thick, thick * 0.75, thick * 0.8]), darken)
            )

    add_legs(0.7)
    # An arc of even steps never folds back on itself, which would leave holes in the outline.
    start, curl = -math.pi / 2 + u(-0.9, 0.9), u(-0.6, 0.6)
    tail = _walk(-0.46, -0.08, [start, start + curl, start + 2 * curl], [0.22, 0.17, 0.17])
    shapes.append(("Tail", _limb(tail, [0.05, 0.05, 0.045, u(0.03, 0.1)]), 1.0))
    sag = u(-0.05, 0.08)
    shapes.append(
        (
            "Torso",
            _limb([(-0.46, -0.02), (0.0, sag), (0.42, -0.04)], [girth, girth * u(0.85, 1.1), girth * 1.05]),
            1.0,
        )
    )
    add_legs(1.0)
    lift = u(-0.6, 1.2)
    nx, ny = 0.52 + neck * math.cos(lift), -0.12 - neck * math.sin(lift)
    face = lift - u(0.4, 1.1)
    mx, my = nx + 0.3 * math.cos(face), ny - 0.3 * math.sin(face)
    ears = [
        _limb(
            [(nx + dx, ny - 0.08), (nx + dx - 0.06 + u(-0.06, 0.06), ny - u(0.24, 0.38))],
            [0.06, 0.065, 0.015],
        )
        for dx in (-0.05, 0.05)
    ]
    shapes.append(("Ear", ears[1], 0.75))
    shapes.append(("Head", _limb([(0.5, -0.1), (nx, ny), (mx, my)], [girth * 0.62, 0.125, 0.14, 0.075]), 1.0))
    shapes.append(("Ear", ears[0], 1.0))
    return shapes


def _bird(rng: np.random.Generator) -> _Parts:
    u = rng.uniform
    shapes: _Parts = []
    flying, plump = rng.random() < 0.5, u(0.2, 0.3)

    def wing() -> np.ndarray:
        if flying:
            a, length = u(0.4, 1.4), u(0.7, 1.0)
            tip = (-0.15 - length * math.cos(a), -length * math.sin(a))
            elbow = (0.1 - 0.35 * math.cos(a), -0.1 - 0.55 * length * math.sin(a))
            return _round([(0.22, -0.1), elbow, tip, (tip[0] * 0.75 - 0.12, tip[1] * 0.45), (-0.3, 0.02)])
        return _limb([(0.2, -0.06), (-0.15, 0.02), (-0.6, u(-0.02, 0.15))], [0.1, 0.16, 0.13, 0.02])

    if flying:
        shapes.append(("Wing", wing() + (0.06, 0.0), 0.7))
    for x in (-0.02, 0.12):
        bend = u(-0.5, 0.3)
        joints = _walk(x, 0.15, [bend, bend * 0.3, 1.3], [0.22, 0.24, 0.12])
        shapes.append(("Leg", _limb(joints, [0.05, 0.035, 0.03, 0.03]), 1.0))
    spread, droop = u(0.08, 0.22), u(-0.15, 0.3)
    shapes.append(
        (
            "Tail",
            _round(
                [
                    (-0.4, -0.06),
                    (-0.95, droop - spread),
                    (-1.02, droop),
                    (-0.95, droop + spread),
                    (-0.4, 0.08),
                ],
                1,
            ),
            1.0,
        )
    )
    shapes.append(
        (
            "Body",
            _limb([(-0.42, 0.03), (0.0, 0.05), (0.38, -0.1)], [0.08, plump, plump * 1.05, plump * 0.6]),
            1.0,
        )
    )
    hx, hy = 0.5 + u(-0.05, 0.12), -0.26 - u(0.0, 0.25)
    length, look = u(0.2, 0.42), u(-0.5, 0.5)
    beak = np.array([(0.08, -0.075), (0.12 + length, 0.03), (0.08, 0.075)]) @ _rotation(look).T + (
        hx + 0.04,
        hy,
    )
    shapes.append(("Beak", beak, 1.0))
    shapes.append(("Head", _limb([(0.36, -0.12), (hx, hy)], [plump * 0.55, 0.14, 0.15]), 1.0))
    shapes.append(("Wing", wing(), 1.0))
    return shapes


def _fish(rng: np.random.Generator) -> _Parts:
    u = rng.uniform
    h, bend, fork = u(0.2, 0.4), u(-0.25, 0.25), u(0.15, 0.4)
    end = (-0.6, bend)
    shapes: _Parts = [
        (
            "Tail",
            _round(
                [
                    (end[0] + 0.1, end[1] - 0.05),
                    (-1.0, end[1] - fork),
                    (-0.86, end[1]),
                    (-1.0, end[1] + fork * u(0.7, 1.1)),
                    (end[0] + 0.1, end[1] + 0.05),
                ],
                1,
            ),
            1.0,
        ),
        (
            "Fin",
            _round(
                [
                    (0.2, -h * 0.7),
                    (u(-0.2, 0.1), -h - u(0.15, 0.4)),
                    (-0.38, -h - u(0.0, 0.2)),
                    (-0.4, bend * 0.5 - h * 0.3),
                ],
                1,
            ),
            1.0,
        ),
        (
            "Fin",
            _round(
                [(0.0, h * 0.7), (-0.2, h + u(0.1, 0.3)), (-0.35, h * 0.9), (-0.3, bend * 0.5 + h * 0.3)], 1
            ),
            1.0,
        ),
        (
            "Body",
            _limb([(0.42, 0), (0.0, -bend * 0.15), (-0.35, bend * 0.4), end], [h * 0.95, h, h * 0.6, 0.07]),
            1.0,
        ),
    ]
    snout = u(0.68, 0.92)
    shapes.append(
        (
            "Head",
            _round(
                [
                    (0.38, -h * 0.92),
                    (0.62, -h * 0.62),
                    (snout, 0.0),
                    (0.62, h * 0.62),
                    (0.38, h * 0.92),
                    (0.27, h * 0.4),
                    (0.3, -h * 0.4),
                ]
            ),
            1.0,
        )
    )
    reach = u(0.2, 0.4)
    shapes.append(
        ("Fin", _limb([(0.15, 0.06), (0.15 - reach, 0.06 + u(0.05, 0.25))], [0.03, 0.09, 0.06]), 1.0)
    )
    return shapes


def _snake(rng: np.random.Generator) -> _Parts:
    u = rng.uniform
    waves, height, phase, thick = u(0.8, 2.2), u(0.18, 0.5), u(0, 2 * np.pi), u(0.055, 0.11)
    t = np.linspace(0, 1, 9)
    curve_up = u(-0.5, 0.5)
    spine = np.stack(
        [-0.95 + 1.75 * t, height * np.sin(2 * np.pi * waves * t + phase) + curve_up * (t - 0.5) ** 2], 1
    )
    outline = _limb(list(spine), [0.02, thick * 0.8, thick, thick * 1.1, thick, thick * 0.75], count=48)
    heading = spine[-1] - spine[-2]
    heading = heading / np.linalg.norm(heading)
    tip = spine[-1] + 0.26 * heading
    return [
        ("Body", outline, 1.0),
        (
            "Head",
            _limb(
                [tuple(spine[-1] - 0.02 * heading), tuple(tip)],
                [thick * 0.8, thick * 1.55, thick * 1.3, thick * 0.5],
            ),
            1.0,
        ),
    ]


def _car(rng: np.random.Generator) -> _Parts:
    u = rng.uniform
    roof, hood, boot = u(-0.52, -0.3), u(0.3, 0.62), u(-0.8, -0.45)
    front, back = u(0.12, 0.4), u(-0.62, -0.35)
    belt, floor = u(-0.12, -0.04), u(0.2, 0.28)
    profile = [
        (-0.95, floor),
        (-0.97, belt + 0.04),
        (boot, belt - 0.02),
        (back, roof),
        (front, roof),
        (hood, belt - 0.02),
        (0.94, belt + 0.08),
        (0.97, floor),
    ]
    shapes: _Parts = [("Body", _round(profile, 1), 1.0)]
    pillar = (back + front) / 2 + u(-0.08, 0.08)
    top = roof + 0.06
    # Windows follow the slope of the pillars, so that they are oblique pieces too.
    shapes.append(
        (
            "Window",
            np.array([(boot + 0.1, belt), (back + 0.04, top), (pillar - 0.025, top), (pillar - 0.025, belt)]),
            1.0,
        )
    )
    shapes.append(
        (
            "Window",
            np.array(
                [(pillar + 0.025, belt), (pillar + 0.025, top), (front - 0.04, top), (hood - 0.1, belt)]
            ),
            1.0,
        )
    )
    shapes.append(("Light", _ellipse(0.88, belt + 0.13, 0.075, 0.06, u(-0.5, 0.5)), 1.0))
    shapes.append(("Light", _ellipse(-0.9, belt + 0.12, 0.055, 0.075, u(-0.5, 0.5)), 0.85))
    radius = u(0.15, 0.2)
    for x in (-0.58, 0.58):
        shapes.append(("Wheel", _ellipse(x + u(-0.05, 0.05), floor, radius, radius), 1.0))
    return shapes


def _aeroplane(rng: np.random.Generator) -> _Parts:
    u = rng.uniform
    thick, sweep, span, tilt = u(0.09, 0.14), u(0.3, 0.7), u(0.5, 0.85), u(0.35, 0.9)

    def wing(sign: float) -> np.ndarray:
        chord = u(0.13, 0.2)
        y = sign * span * tilt
        return np.array(
            [(0.22, 0), (0.22 - sweep, y), (0.22 - sweep - chord * 0.7, y), (0.22 - chord * 2.2, 0)]
        )

    def engine(sign: float, along: float) -> np.ndarray:
        x, y = 0.24 - sweep * along, sign * span * tilt * along + 0.05
        return _limb([(x - 0.12, y), (x + 0.13, y)], [0.055, 0.065])

    shapes: _Parts = [("Wing", wing(-1), 0.8), ("Engine", engine(-1, u(0.35, 0.55)), 0.85)]
    shapes.append(
        ("Tail", np.array([(-0.62, 0), (-0.9, -0.34 * tilt), (-1.0, -0.34 * tilt), (-0.9, 0)]), 0.8)
    )
    nose = u(-0.02, 0.03)
    shapes.append(
        (
            "Body",
            _limb(
                [(-0.95, -0.03), (-0.4, 0.0), (0.4, 0.0), (0.88, nose)],
                [0.03, thick * 0.9, thick, thick, thick, thick * 0.5],
            ),
            1.0,
        )
    )
    fin = u(0.32, 0.48)
    shapes.append(("Tail", np.array([(-0.52, -thick * 0.5), (-0.86, -fin), (-1.02, -fin), (-0.9, 0.0)]), 1.0))
    shapes.append(("Engine", engine(1, u(0.3, 0.6)), 1.0))
    shapes.append(("Wing", wing(1), 1.0))
    return shapes


def _person(rng: np.random.Generator) -> _Parts:
    u = rng.uniform
    shoulder, hip, lean = u(0.17, 0.26), u(0.12, 0.18), u(-0.2, 0.2)
    top = (lean * 0.8, -0.42)

    def arm(sign: float) -> np.ndarray:
        raise_by, bend = sign * u(0.05, 2.2), sign * u(-0.2, 1.2)
        joints = _walk(
            top[0] + sign * shoulder * 0.85, top[1] + 0.05, [raise_by, raise_by + bend], [0.28, 0.3]
        )
        return _limb(joints, [0.075, 0.065, 0.05, 0.055])

    def leg(sign: float) -> np.ndarray:
        swing = sign * u(-0.1, 0.6)
        joints = _walk(sign * hip * 0.55, 0.12, [swing, swing - sign * u(-0.15, 0.5)], [0.42, 0.42])
        foot = (joints[-1][0] + 0.1, joints[-1][1] + 0.01)
        return _limb([*joints, foot], [0.105, 0.085, 0.07, 0.05, 0.045], count=22)

    shapes: _Parts = [("Arm", arm(-1), 0.85), ("Leg", leg(-1), 0.8), ("Leg", leg(1), 1.0)]
    hx, hy = top[0] + u(-0.08, 0.08), top[1] - 0.26
    shapes.append(
        (
            "Head",
            _limb([(top[0], top[1] - 0.05), (hx, hy), (hx, hy - 0.06)], [0.06, 0.06, 0.14, 0.12], count=14),
            1.0,
        )
    )
    shapes.append(
        (
            "Torso",
            _round(
                [
                    (top[0] - shoulder, top[1] - 0.02),
                    (top[0] + shoulder, top[1] - 0.02),
                    (hip, 0.2),
                    (-hip, 0.2),
                ]
            ),
            1.0,
        )
    )
    shapes.append(("Arm", arm(1), 1.0))
    return shapes


# Builder, largest rotation in degrees, size relative to the others.
_OBJECTS: dict[str, tuple[Callable[[np.random.Generator], _Parts], float, float]] = {
    "Quadruped": (_quadruped, 35, 0.95),
    "Bird": (_bird, 45, 0.95),
    "Fish": (_fish, 60, 0.9),
    "Snake": (_snake, 180, 1.0),
    "Car": (_car, 25, 0.95),
    "Aeroplane": (_aeroplane, 60, 1.0),
    "Person": (_person, 40, 1.0),
}


# ---------------------------------------------------------------- textures and painting

_TEXTURE_SIDE = 768


@functools.lru_cache(maxsize=1)
def _textures() -> dict[str, list[np.ndarray]]:
    """Grey textures float32 [768, 768] in 0..1, cut at random places. Made once, always the same."""
    rng = np.random.default_rng(20240713)
    side = _TEXTURE_SIDE
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)

    def noise(cell_x: float, cell_y: float) -> np.ndarray:
        small = rng.random((max(2, int(side / cell_y)), max(2, int(side / cell_x))), dtype=np.float32)
        return cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC).clip(0, 1)

    def along(angle: float) -> np.ndarray:
        return x * math.cos(angle) + y * math.sin(angle)

    bank: dict[str, list[np.ndarray]] = {
        name: []
        for name in (
            "plain",
            "fur",
            "noise",
            "stripes",
            "spots",
            "scales",
            "checks",
            "cloth",
            "gloss",
            "rings",
        )
    }
    for k in range(6):
        angle = math.pi * k / 6
        warp = 14 * noise(50, 50)
        period = (7, 10, 14, 18, 9, 12)[k]
        bank["plain"].append(0.5 + 0.15 * (noise(60, 60) - 0.5))
        bank["noise"].append(0.55 * noise(12, 12) + 0.45 * noise(3, 3))
        fur = noise(2.5, 14) if k % 2 else noise(14, 2.5)
        bank["fur"].append(0.6 * fur + 0.4 * noise(30, 30))
        bank["stripes"].append(
            0.5 + 0.5 * np.tanh(3 * np.sin((along(angle) + warp) * (2 * math.pi / period)))
        )
        bank["checks"].append(
            0.5
            + 0.5
            * np.tanh(
                4
                * np.sin(along(angle) * (2 * math.pi / period))
                * np.sin(along(angle + math.pi / 2) * (2 * math.pi / period))
            )
        )
        bank["scales"].append(
            np.abs(
                np.sin(
                    along(angle) * (math.pi / period)
                    + 1.2 * np.sin(along(angle + 1.5) * (2 * math.pi / period))
                )
            )
        )
        bank["spots"].append(1 / (1 + np.exp(-24 * (noise(period, period) - 0.62))))
        bank["cloth"].append(0.35 + 0.4 * noise(26, 26) + 0.25 * ((x + (k + 1) * y) % 3 < 1.5))
        bank["gloss"].append(0.5 + 0.5 * np.sin(along(angle) * (math.pi / 45) + 3 * noise(120, 120)))
        bank["rings"].append(
            0.5 + 0.5 * np.sin(np.hypot((x % 40) - 20, (y % 40) - 20) * (2 * math.pi / period))
        )
    return {
        name: [np.ascontiguousarray(t, np.float32).clip(0, 1) for t in group] for name, group in bank.items()
    }


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    return (
        np.array(
            colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0), 1), min(max(value, 0.03), 1)), np.float32
        )
        * 255
    )


def _draw(canvas: np.ndarray, shape: _Shape, light: np.ndarray, rng: np.random.Generator) -> None:
    """Paints a shape on ``canvas`` float32 [H, W, 3]: two colours mixed by a texture, shaded as if it were round."""
    height, width = canvas.shape[:2]
    x0, y0 = np.maximum(np.floor(shape.points.min(0)).astype(int) - 2, 0)
    x1, y1 = np.minimum(np.ceil(shape.points.max(0)).astype(int) + 3, (width, height))
    # All random numbers are drawn even for a shape outside the frame: the picture depends on the seed alone.
    hue, saturation, value = shape.paint[:3]
    jitter = rng.normal(size=6)
    texture_group = _textures()[shape.paint.textures[rng.integers(len(shape.paint.textures))]]
    texture = texture_group[rng.integers(len(texture_group))]
    at_x, at_y = rng.integers(0, _TEXTURE_SIDE, 2)
    contrast, roundness = rng.uniform(0.15, 0.6), rng.uniform(0.1, 0.55)
    if x1 <= x0 or y1 <= y0:
        return
    w, h = int(x1 - x0), int(y1 - y0)
    mask = np.zeros((h, w), np.uint8)
    fixed = np.round((shape.points - (x0, y0)) * 16).astype(np.int32)
    cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, 4)
    alpha = mask.astype(np.float32) * (1 / 255)

    first = _rgb(hue + 0.03 * jitter[0], saturation + 0.1 * jitter[1], value + 0.08 * jitter[2])
    second = _rgb(
        hue + 0.05 * jitter[3],
        saturation + 0.15 * jitter[4],
        value + 0.1 * jitter[5] - contrast * (0.7 if value > 0.5 else -0.7),
    )
    at_x, at_y = (
        at_x % (_TEXTURE_SIDE - min(w, _TEXTURE_SIDE - 1)),
        at_y % (_TEXTURE_SIDE - min(h, _TEXTURE_SIDE - 1)),
    )
    patch = texture[at_y : at_y + h, at_x : at_x + w]
    if patch.shape != (h, w):
        patch = cv2.resize(texture, (w, h))

    # The blurred mask is a cheap height field; its slope towards the light gives body to flat polygons.
    area = max(float(alpha.sum()), 1.0)
    thickness = 2 * area / (cv2.arcLength(shape.points.astype(np.float32)[:, None], True) + 1e-6)
    sigma = max(1.0, 0.5 * thickness)
    if sigma > 4:
        # A wide blur of a half-size copy costs a quarter and looks the same.
        small = cv2.GaussianBlur(
            cv2.resize(alpha, (max(1, w // 4), max(1, h // 4)), interpolation=cv2.INTER_AREA),
            (0, 0),
            sigma / 4,
        )
        height_field = cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR)
    else:
        height_field = cv2.GaussianBlur(alpha, (0, 0), sigma)
    slope = (
        cv2.Sobel(height_field, cv2.CV_32F, 1, 0, scale=0.125) * light[0]
        + cv2.Sobel(height_field, cv2.CV_32F, 0, 1, scale=0.125) * light[1]
    )
    shade = shape.darken * (1 - 0.45 * roundness * (1 - height_field) + (2.2 * roundness * sigma) * slope)

    patch = patch[..., None]
    colour = (second + (first - second) * patch) * shade[..., None]
    region = canvas[y0:y1, x0:x1]
    region += (colour - region) * alpha[..., None]


def _clutter_shape(rng: np.random.Generator, size: int, small: bool) -> _Shape:
    """A stick, blob, slab or scrap in any colour: things that look a little like parts but belong to nothing."""
    u = rng.uniform
    x, y = u(0, size, 2)
    r = size * (u(0.02, 0.1) if small else u(0.05, 0.3))
    kind = rng.integers(4)
    if kind == 0:
        angle, bend = u(0, 2 * np.pi), u(-0.6, 0.6)
        joints = _walk(x, y, [angle, angle + bend], [1.6 * r, 1.6 * r])
        points = _limb(joints, list(r * u(0.06, 0.35, 3)), count=12)
    elif kind == 1:
        points = _ellipse(x, y, r, r * u(0.3, 1.0), u(0, np.pi), count=20)
    elif kind == 2:
        box = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (r, r * u(0.2, 1.0))
        points = box @ _rotation(u(0, np.pi)).T + (x, y)
    else:
        angles = np.sort(u(0, 2 * np.pi, rng.integers(4, 9)))
        points = _round(
            np.stack(
                [
                    x + r * u(0.4, 1, len(angles)) * np.cos(angles),
                    y + r * u(0.4, 1, len(angles)) * np.sin(angles),
                ],
                1,
            ),
            1,
        )
    names = tuple(_textures())
    paint = Paint(u(), u(0.0, 0.8), u(0.1, 0.95), (names[rng.integers(len(names))],))
    return _Shape(points, None, paint, darken=float(u(0.75, 1.05)))


def _backdrop(rng: np.random.Generator, size: int) -> np.ndarray:
    """Sky over ground, or a wall: low-frequency colour with a texture. float32 [size, size, 3]."""
    u = rng.uniform
    base = _rgb(u(), u(0, 0.55), u(0.25, 0.95))
    cells = int(rng.integers(2, 7))
    field = base + rng.normal(0, 28, (cells, cells, 3)).astype(np.float32)
    canvas = cv2.resize(field.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.6:
        horizon = u(0.3, 0.8) * size
        slope = u(-0.15, 0.15) * size
        ground = _Shape(
            np.array([(-2, horizon), (size + 2, horizon + slope), (size + 2, size + 2), (-2, size + 2)]),
            None,
            Paint(u(), u(0.1, 0.6), u(0.2, 0.8), ("noise", "fur", "cloth", "spots")),
        )
        _draw(canvas, ground, np.zeros(2), rng)
    group = _textures()[("noise", "fur", "cloth", "gloss")[rng.integers(4)]]
    texture = group[rng.integers(len(group))]
    if size < _TEXTURE_SIDE:
        at_x, at_y = rng.integers(0, _TEXTURE_SIDE - size, 2)
        texture = texture[at_y : at_y + size, at_x : at_x + size]
    else:
        texture = cv2.resize(texture, (size, size))
    return canvas + (texture[..., None] - 0.5) * u(5, 70)


# ---------------------------------------------------------------- scene


def _place(
    parts: _Parts, name: str, owner: int, size: int, count: int, turned: float, rng: np.random.Generator
) -> list[_Shape]:
    """Maps an object to pixels, turned by so many standard deviations, and gives every part its paint."""
    _, turn, relative = _OBJECTS[name]
    u = rng.uniform
    scale = size * relative * (u(0.32, 0.54) if count == 1 else u(0.22, 0.36))
    matrix = (
        _rotation(math.radians(turn * np.clip(turned / 2, -1, 1)))
        @ np.array([[1.0, u(-0.25, 0.25)], [0.0, 1.0]])
        @ np.diag([u(0.85, 1.15), u(0.85, 1.15)])
    )
    if rng.random() < 0.5:
        matrix = np.diag([-1.0, 1.0]) @ matrix
    if count == 1:
        centre = size * u(0.38, 0.62, 2)
    else:
        centre = size * np.array([u(0.22, 0.42) if owner == 0 else u(0.58, 0.78), u(0.3, 0.7)])
    family = rng.normal(size=3) * (0.04, 0.1, 0.09)
    # Cars and clothes come in every colour; hue says nothing about them.
    free_hue = rng.uniform() if name in ("Car", "Person") else None
    shapes = []
    tints: dict[str, np.ndarray] = {}
    for part, points, darken in parts:
        full = f"{name} {part}"
        if part not in tints:
            tints[part] = rng.normal(size=3) * (0.02, 0.06, 0.06)
        paint = _PAINTS[full]
        hue, saturation, value = np.array(paint[:3]) + family + tints[part]
        if free_hue is not None and full in ("Car Body", "Person Torso", "Person Leg"):
            hue = free_hue + (0.4 if part == "Leg" else 0.0)
        shapes.append(
            _Shape(
                points @ matrix.T * scale + centre,
                full,
                Paint(float(hue), float(saturation), float(value), paint.textures),
                owner,
                darken,
            )
        )
    return shapes


def _label(shapes: list[_Shape], size: int) -> np.ndarray:
    """Which shape is on top: int16 [size, size], -1 where none."""
    top = np.full((size, size), -1, np.int16)
    for index, shape in enumerate(shapes):
        cv2.fillPoly(top, [np.round(shape.points * 16).astype(np.int32)], index, cv2.LINE_8, 4)
    return top


def _instances(top: np.ndarray, shapes: list[_Shape]) -> list[Instance]:
    """Connected visible pieces of at least MIN_PIXELS, class by class and object by object."""
    class_of = np.array(
        [-1] + [-1 if s.part is None else CLASS_NAMES.index(s.part) + s.owner * BACKGROUND for s in shapes]
    )
    # Class and object in one number, shifted by one for "no shape".
    keys = class_of[top.astype(np.int64) + 1]
    found = []
    for key in np.unique(keys[keys >= 0]):
        count, pieces, stats, _ = cv2.connectedComponentsWithStats(
            (keys == key).astype(np.uint8), connectivity=4
        )
        for piece in range(1, count):
            if stats[piece, cv2.CC_STAT_AREA] >= MIN_PIXELS:
                found.append(Instance(int(key % BACKGROUND), pieces == piece, int(key // BACKGROUND)))
    return found


class _Calm(np.random.Generator):
    """Draws like another generator, but only ``variety`` times as far from the middle."""

    def __init__(self, rng: np.random.Generator, variety: float) -> None:
        super().__init__(rng.bit_generator)
        self.variety = variety

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        middle = (low + high) / 2
        return middle + (super().uniform(low, high, size) - middle) * self.variety

    def normal(self, loc: Any = 0.0, scale: Any = 1.0, size: Any = None) -> Any:
        return loc + (super().normal(loc, scale, size) - loc) * self.variety


def generate(seed: int, size: int = 256, variety: float = 1.0) -> SyntheticPicture:
    """Draws picture number ``seed``; the same arguments always give the same bytes.

    Args:
        seed: any integer >= 0.
        size: side of the square picture in pixels, at least 64.
        variety: 0..1, how far joints, shape, colour, number of objects and clutter stray from the typical; what
            a small network can learn in minutes needs less than the 1 that a segmenter should see.

    Returns:
        A :class:`SyntheticPicture`. Instance masks are disjoint; together they are exactly the pixels of
        ``part_map`` that are not background. Pixels of a hidden part belong to what hides it.
    """
    if size < 64:
        raise ValueError(f"size: expected at least 64 pixels so that parts stay visible, got {size}")
    if not 0 <= variety <= 1:
        raise ValueError(f"variety: expected 0..1, got {variety}")
    rng = np.random.default_rng(seed)
    calm = _Calm(rng, variety)
    while True:
        count = 2 if rng.random() < 0.35 * variety else 1
        kinds = rng.integers(len(SUPERCATEGORIES), size=count)
        shapes: list[_Shape] = []
        for owner, kind in enumerate(kinds):
            name = SUPERCATEGORIES[kind]
            # Turned as far as ever: a part that lies straight is nearly as well cut out by its box.
            turned = float(rng.normal())
            shapes += _place(_OBJECTS[name][0](calm), name, owner, size, count, turned, calm)
        shapes += [_clutter_shape(rng, size, small=True) for _ in range(round(rng.integers(0, 3) * variety))]
        top = _label(shapes, size)
        instances = _instances(top, shapes)
        # Rejected scenes cost little: nothing is painted yet. Every object must show at least two parts.
        shown = [sum(i.object_id == owner for i in instances) for owner in range(count)]
        if min(shown) >= 2 and len(instances) <= MAX_PARTS:
            break

    canvas = _backdrop(rng, size)
    light = _rotation(rng.uniform(-1.2, 1.2)) @ np.array([0.0, 1.0])
    for index in range(round(rng.integers(4, 16) * variety)):
        _draw(canvas, _clutter_shape(rng, size, small=index % 3 == 0), light, rng)
    for shape in shapes:
        _draw(canvas, shape, light, calm)

    part_map = np.full((size, size), BACKGROUND, np.int32)
    for instance in instances:
        part_map[instance.mask] = instance.category_id
    return SyntheticPicture(_expose(canvas, rng), part_map, instances, [int(k) for k in kinds])


def _expose(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a camera does: light falling off to one side, white balance, blur and noise. uint8 RGB."""
    size = canvas.shape[0]
    corners = rng.uniform(0.75, 1.2, (2, 2)).astype(np.float32)
    gain = cv2.resize(corners, (size, size), interpolation=cv2.INTER_LINEAR)[..., None] * rng.uniform(
        0.9, 1.1, 3
    ).astype(np.float32)
    canvas = canvas * gain
    if rng.random() < 0.5:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.4, 0.9))
    noise = rng.standard_normal((size, size, 1), dtype=np.float32) * np.float32(rng.uniform(0.5, 7))
    return np.clip(canvas + noise, 0, 255).astype(np.uint8)


# ---------------------------------------------------------------- on disk


def write_dataset(
    root: str | Path, num_train: int, num_val: int, size: int = 256, seed: int = 0, variety: float = 1.0
) -> None:
    """Writes a data set in PartImageNet's Seg layout below the folder ``root``.

    ``images/{split}/NAME.JPEG``; ``annotations/{split}/NAME.png`` (part map, background = C), ``NAME.json``
    (imgHeight, imgWidth) and ``{split}.json`` (COCO); ``annotations/{split}_whole/NAME.png`` (supercategory of the
    object, background = their number). NAME is the supercategory of the first object, "_", and a number.
    Equal arguments give equal bytes.

    Args:
        root: created if missing; files of the same names are overwritten.
        num_train, num_val: pictures of each split, at least 1.
        size: side of the pictures in pixels.
        seed: other seeds give other pictures; training and validation never share one.
        variety: as for :func:`generate`.
    """
    for name, count in (("num_train", num_train), ("num_val", num_val)):
        if not 1 <= count <= _SEED_STRIDE:
            raise ValueError(f"{name}: expected 1..{_SEED_STRIDE}, got {count}")
    if seed < 0:
        raise ValueError(f"seed: expected at least 0, got {seed}")
    for part, (split, count) in enumerate((("train", num_train), ("val", num_val))):
        _write_split(Path(root), split, (2 * seed + part) * _SEED_STRIDE, count, size, variety)
        logger.info("%s: %d pictures written to %s", split, count, root)


# Room for the pictures of one split of one seed.
_SEED_STRIDE = 1_000_000


def _write_split(root: Path, split: str, first_seed: int, count: int, size: int, variety: float) -> None:
    image_dir, label_dir, whole_dir = (
        root / "images" / split,
        root / "annotations" / split,
        root / "annotations" / f"{split}_whole",
    )
    for folder in (image_dir, label_dir, whole_dir):
        folder.mkdir(parents=True, exist_ok=True)
    images: list[dict] = []
    annotations: list[dict] = []
    for number in range(count):
        picture = generate(first_seed + number, size, variety)
        name = f"{SUPERCATEGORIES[picture.objects[0]].lower()}_{number:06d}"
        _write_image(image_dir / f"{name}.JPEG", picture.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
        _write_image(label_dir / f"{name}.png", picture.part_map.astype(np.uint8), [])
        whole = np.full((size, size), len(SUPERCATEGORIES), np.uint8)
        for instance in picture.instances:
            whole[instance.mask] = picture.objects[instance.object_id]
        _write_image(whole_dir / f"{name}.png", whole, [])
        (label_dir / f"{name}.json").write_text(json.dumps({"imgHeight": size, "imgWidth": size}))
        images.append({"id": number + 1, "file_name": f"{name}.JPEG", "height": size, "width": size})
        for instance in picture.instances:
            x0, y0, x1, y1 = mask_to_box(instance.mask)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": instance.category_id,
                    "segmentation": _segmentation(instance.mask),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": int(instance.mask.sum()),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": f"{s} {p}", "supercategory": s} for i, (s, p) in enumerate(CATEGORIES)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (label_dir / f"{split}.json").write_text(json.dumps(coco, separators=(",", ":")))


def _write_image(path: Path, pixels: np.ndarray, options: list[int]) -> None:
    # cv2.imwrite picks the format by suffix and returns False instead of raising.
    done, data = cv2.imencode(".jpg" if path.suffix == ".JPEG" else path.suffix, pixels, options)
    if not done:
        raise ValueError(f"{path}: the picture could not be encoded, array {pixels.shape} {pixels.dtype}")
    path.write_bytes(data.tobytes())


def _segmentation(mask: np.ndarray) -> list | dict:
    """Polygons along the pixels' outer edges; run lengths for a mask with holes, which polygons cannot say."""
    # Contours run through pixel centres. On a four times finer grid they lie an eighth of a pixel inside the edge.
    x0, y0, x1, y1 = (int(v) for v in mask_to_box(mask))
    fine = mask[y0:y1, x0:x1].repeat(4, axis=0).repeat(4, axis=1).astype(np.uint8)
    contours, hierarchy = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if (hierarchy[0, :, 3] >= 0).any():
        return mask_to_rle(mask)
    # Tolerance in quarters of a pixel: below 2 the rasterised polygon is still exactly the mask.
    outlines = [cv2.approxPolyDP(c, 1.5, True) for c in contours]
    return [((c[:, 0] + 0.5) / 4 + (x0, y0)).reshape(-1).tolist() for c in outlines]
