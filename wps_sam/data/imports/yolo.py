"""YOLO: a text file a picture, a line a label, detection and segmentation; data.yaml says names and splits."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wps_sam.data.imports.files import files_below
from wps_sam.data.imports.labels import Export, Format, Label, LabelledPicture, Notes, ReadFile, number, split_of
from wps_sam.data.sources.fields import parse_yaml, read_text, shown
from wps_sam.picture_files import SUFFIXES

_SPLIT_KEYS = ("train", "val", "valid", "test")
# Beside the labels, and none themselves.
_LISTS = frozenset((*(f"{key}.txt" for key in _SPLIT_KEYS), "classes.txt"))
# Labels drawn by hand end a little outside; numbers further away are pixels.
_FARTHEST = 2.0


def _recognises(file: ReadFile) -> bool:
    if _is_yaml(file.path):
        try:
            content = parse_yaml(file.content, "")
        except ValueError:
            return False
        return isinstance(content, dict) and "names" in content and bool(set(_SPLIT_KEYS) & content.keys())
    return any(_is_label(path) for path in _label_files(file.path.parent))


def _is_yaml(path: Path) -> bool:
    return path.suffix.lower() in (".yaml", ".yml")


def _label_files(folder: Path) -> list[Path]:
    return [path for path in files_below(folder, ["*.txt"]) if path.name not in _LISTS]


def _is_label(path: Path) -> bool:
    return all(len(line.split()) >= 5 for line in read_text(path, "labels").splitlines() if line.strip())


def _read(files: Sequence[ReadFile], notes: Notes) -> Export:
    # With data.yaml, a list of classes says the same again.
    settings = [file for file in files if _is_yaml(file.path)] or list(files)
    if len(settings) > 1:
        raise ValueError(f"labels: expected one YOLO data set, got {', '.join(str(file.path) for file in settings)}")
    path = settings[0].path
    if not _is_yaml(path):
        names = [line.strip() for line in read_text(path, "labels").splitlines() if line.strip()]
        labels = {found: found.relative_to(path.parent) for found in _label_files(path.parent)}
        pictures = [
            _picture(str(at.with_suffix("")), split_of(at.parent), file, names, None, notes)
            for file, at in labels.items()
        ]
        return Export(pictures, tuple(names))
    content = parse_yaml(settings[0].content, f"labels {path}")
    names = _names(content["names"], f"labels {path}: names")
    pictures = []
    for key in _SPLIT_KEYS:
        entries = content.get(key) or []
        for entry in entries if isinstance(entries, list) else [entries]:
            for name, labels_file in _pictures_of(str(entry), content, path, key, notes):
                pictures.append(_picture(name, split_of(key), labels_file, names, content.get("kpt_shape"), notes))
    return Export(pictures, tuple(names))


def _names(names: Any, where: str) -> list[str]:
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[k] for k in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(f"{where}: expected a list of names, or names by 0, 1, ..., got {shown(names)}")
    return [str(name) for name in names]


def _pictures_of(
    entry: str, content: Mapping[str, Any], path: Path, key: str, notes: Notes
) -> Iterator[tuple[str, Path]]:
    """Name of each picture of a split, and where its labels would be: the same path with labels instead of images."""
    place = _place(entry, content, path, key, notes)
    if os.path.isfile(place):
        for line in filter(None, map(str.strip, read_text(place, "labels").splitlines())):
            picture = Path(line)
            if not picture.name:
                raise ValueError(f"labels {place}: expected names of pictures, got {line!r}")
            yield line, (place.parent / _labels_of(picture)).with_suffix(".txt")
        return
    labels = _labels_of(place)
    pictures = {p.relative_to(place) for p in files_below(place, ["*"]) if p.suffix.lower() in SUFFIXES}
    stems = {str(p.with_suffix("")) for p in pictures}
    if os.path.isdir(labels):
        stems |= {str(p.relative_to(labels).with_suffix("")) for p in files_below(labels, ["*.txt"])}
    for stem in sorted(stems):
        yield str(place / stem), labels / f"{stem}.txt"


def _labels_of(images: Path) -> Path:
    parts = list(images.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts)


def _place(entry: str, content: Mapping[str, Any], path: Path, key: str, notes: Notes) -> Path:
    """The folder or list that a split names: below ``path`` of the yaml, or else below the yaml itself.

    Roboflow writes ../train/images for what lies beside the yaml, and ``path`` may be of another machine.
    """
    inner = entry.replace("\\", "/")
    while inner.startswith("../"):
        inner = inner[3:]
    tried = [path.parent / str(content.get("path") or "") / entry, path.parent / entry, path.parent / inner]
    here = path.parent.resolve()
    for place in tried:
        try:
            real = place.resolve()
        except (OSError, RuntimeError, ValueError):  # No path that a file could have, or links in a circle.
            continue
        # What the export lies in is none of its splits, and may be a whole disk.
        around = here != real and here.is_relative_to(real)
        if not around and (os.path.exists(place) or os.path.isdir(_labels_of(place))):
            if not real.is_relative_to(here):
                notes.change(f"splits were read outside of the folder of {path.name}")
            return place
    raise ValueError(f"labels {path}: {key}: expected a folder of images or a list, but there is no {tried[-1]}")


def _picture(
    name: str, split: str | None, labels_file: Path, names: Sequence[str], kpt_shape: Any, notes: Notes
) -> LabelledPicture:
    picture = LabelledPicture(name, split=split, in_shares=True)
    # A picture without a file has nothing on it.
    lines = read_text(labels_file, "labels").splitlines() if os.path.isfile(labels_file) else []
    for k, line in enumerate(lines, start=1):
        if line.strip():
            label = _label(line.split(), f"labels {labels_file}: line {k}", names, kpt_shape, picture.name, notes)
            if label:
                picture.labels.append(label)
    return picture


def _label(
    words: Sequence[str], where: str, names: Sequence[str], kpt_shape: Any, picture: str, notes: Notes
) -> Label | None:
    values = [number(word, where) for word in words]
    if values[0] not in range(len(names)):
        notes.leave_out(f"labels of a class {words[0]}, where there are 0 to {len(names) - 1}", where)
        return None
    name, places = names[int(values[0])], values[1:]
    if kpt_shape:
        notes.leave_out("poses, kept as boxes without their keypoints", picture)
        places = places[:4]
    far = [value for value in places if not -1 <= value <= _FARTHEST]
    if far:
        raise ValueError(f"{where}: expected shares of the picture, 0 to 1, got {far[0]}")
    if len(places) == 4:
        x, y, width, height = places
        return Label(name, box=(x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    if len(places) < 6 or len(places) % 2:
        raise ValueError(
            f"{where}: expected a class and x centre, y centre, width, height, or x and y of three corners and more, "
            f"got {len(words)} numbers"
        )
    return Label(name, segmentation=[places])


FORMAT = Format(
    "yolo",
    "YOLO detection or segmentation txt, with data.yaml, classes.txt or obj.names",
    ("*.yaml", "*.yml", "classes.txt", "obj.names"),
    _recognises,
    _read,
)
