"""Pascal VOC: one XML a picture, with boxes of objects and perhaps of their parts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from wps_sam.data.imports.labels import Box, Export, Format, Label, LabelledPicture, Notes, ReadFile, number, split_of
from wps_sam.data.sources.fields import picture_size, read_text, text

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def _recognises(file: ReadFile) -> bool:
    return isinstance(file.content, Element) and file.content.tag == "annotation"


def _read(files: Sequence[ReadFile], notes: Notes) -> Export:
    # In VOC's own files pixels are numbered from 1, and a box includes its last ones. Where a corner is 0, the tool did
    # not keep to that; its corners are then as they stand.
    starts_at_one = all(
        number(corner.text, f"labels {file.path}: {corner.tag}") >= 1
        for file in files
        for key in ("xmin", "ymin")
        for corner in file.content.iter(key)
    )
    splits = _Splits()
    return Export([_picture(file, starts_at_one, splits, notes) for file in files])


class _Splits:
    """The split of each name, from ImageSets/Main beside the folder of the XML files."""

    def __init__(self) -> None:
        self._of_folder: dict[Path, dict[str, str]] = {}

    def of(self, path: Path) -> str | None:
        folder = path.parent.parent / "ImageSets" / "Main"
        if folder not in self._of_folder:
            self._of_folder[folder] = {
                line.split()[0]: split
                for split in ("train", "val", "test")
                if os.path.isfile(folder / f"{split}.txt")
                for line in read_text(folder / f"{split}.txt", "labels").splitlines()
                if line.strip()
            }
        return self._of_folder[folder].get(path.stem)


def _picture(file: ReadFile, starts_at_one: bool, splits: _Splits, notes: Notes) -> LabelledPicture:
    root, where = file.content, f"labels {file.path}"
    name = root.findtext("filename") or file.path.stem
    size = None
    # Some tools write zeros where they did not look.
    if (root.findtext("size/width") or "0") != "0":
        size = picture_size(_texts(root, "size"), where)
    picture = LabelledPicture(name, size, splits.of(file.path) or split_of(file.relative.parent))
    for k, thing in enumerate(root.iterfind("object")):
        place = f"{where}: object[{k}]"
        owner = text(_texts(thing), "name", place)
        _add_box(owner, thing, place, starts_at_one, picture, notes)
        for part in thing.iterfind("part"):
            part_name = f"{owner}'s {text(_texts(part), 'name', f'{place}.part')}"
            _add_box(part_name, part, f"{place}.part", starts_at_one, picture, notes)
    return picture


def _texts(element: Element, path: str = ".") -> dict[str, str]:
    found = element.find(path)
    return {} if found is None else {child.tag: (child.text or "").strip() for child in found}


def _add_box(
    name: str, thing: Element, where: str, starts_at_one: bool, picture: LabelledPicture, notes: Notes
) -> None:
    for other in {"polygon", "mask", "robndbox"} & {child.tag for child in thing}:
        notes.leave_out(f"elements <{other}>", picture.name)
    if thing.find("bndbox") is None:
        notes.leave_out("objects without a <bndbox>", picture.name)
        return
    corners = _texts(thing, "bndbox")
    x0, y0, x1, y1 = (number(corners.get(key), f"{where}.bndbox.{key}") for key in _CORNERS)
    box: Box = (x0 - 1, y0 - 1, x1, y1) if starts_at_one else (x0, y0, x1, y1)
    notes.change(
        "VOC boxes were read with pixels numbered from 1 and the last ones in the box"
        if starts_at_one
        else "VOC boxes were read as they stand, from 0: some corners are 0, so their pixels are not numbered from 1"
    )
    picture.labels.append(Label(name, box=box))


FORMAT = Format("voc", "Pascal VOC, a folder with one XML a picture", ("*.xml",), _recognises, _read)
