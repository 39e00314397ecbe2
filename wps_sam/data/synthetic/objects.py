"""The seven kinds of objects, as polygons in a random pose, and the names of their parts.

An object is built in its own units, about 2 long around (0, 0); scene.py maps it to pixels. The order in which a
builder draws its random numbers is part of the data set: another order gives other pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from wps_sam.data.synthetic.shapes import ellipse, limb, rotation, round_corners, walk

import numpy as np

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


class PartShape(NamedTuple):
    """One polygon of an object: float [K, 2] xy in the object's units; ``darken`` < 1 for limbs of the far side."""

    part: str
    points: np.ndarray
    darken: float = 1.0


class ObjectKind(NamedTuple):
    """How to build an object (its polygons from back to front), how far it may turn, and its size beside the others."""

    build: Callable[[np.random.Generator], list[PartShape]]
    largest_turn: float  # degrees
    relative_size: float


def _quadruped(rng: np.random.Generator) -> list[PartShape]:
    u = rng.uniform
    girth, leg, thick, neck = u(0.15, 0.26), u(0.35, 0.7), u(0.05, 0.085), u(0.2, 0.5)

    def legs(darken: float) -> list[PartShape]:
        shapes = []
        for x in (-0.42, 0.40):
            swing, bend = u(-0.55, 0.55), u(-0.4, 0.4)
            joints = walk(x + u(-0.06, 0.06), 0.05, [swing, swing + bend], [leg * 0.55, leg * 0.6])
            foot = (joints[-1][0] + 0.06, joints[-1][1] + 0.01)
            outline = limb([*joints, foot], [thick * 1.7, thick, thick * 0.75, thick * 0.8])
            shapes.append(PartShape("Leg", outline, darken))
        return shapes

    far_legs = legs(0.7)
    # An arc of even steps never folds back on itself, which would leave holes in the outline.
    start, curl = -math.pi / 2 + u(-0.9, 0.9), u(-0.6, 0.6)
    arc = walk(-0.46, -0.08, [start, start + curl, start + 2 * curl], [0.22, 0.17, 0.17])
    tail = limb(arc, [0.05, 0.05, 0.045, u(0.03, 0.1)])
    back = [(-0.46, -0.02), (0.0, u(-0.05, 0.08)), (0.42, -0.04)]
    torso = limb(back, [girth, girth * u(0.85, 1.1), girth * 1.05])
    near_legs = legs(1.0)
    lift = u(-0.6, 1.2)
    nx, ny = 0.52 + neck * math.cos(lift), -0.12 - neck * math.sin(lift)
    face = lift - u(0.4, 1.1)
    mx, my = nx + 0.3 * math.cos(face), ny - 0.3 * math.sin(face)

    def ear(dx: float) -> np.ndarray:
        tip = (nx + dx - 0.06 + u(-0.06, 0.06), ny - u(0.24, 0.38))
        return limb([(nx + dx, ny - 0.08), tip], [0.06, 0.065, 0.015])

    near_ear, far_ear = ear(-0.05), ear(0.05)
    head = limb([(0.5, -0.1), (nx, ny), (mx, my)], [girth * 0.62, 0.125, 0.14, 0.075])
    return [
        *far_legs,
        PartShape("Tail", tail),
        PartShape("Torso", torso),
        *near_legs,
        PartShape("Ear", far_ear, 0.75),
        PartShape("Head", head),
        PartShape("Ear", near_ear),
    ]


def _bird(rng: np.random.Generator) -> list[PartShape]:
    u = rng.uniform
    shapes: list[PartShape] = []
    flying, plump = rng.random() < 0.5, u(0.2, 0.3)

    def wing() -> np.ndarray:
        if flying:
            a, length = u(0.4, 1.4), u(0.7, 1.0)
            tip = (-0.15 - length * math.cos(a), -length * math.sin(a))
            elbow = (0.1 - 0.35 * math.cos(a), -0.1 - 0.55 * length * math.sin(a))
            trailing = (tip[0] * 0.75 - 0.12, tip[1] * 0.45)
            return round_corners([(0.22, -0.1), elbow, tip, trailing, (-0.3, 0.02)])
        return limb([(0.2, -0.06), (-0.15, 0.02), (-0.6, u(-0.02, 0.15))], [0.1, 0.16, 0.13, 0.02])

    if flying:
        shapes.append(PartShape("Wing", wing() + (0.06, 0.0), 0.7))
    for x in (-0.02, 0.12):
        bend = u(-0.5, 0.3)
        joints = walk(x, 0.15, [bend, bend * 0.3, 1.3], [0.22, 0.24, 0.12])
        shapes.append(PartShape("Leg", limb(joints, [0.05, 0.035, 0.03, 0.03])))
    spread, droop = u(0.08, 0.22), u(-0.15, 0.3)
    feathers = [(-0.95, droop - spread), (-1.02, droop), (-0.95, droop + spread)]
    tail = round_corners([(-0.4, -0.06), *feathers, (-0.4, 0.08)], 1)
    body = limb([(-0.42, 0.03), (0.0, 0.05), (0.38, -0.1)], [0.08, plump, plump * 1.05, plump * 0.6])
    hx, hy = 0.5 + u(-0.05, 0.12), -0.26 - u(0.0, 0.25)
    length, look = u(0.2, 0.42), u(-0.5, 0.5)
    beak = np.array([(0.08, -0.075), (0.12 + length, 0.03), (0.08, 0.075)])
    head = limb([(0.36, -0.12), (hx, hy)], [plump * 0.55, 0.14, 0.15])
    return [
        *shapes,
        PartShape("Tail", tail),
        PartShape("Body", body),
        PartShape("Beak", beak @ rotation(look).T + (hx + 0.04, hy)),
        PartShape("Head", head),
        PartShape("Wing", wing()),
    ]


def _fish(rng: np.random.Generator) -> list[PartShape]:
    u = rng.uniform
    h, bend, fork = u(0.2, 0.4), u(-0.25, 0.25), u(0.15, 0.4)
    end_x, end_y = -0.6, bend
    lower_fork = fork * u(0.7, 1.1)
    blades = [(-1.0, end_y - fork), (-0.86, end_y), (-1.0, end_y + lower_fork)]
    tail = round_corners([(end_x + 0.1, end_y - 0.05), *blades, (end_x + 0.1, end_y + 0.05)], 1)
    crest = [(u(-0.2, 0.1), -h - u(0.15, 0.4)), (-0.38, -h - u(0.0, 0.2))]
    back_fin = round_corners([(0.2, -h * 0.7), *crest, (-0.4, bend * 0.5 - h * 0.3)], 1)
    keel = [(-0.2, h + u(0.1, 0.3)), (-0.35, h * 0.9)]
    belly_fin = round_corners([(0.0, h * 0.7), *keel, (-0.3, bend * 0.5 + h * 0.3)], 1)
    spine = [(0.42, 0), (0.0, -bend * 0.15), (-0.35, bend * 0.4), (end_x, end_y)]
    body = limb(spine, [h * 0.95, h, h * 0.6, 0.07])
    face = [(0.38, -h * 0.92), (0.62, -h * 0.62), (u(0.68, 0.92), 0.0), (0.62, h * 0.62), (0.38, h * 0.92)]
    head = round_corners([*face, (0.27, h * 0.4), (0.3, -h * 0.4)])
    reach = u(0.2, 0.4)
    side_fin = limb([(0.15, 0.06), (0.15 - reach, 0.06 + u(0.05, 0.25))], [0.03, 0.09, 0.06])
    return [
        PartShape("Tail", tail),
        PartShape("Fin", back_fin),
        PartShape("Fin", belly_fin),
        PartShape("Body", body),
        PartShape("Head", head),
        PartShape("Fin", side_fin),
    ]


def _snake(rng: np.random.Generator) -> list[PartShape]:
    u = rng.uniform
    waves, height, phase, thick = u(0.8, 2.2), u(0.18, 0.5), u(0, 2 * np.pi), u(0.055, 0.11)
    t = np.linspace(0, 1, 9)
    swing = height * np.sin(2 * np.pi * waves * t + phase) + u(-0.5, 0.5) * (t - 0.5) ** 2
    spine = np.stack([-0.95 + 1.75 * t, swing], 1)
    body = limb(spine, [0.02, thick * 0.8, thick, thick * 1.1, thick, thick * 0.75], count=48)
    heading = spine[-1] - spine[-2]
    heading = heading / np.linalg.norm(heading)
    neck, snout = spine[-1] - 0.02 * heading, spine[-1] + 0.26 * heading
    head = limb([neck, snout], [thick * 0.8, thick * 1.55, thick * 1.3, thick * 0.5])
    return [PartShape("Body", body), PartShape("Head", head)]


def _car(rng: np.random.Generator) -> list[PartShape]:
    u = rng.uniform
    roof, hood, boot = u(-0.52, -0.3), u(0.3, 0.62), u(-0.8, -0.45)
    front, back = u(0.12, 0.4), u(-0.62, -0.35)
    belt, floor = u(-0.12, -0.04), u(0.2, 0.28)
    rear = [(-0.95, floor), (-0.97, belt + 0.04), (boot, belt - 0.02)]
    nose = [(hood, belt - 0.02), (0.94, belt + 0.08), (0.97, floor)]
    body = round_corners([*rear, (back, roof), (front, roof), *nose], 1)
    pillar = (back + front) / 2 + u(-0.08, 0.08)
    behind, ahead, top = pillar - 0.025, pillar + 0.025, roof + 0.06
    # Windows follow the slope of the pillars, so that they are oblique pieces too.
    back_window = np.array([(boot + 0.1, belt), (back + 0.04, top), (behind, top), (behind, belt)])
    front_window = np.array([(ahead, belt), (ahead, top), (front - 0.04, top), (hood - 0.1, belt)])
    headlight = ellipse(0.88, belt + 0.13, 0.075, 0.06, u(-0.5, 0.5))
    tail_light = ellipse(-0.9, belt + 0.12, 0.055, 0.075, u(-0.5, 0.5))
    radius = u(0.15, 0.2)
    wheels = [ellipse(x + u(-0.05, 0.05), floor, radius, radius) for x in (-0.58, 0.58)]
    return [
        PartShape("Body", body),
        PartShape("Window", back_window),
        PartShape("Window", front_window),
        PartShape("Light", headlight),
        PartShape("Light", tail_light, 0.85),
        *(PartShape("Wheel", wheel) for wheel in wheels),
    ]


def _aeroplane(rng: np.random.Generator) -> list[PartShape]:
    u = rng.uniform
    thick, sweep, span, tilt = u(0.09, 0.14), u(0.3, 0.7), u(0.5, 0.85), u(0.35, 0.9)

    def wing(sign: float) -> np.ndarray:
        chord, y, tip = u(0.13, 0.2), sign * span * tilt, 0.22 - sweep
        return np.array([(0.22, 0), (tip, y), (tip - chord * 0.7, y), (0.22 - chord * 2.2, 0)])

    def engine(sign: float, along: float) -> np.ndarray:
        x, y = 0.24 - sweep * along, sign * span * tilt * along + 0.05
        return limb([(x - 0.12, y), (x + 0.13, y)], [0.055, 0.065])

    far_wing, far_engine = wing(-1), engine(-1, u(0.35, 0.55))
    tailplane = np.array([(-0.62, 0), (-0.9, -0.34 * tilt), (-1.0, -0.34 * tilt), (-0.9, 0)])
    spine = [(-0.95, -0.03), (-0.4, 0.0), (0.4, 0.0), (0.88, u(-0.02, 0.03))]
    body = limb(spine, [0.03, thick * 0.9, thick, thick, thick, thick * 0.5])
    height = u(0.32, 0.48)
    fin = np.array([(-0.52, -thick * 0.5), (-0.86, -height), (-1.02, -height), (-0.9, 0.0)])
    return [
        PartShape("Wing", far_wing, 0.8),
        PartShape("Engine", far_engine, 0.85),
        PartShape("Tail", tailplane, 0.8),
        PartShape("Body", body),
        PartShape("Tail", fin),
        PartShape("Engine", engine(1, u(0.3, 0.6))),
        PartShape("Wing", wing(1)),
    ]


def _person(rng: np.random.Generator) -> list[PartShape]:
    u = rng.uniform
    shoulder, hip, lean = u(0.17, 0.26), u(0.12, 0.18), u(-0.2, 0.2)
    x, y = lean * 0.8, -0.42  # between the shoulders

    def arm(sign: float) -> np.ndarray:
        raised, bend = sign * u(0.05, 2.2), sign * u(-0.2, 1.2)
        joints = walk(x + sign * shoulder * 0.85, y + 0.05, [raised, raised + bend], [0.28, 0.3])
        return limb(joints, [0.075, 0.065, 0.05, 0.055])

    def leg(sign: float) -> np.ndarray:
        swing = sign * u(-0.1, 0.6)
        joints = walk(sign * hip * 0.55, 0.12, [swing, swing - sign * u(-0.15, 0.5)], [0.42, 0.42])
        foot = (joints[-1][0] + 0.1, joints[-1][1] + 0.01)
        return limb([*joints, foot], [0.105, 0.085, 0.07, 0.05, 0.045], count=22)

    far_arm, far_leg, near_leg = arm(-1), leg(-1), leg(1)
    hx, hy = x + u(-0.08, 0.08), y - 0.26
    head = limb([(x, y - 0.05), (hx, hy), (hx, hy - 0.06)], [0.06, 0.06, 0.14, 0.12], count=14)
    torso = round_corners([(x - shoulder, y - 0.02), (x + shoulder, y - 0.02), (hip, 0.2), (-hip, 0.2)])
    return [
        PartShape("Arm", far_arm, 0.85),
        PartShape("Leg", far_leg, 0.8),
        PartShape("Leg", near_leg),
        PartShape("Head", head),
        PartShape("Torso", torso),
        PartShape("Arm", arm(1)),
    ]


OBJECTS: dict[str, ObjectKind] = {
    "Quadruped": ObjectKind(_quadruped, 35, 0.95),
    "Bird": ObjectKind(_bird, 45, 0.95),
    "Fish": ObjectKind(_fish, 60, 0.9),
    "Snake": ObjectKind(_snake, 180, 1.0),
    "Car": ObjectKind(_car, 25, 0.95),
    "Aeroplane": ObjectKind(_aeroplane, 60, 1.0),
    "Person": ObjectKind(_person, 40, 1.0),
}
