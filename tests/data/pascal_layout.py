"""VOC2010 and Pascal-Part's annotations, small, written to disk in the layout of the downloads.

The .mat files have the structs of the real ones: ``anno`` (1x1) with imname and objects, ``objects`` (1xK) with class,
class_ind, mask and parts, and ``parts`` (1xP, or 0x0 for an object without any) with part_name and mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

HEIGHT, WIDTH = 40, 60
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "table", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def box(x0: int, y0: int, x1: int, y1: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """A rectangle as the files have it: uint8 [H, W], 1 inside, x1 and y1 exclusive."""
    mask = np.zeros(size, np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


@dataclass
class Thing:
    """One object of a .mat file. ``parts`` in file order."""

    name: str
    mask: np.ndarray
    parts: list[tuple[str, np.ndarray]] = field(default_factory=list)


def struct_array(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """A MATLAB struct array of 1 x len(rows)."""
    array = np.empty((1, len(rows)), dtype=[(name, object) for name in rows[0]])
    for position, row in enumerate(rows):
        array[0, position] = tuple(row.values())
    return array


def write_mat(path: Path, things: Sequence[Thing], imname: str | None = None) -> Path:
    """Writes one annotation, named as its picture unless ``imname`` says otherwise."""
    objects = [
        {
            "class": thing.name,
            "class_ind": np.uint8(VOC_CLASSES.index(thing.name) + 1 if thing.name in VOC_CLASSES else 99),
            "mask": thing.mask,
            "parts": struct_array([{"part_name": name, "mask": mask} for name, mask in thing.parts])
            if thing.parts
            else np.empty((0, 0)),
        }
        for thing in things
    ]
    anno = {"imname": imname or path.stem, "objects": struct_array(objects) if objects else np.empty((0, 0))}
    savemat(path, {"anno": anno})
    return path


# A car whose plate stands before the side that it lies on, as in the real files, and with more wheels than the official
# script counts; a person with both sides and an eye in the head; a boat; a screen seen from behind.
CAR = Thing(
    "car",
    box(2, 2, 32, 22),
    [
        ("fliplate", box(6, 16, 10, 18)),
        ("frontside", box(2, 10, 16, 22)),
        ("leftside", box(16, 10, 30, 22)),
        ("leftmirror", box(14, 8, 16, 10)),
        ("wheel_1", box(4, 18, 8, 22)),
        ("wheel_12", box(20, 18, 24, 22)),
    ],
)
PERSON = Thing(
    "person",
    box(40, 0, 58, 40),
    [
        ("head", box(44, 0, 54, 10)),
        ("leye", box(50, 3, 52, 5)),
        ("reye", box(46, 3, 48, 5)),
        ("torso", box(42, 10, 56, 24)),
        ("llarm", box(54, 10, 58, 16)),
        ("lhand", box(54, 16, 58, 20)),
        ("rlarm", box(40, 10, 44, 16)),
        ("rhand", box(40, 16, 44, 20)),
    ],
)
BOAT = Thing("boat", box(10, 10, 40, 30))
SCREEN_FROM_BEHIND = Thing("tvmonitor", box(40, 10, 50, 20))
BICYCLE = Thing(
    "bicycle",
    box(5, 5, 45, 35),
    [("fwheel", box(5, 20, 20, 35)), ("bwheel", box(30, 20, 45, 35)), ("chainwheel", box(22, 24, 26, 28))],
)

STREET, HARBOUR, BICYCLES, EMPTY, UNANNOTATED = (
    *("2008_000652", "2009_000001", "2010_000003"),
    *("2010_000004", "2010_006086"),
)
PICTURES: dict[str, list[Thing]] = {
    STREET: [CAR, PERSON],
    HARBOUR: [BOAT, SCREEN_FROM_BEHIND],
    BICYCLES: [BICYCLE],
    EMPTY: [],
}


@dataclass(frozen=True)
class Voc:
    """A written data root: ``voc`` is VOC2010, ``mats`` the folder of the annotations."""

    root: Path

    @property
    def voc(self) -> Path:
        return self.root / "VOCdevkit" / "VOC2010"

    @property
    def mats(self) -> Path:
        return self.root / "PascalPart" / "Annotations_Part"

    @property
    def output(self) -> Path:
        return self.root / "PascalPart"


def write_voc(root: Path) -> Voc:
    """Two pictures to train and two to validate, one of the latter without objects, and one without an annotation."""
    written = Voc(root)
    lists, pictures = written.voc / "ImageSets" / "Main", written.voc / "JPEGImages"
    for folder in (lists, pictures, written.mats):
        folder.mkdir(parents=True)
    (lists / "train.txt").write_text(f"{STREET}\n{HARBOUR}\n")
    (lists / "val.txt").write_text(f"{BICYCLES}\n{EMPTY}\n{UNANNOTATED}\n")
    for name in (*PICTURES, UNANNOTATED):
        Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 150)).save(pictures / f"{name}.jpg")
    for name, things in PICTURES.items():
        write_mat(written.mats / f"{name}.mat", things)
    (written.mats / f"._{STREET}.mat").write_bytes(b"\x00\x05\x16\x07 not what the name says")
    return written
