"""Label Studio's JSON export: one list of tasks; places are percents of the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import radians
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from wps_sam.data.imports.brush import unpack
from wps_sam.data.imports.labels import (
    Export,
    Format,
    Label,
    LabelledPicture,
    Notes,
    ReadFile,
    ellipse,
    flat,
    number,
    split_of,
    turned_box,
)
from wps_sam.data.sources.fields import picture_size, shown
from wps_sam.masks import mask_to_rle
from wps_sam.picture_files import SUFFIXES

# Results that say something of a region drawn by another result of the same id.
_OF_A_REGION = ("choices", "textarea", "rating", "number", "taxonomy")
_DRAWN = ("rectangle", "polygon", "keypoint", "brush", "ellipse")


def _recognises(file: ReadFile) -> bool:
    tasks = file.content
    if not isinstance(tasks, list) or not tasks:
        return False
    return all(isinstance(task, dict) and {"annotations", "data"} <= task.keys() for task in tasks)


def _read(files: Sequence[ReadFile], notes: Notes) -> Export:
    return Export(
        [
            _picture(task, f"labels {file.path}: task {task.get('id', i)}", split_of(file.relative), notes)
            for file in files
            for i, task in enumerate(file.content)
        ]
    )


def _picture(task: Mapping[str, Any], where: str, split: str | None, notes: Notes) -> LabelledPicture:
    picture = LabelledPicture(_picture_name(task, where), split=split)
    if task.get("predictions"):
        notes.leave_out("tasks' predictions of a model", picture.name)
    annotations = task["annotations"]
    if not isinstance(annotations, list) or not all(isinstance(a, dict) for a in annotations):
        raise ValueError(f"{where}.annotations: expected a list, got {shown(annotations)}")
    done = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
    # Several people may have labelled one picture, one of whom may be known to be right.
    done.sort(key=lambda annotation: not annotation.get("ground_truth"))
    for _ in done[1:]:
        notes.leave_out("further annotations of the same picture", picture.name)
    for annotation in done[:1]:
        results = annotation.get("result")
        if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
            raise ValueError(f"{where}.annotations: expected a list of results, got {shown(results)}")
        # Any JSON may be an id.
        named = [result.get("id") for result in results if result.get("type") == "labels"]
        for i, result in enumerate(results):
            if result.get("type") not in _DRAWN or result.get("id") not in named:
                _add_result(result, f"{where}: result[{i}]", picture, notes)
    return picture


def _picture_name(task: Mapping[str, Any], where: str) -> str:
    """The path of the task's picture, out of its address."""
    data = task["data"]
    named = {}
    for key, value in data.items() if isinstance(data, dict) else ():
        if isinstance(value, str):
            try:
                address = urlsplit(value)
                # Of local files the path is a parameter: /data/local-files/?d=folder/name.jpg
                path = parse_qs(address.query).get("d", [unquote(address.path)])[0]
            except ValueError:  # No address.
                continue
            if PurePosixPath(path).suffix.lower() in SUFFIXES:
                named[key] = path
    chosen = named.get("image") or (next(iter(named.values())) if len(named) == 1 else None)
    if chosen is None:
        raise ValueError(f"{where}.data: expected one picture, such as image: /data/upload/1/a.jpg, got {shown(data)}")
    return chosen


def _add_result(result: Mapping[str, Any], where: str, picture: LabelledPicture, notes: Notes) -> None:
    kind, value = str(result.get("type")), result.get("value")
    if not isinstance(value, dict):
        raise ValueError(f"{where}.value: expected a mapping, got {shown(value)}")
    names = value.get(kind, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where}.value.{kind}: expected a list of names, got {shown(names)}")
    if kind in _OF_A_REGION:
        if kind != "choices" or {"x", "points", "rle"} & value.keys():
            notes.leave_out(f"results of the kind {kind!r}", picture.name)
        else:
            picture.tags += names
        return
    if "original_width" not in result or not {"x", "points", "rle"} & value.keys():
        notes.leave_out(f"results of the kind {kind!r}", picture.name)
        return
    if result.get("image_rotation"):
        notes.leave_out("regions on a picture that was turned in Label Studio", picture.name)
        return
    if not names:
        notes.leave_out("regions without a class", picture.name)
        return
    height, width = picture_size(result, where, "original_height", "original_width")
    if picture.size not in (None, (height, width)):
        raise ValueError(f"{where}: original_height and original_width differ from those of the results before")
    picture.size = height, width
    place = _place(value, height, width, where, notes)
    if place is None:
        notes.leave_out("lines", picture.name)
    else:
        picture.labels += [Label(name, **place) for name in names]


def _place(value: Mapping[str, Any], height: int, width: int, where: str, notes: Notes) -> dict[str, Any] | None:
    """The fields of a :class:`Label` that say where it is; None of an open line. What is there tells its kind."""

    def pixels(*keys: str) -> list[float]:
        scale = {"x": width, "y": height, "width": width, "height": height, "radiusX": width, "radiusY": height}
        return [number(value.get(key), f"{where}.value.{key}") * scale[key] / 100 for key in keys]

    degrees = number(value.get("rotation") or 0, f"{where}.value.rotation")
    if "rle" in value:
        return {"segmentation": mask_to_rle(unpack(value["rle"], height, width, f"{where}.value.rle"))}
    if "points" in value:
        points = value["points"]
        if not isinstance(points, list) or not all(isinstance(p, list) and len(p) == 2 for p in points):
            raise ValueError(f"{where}.value.points: expected a list of [x, y], got {shown(points)}")
        if value.get("closed") is False:
            return None
        name = f"{where}.value.points"
        corners = [(number(x, name) * width / 100, number(y, name) * height / 100) for x, y in points]
        return {"segmentation": [flat(corners)]}
    if "radiusX" in value:
        x, y, radius_x, radius_y = pixels("x", "y", "radiusX", "radiusY")
        return {"segmentation": [ellipse((x, y), (radius_x, radius_y), radians(degrees))]}
    if "height" in value:
        x, y, box_width, box_height = pixels("x", "y", "width", "height")
        # Rotated about its upper left corner.
        return {"box": turned_box((x, y, x + box_width, y + box_height), (x, y), degrees, notes)}
    # The width of a keypoint is that of its drawing.
    x, y = pixels("x", "y")
    return {"point": (x, y)}


FORMAT = Format("label_studio", "Label Studio's JSON export (not JSON-MIN)", ("*.json",), _recognises, _read)
