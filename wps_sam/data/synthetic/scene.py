"""A whole picture: objects placed, labelled by what is visible of them, and painted."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from wps_sam.data.synthetic.background import backdrop, clutter_shape
from wps_sam.data.synthetic.objects import BACKGROUND, CLASS_NAMES, OBJECTS, SUPERCATEGORIES
from wps_sam.data.synthetic.painting import PAINTS, Paint, Shape, draw, expose
from wps_sam.data.synthetic.shapes import rotation

import cv2
import numpy as np

# Smaller visible pieces are not labelled: nobody could draw them, and PartImageNet has none.
MIN_PIXELS = 30
MAX_PARTS = 16


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

    Raises:
        ValueError: size or variety is out of range.
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
        shapes: list[Shape] = []
        for owner, kind in enumerate(kinds):
            # Turned as far as ever: a part that lies straight is nearly as well cut out by its box.
            turned = float(rng.normal())
            shapes += _place(SUPERCATEGORIES[kind], owner, size, count, turned, calm)
        shapes += [clutter_shape(rng, size, small=True) for _ in range(round(rng.integers(0, 3) * variety))]
        instances = _visible_pieces(shapes, size)
        # Rejected scenes cost little: nothing is painted yet. Every object must show at least two parts.
        shown = [sum(i.object_id == owner for i in instances) for owner in range(count)]
        if min(shown) >= 2 and len(instances) <= MAX_PARTS:
            break

    canvas = backdrop(rng, size)
    light = rotation(rng.uniform(-1.2, 1.2)) @ np.array([0.0, 1.0])
    for index in range(round(rng.integers(4, 16) * variety)):
        draw(canvas, clutter_shape(rng, size, small=index % 3 == 0), light, rng)
    for shape in shapes:
        draw(canvas, shape, light, calm)

    part_map = np.full((size, size), BACKGROUND, np.int32)
    for instance in instances:
        part_map[instance.mask] = instance.category_id
    return SyntheticPicture(expose(canvas, rng), part_map, instances, [int(k) for k in kinds])


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


def _place(name: str, owner: int, size: int, count: int, turned: float, rng: np.random.Generator) -> list[Shape]:
    """Builds an object and maps it to pixels, with a paint for every part.

    Args:
        name: of its supercategory.
        owner, count: number of the object, out of how many.
        size: of the picture in pixels.
        turned: how far, in standard deviations.
        rng: of the pose, the place and the colours.
    """
    kind = OBJECTS[name]
    parts = kind.build(rng)
    u = rng.uniform
    scale = size * kind.relative_size * (u(0.32, 0.54) if count == 1 else u(0.22, 0.36))
    matrix = (
        rotation(math.radians(kind.largest_turn * np.clip(turned / 2, -1, 1)))
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
        typical = PAINTS[full]
        hue, saturation, value = np.array(typical[:3]) + family + tints[part]
        if free_hue is not None and full in ("Car Body", "Person Torso", "Person Leg"):
            hue = free_hue + (0.4 if part == "Leg" else 0.0)
        paint = Paint(float(hue), float(saturation), float(value), typical.textures)
        shapes.append(Shape(points @ matrix.T * scale + centre, full, paint, owner, darken))
    return shapes


def _visible_pieces(shapes: list[Shape], size: int) -> list[Instance]:
    """Connected visible pieces of at least MIN_PIXELS, class by class and object by object."""
    # Which shape is on top; -1 where none.
    top = np.full((size, size), -1, np.int16)
    for index, shape in enumerate(shapes):
        cv2.fillPoly(top, [np.round(shape.points * 16).astype(np.int32)], index, cv2.LINE_8, 4)
    # Class and object in one number, -1 for clutter; shifted by one for "no shape".
    class_of = [-1 if s.part is None else CLASS_NAMES.index(s.part) + s.owner * BACKGROUND for s in shapes]
    keys = np.array([-1, *class_of])[top.astype(np.int64) + 1]
    found = []
    for key in np.unique(keys[keys >= 0]):
        covered = (keys == key).astype(np.uint8)
        count, pieces, stats, _ = cv2.connectedComponentsWithStats(covered, connectivity=4)
        for piece in range(1, count):
            if stats[piece, cv2.CC_STAT_AREA] >= MIN_PIXELS:
                found.append(Instance(int(key % BACKGROUND), pieces == piece, int(key // BACKGROUND)))
    return found
