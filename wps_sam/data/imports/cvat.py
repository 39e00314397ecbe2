"""CVAT for images 1.1: one XML of all pictures."""

from __future__ import annotations

from collections.abc import Sequence
from math import radians
from typing import Any
from xml.etree.ElementTree import Element

from wps_sam.data.imports.labels import (
    Export,
    Format,
    Label,
    LabelledPicture,
    Notes,
    Point,
    ReadFile,
    ellipse,
    flat,
    number,
    split_of,
    turned_box,
)
from wps_sam.data.sources.fields import integer, picture_size, shown, text
from wps_sam.masks import mask_to_rle

import numpy as np

_UNUSABLE = {"polyline": "polylines", "cuboid": "cuboids", "skeleton": "skeletons"}


def _recognises(file: ReadFile) -> bool:
    return isinstance(file.content, Element) and file.content.tag == "annotations"


def _read(files: Sequence[ReadFile], notes: Notes) -> Export:
    pictures, classes = [], dict[str, None]()
    for file in files:
        if file.content.find("track") is not None:
            raise ValueError(f"labels {file.path}: holds tracks of a video; export it as 'CVAT for images 1.1'")
        for label in file.content.iterfind("./meta//labels/label"):
            # A skeleton and its parts are declared like classes.
            if label.findtext("type") != "skeleton" and label.find("parent") is None:
                classes[text({"name": label.findtext("name")}, "name", f"labels {file.path}: label")] = None
        pictures += [_picture(image, file, notes) for image in file.content.iterfind("image")]
    return Export(pictures, tuple(classes))


def _picture(image: Element, file: ReadFile, notes: Notes) -> LabelledPicture:
    where = f"labels {file.path}: image"
    name = text(image.attrib, "name", where)
    where = f"{where} {name!r}"
    size = picture_size(image.attrib, where)
    picture = LabelledPicture(name, size, split_of(image.get("subset", "")))
    for shape in image:
        if shape.tag in _UNUSABLE:
            notes.leave_out(_UNUSABLE[shape.tag], name)
            continue
        label = text(shape.attrib, "label", f"{where}: {shape.tag}")
        if shape.tag == "tag":
            picture.tags.append(label)
        else:
            picture.labels += _labels(shape, label, size, f"{where}: {shape.tag} {label!r}", notes)
    return picture


def _labels(shape: Element, name: str, size: tuple[int, int], where: str, notes: Notes) -> list[Label]:
    degrees = _numbers(shape, where, "rotation")[0] if "rotation" in shape.attrib else 0.0
    if shape.tag == "box":
        x0, y0, x1, y1 = _numbers(shape, where, "xtl", "ytl", "xbr", "ybr")
        center = ((x0 + x1) / 2, (y0 + y1) / 2)
        return [Label(name, box=turned_box((x0, y0, x1, y1), center, degrees, notes))]
    if shape.tag == "ellipse":
        x, y, radius_x, radius_y = _numbers(shape, where, "cx", "cy", "rx", "ry")
        return [Label(name, segmentation=[ellipse((x, y), (radius_x, radius_y), radians(degrees))])]
    if shape.tag == "polygon":
        return [Label(name, segmentation=[flat(_points(shape, where))])]
    if shape.tag == "points":
        return [Label(name, point=point) for point in _points(shape, where)]
    if shape.tag == "mask":
        return [Label(name, segmentation=_mask(shape, size, where))]
    raise ValueError(f"{where}: unknown kind of label")


def _numbers(shape: Element, where: str, *keys: str) -> list[float]:
    return [number(shape.get(key), f"{where}.{key}") for key in keys]


def _points(shape: Element, where: str) -> list[Point]:
    """Of "x,y;x,y;..."."""
    points = []
    for pair in shape.get("points", "").split(";"):
        values = [number(value, f"{where}.points") for value in pair.split(",")]
        if len(values) != 2:
            raise ValueError(f"{where}.points: expected 'x,y;x,y;...', got {shown(shape.get('points'))}")
        points.append((values[0], values[1]))
    return points


def _mask(shape: Element, size: tuple[int, int], where: str) -> dict[str, Any]:
    """Run lengths row by row of a rectangle of the picture, outside and inside in turn, beginning outside."""
    left, top, width, height = (integer(shape.attrib, key, where, 0) for key in ("left", "top", "width", "height"))
    if left + width > size[1] or top + height > size[0]:
        raise ValueError(
            f"{where}: {width} x {height} pixels at {(left, top)} are not within the picture, {size[1]} x {size[0]}"
        )
    runs = [integer({"rle": run}, "rle", where, 0) for run in shape.get("rle", "").split(",")]
    if sum(runs) != width * height:
        raise ValueError(f"{where}.rle: expected runs that add up to {width} * {height}, got {sum(runs)}")
    mask = np.zeros(size, bool)
    cut = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    mask[top : top + height, left : left + width] = cut.reshape(height, width)
    return mask_to_rle(mask)


FORMAT = Format("cvat", "CVAT for images 1.1, one XML", ("*.xml",), _recognises, _read)
