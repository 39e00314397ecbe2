"""LabelMe: one json a picture."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from wps_sam.data.imports.labels import (
    Export,
    Format,
    Label,
    LabelledPicture,
    Notes,
    Point,
    ReadFile,
    box_around,
    ellipse,
    flat,
    number,
    split_of,
)
from wps_sam.data.sources.fields import picture_size, shown, text
from wps_sam.masks import mask_to_rle
from wps_sam.picture_files import decoding, open_picture

import numpy as np

_LINES = ("line", "linestrip")


def _recognises(file: ReadFile) -> bool:
    return isinstance(file.content, dict) and {"shapes", "imagePath"} <= file.content.keys()


def _read(files: Sequence[ReadFile], notes: Notes) -> Export:
    return Export([_picture(file, notes) for file in files])


def _picture(file: ReadFile, notes: Notes) -> LabelledPicture:
    where, content = f"labels {file.path}", file.content
    # Relative to the json, perhaps in Windows' form.
    name = f"{file.relative.parent.as_posix()}/{text(content, 'imagePath', where)}"
    size = None
    if content.get("imageHeight") is not None:
        size = picture_size(content, where, "imageHeight", "imageWidth")
    shapes, flags = content["shapes"], content.get("flags") or {}
    if not isinstance(shapes, list) or not isinstance(flags, dict):
        raise ValueError(f"{where}: expected a list of shapes and flags by name, got {shown(shapes)}, {shown(flags)}")
    picture = LabelledPicture(name, size, split_of(file.relative.parent))
    picture.tags = [flag for flag, is_set in flags.items() if is_set]
    groups: dict[tuple[str, Any], int] = {}
    for i, shape in enumerate(shapes):
        place = f"{where}: shapes[{i}]"
        for label in _labels(shape, place, picture, notes):
            # Polygons of one group are pieces of one part.
            group = (label.name, shape.get("group_id"))
            if not isinstance(group[1], int | str | None):
                raise ValueError(f"{place}.group_id: expected a number, got {shown(group[1])}")
            pieces = label.segmentation
            if group[1] is None or not isinstance(pieces, list):
                picture.labels.append(label)
            elif group in groups:
                first = picture.labels[groups[group]]
                assert isinstance(first.segmentation, list)
                first.segmentation.extend(pieces)
            else:
                groups[group] = len(picture.labels)
                picture.labels.append(label)
    return picture


def _labels(shape: Any, where: str, picture: LabelledPicture, notes: Notes) -> list[Label]:
    name = text(shape, "label", where)
    kind = text({"shape_type": shape.get("shape_type") or "polygon"}, "shape_type", where)
    if kind in _LINES:
        notes.leave_out("lines", picture.name)
        return []
    points = _points(shape, where)
    expected = {"rectangle": 2, "circle": 2, "point": 1, "mask": 2}.get(kind)
    if expected is not None and len(points) != expected:
        raise ValueError(f"{where}.points: expected {expected} points of a {kind}, got {len(points)}")
    if kind == "polygon":
        return [Label(name, segmentation=[flat(points)])]
    if kind == "rectangle":
        return [Label(name, box=box_around(points))]
    if kind == "circle":
        radius = math.dist(*points)
        return [Label(name, segmentation=[ellipse(points[0], (radius, radius))])]
    if kind in ("point", "points"):
        return [Label(name, point=point) for point in points]
    if kind == "mask":
        return [Label(name, segmentation=_mask(shape, points, where, picture))]
    raise ValueError(f"{where}.shape_type: unknown kind {shown(kind)}")


def _points(shape: Mapping[str, Any], where: str) -> list[Point]:
    points = shape.get("points")
    if not isinstance(points, list) or not all(isinstance(p, list) and len(p) == 2 for p in points):
        raise ValueError(f"{where}.points: expected a list of [x, y], got {shown(points)}")
    return [(number(x, f"{where}.points"), number(y, f"{where}.points")) for x, y in points]


def _mask(shape: Mapping[str, Any], points: Sequence[Point], where: str, picture: LabelledPicture) -> dict[str, Any]:
    """A PNG of the pixels from the first point to the second, both of them in it."""
    try:
        png = base64.b64decode(shape.get("mask") or "", validate=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}.mask: expected a PNG in base64: {error}") from error
    with decoding(where, "mask"), open_picture(io.BytesIO(png)) as image:
        cut = np.asarray(image) > 0
    (x, y), (height, width) = points[0], picture.size or (0, 0)
    left, top = round(x), round(y)
    if cut.ndim != 2 or left < 0 or top < 0 or top + cut.shape[0] > height or left + cut.shape[1] > width:
        raise ValueError(f"{where}.mask: {cut.shape} at {(left, top)} is not within the picture, {height} x {width}")
    mask = np.zeros((height, width), bool)
    mask[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
    return mask_to_rle(mask)


FORMAT = Format("labelme", "LabelMe, a folder with one json a picture", ("*.json",), _recognises, _read)
