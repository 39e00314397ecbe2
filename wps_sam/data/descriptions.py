"""One's own data without Python: registers data sets from short YAML descriptions (DATASETS.DESCRIPTIONS).

The form is explained in datasets/README.md::

    name: my_parts
    layout: partimagenet            # or coco
    root: my_parts
    splits:
      train: {images: images/train, annotations: annotations/train}
      val: {images: images/val, annotations: annotations/val}
    classes: [wheel, window]        # optional: the order of the class ids
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wps_sam.data.part_datasets import (
    LAYOUTS,
    Layout,
    find_coco_json,
    read_part_classes,
    register_part_dataset,
)

import yaml
from detectron2.data import DatasetCatalog

_REQUIRED = ("name", "layout", "root", "splits")
_OPTIONAL = ("classes",)
_SPLIT_KEYS = ("images", "annotations")
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}|\$(\w+)")


@dataclass(frozen=True)
class Description:
    """A checked description; ``splits`` holds (split, image folder, COCO json), all paths absolute."""

    name: str
    layout: Layout
    splits: tuple[tuple[str, str, str], ...]
    classes: tuple[str, ...] | None


# What this process has registered: the same description may come twice, another one of that name may not.
_REGISTERED: dict[str, Description] = {}


def register_descriptions(paths: Iterable[str]) -> list[str]:
    """Registers the splits of every description as ``{name}_{split}`` and returns these names.

    The class list is the description's, or that of the first split's json. Registering a description again
    does nothing.

    Raises:
        ValueError: names the description and the key, what came and what was expected; or the data set of that
            name that is already there.
    """
    return [name for path in paths for name in _register(read_description(path), path)]


def read_description(path: str) -> Description:
    """Reads and checks one description. See :func:`register_descriptions` for the errors."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"data set description {path}: the file does not exist") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"data set description {path}: no valid YAML: {error}") from error
    where = f"data set description {path}"
    _check_keys(content, _REQUIRED, _OPTIONAL, where)
    name = _text(content, "name", where)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"{where}: name: expected letters, digits, _ and -, got {name!r}")
    if content["layout"] not in LAYOUTS:
        raise ValueError(f"{where}: layout: expected one of {LAYOUTS}, got {content['layout']!r}")
    root = _find_root(_text(content, "root", where), Path(path).resolve().parent, where)
    splits = content["splits"]
    if not isinstance(splits, dict) or not splits:
        raise ValueError(
            f"{where}: splits: expected at least one, such as train: {{images: ..., annotations: ...}}"
        )
    found = []
    for split, entry in splits.items():
        inside = f"{where}: splits.{split}"
        _check_keys(entry, _SPLIT_KEYS, (), inside)
        images, annotations = (str(root / _text(entry, key, inside)) for key in _SPLIT_KEYS)
        try:
            found.append((str(split), images, find_coco_json(annotations, str(split))))
        except ValueError as error:
            raise ValueError(f"{inside}: {error}") from error
    return Description(name, content["layout"], tuple(found), _classes(content.get("classes"), where))


def _register(description: Description, path: str) -> list[str]:
    names = [f"{description.name}_{split}" for split, _, _ in description.splits]
    there = [name for name in names if name in DatasetCatalog.list()]
    if there and _REGISTERED.get(description.name) != description:
        raise ValueError(
            f"data set description {path}: name: {there[0]!r} is already registered with other content; "
            "choose another name"
        )
    if there:
        return names
    try:
        classes = read_part_classes(description.splits[0][2], description.classes)
    except ValueError as error:
        raise ValueError(f"data set description {path}: {error}") from error
    for name, (_, images, json_file) in zip(names, description.splits):
        register_part_dataset(name, description.layout, images, json_file, classes)
    _REGISTERED[description.name] = description
    return names


def _check_keys(entry: Any, required: tuple[str, ...], optional: tuple[str, ...], where: str) -> None:
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: expected the keys {required}, got {entry!r:.80}")
    unknown = [key for key in entry if key not in required + optional]
    missing = [key for key in required if key not in entry]
    if unknown or missing:
        raise ValueError(
            f"{where}: unknown keys {unknown}, missing keys {missing}; "
            f"expected {required}" + (f" and perhaps {optional}" if optional else "")
        )


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
    if not isinstance(entry[key], str) or not entry[key]:
        raise ValueError(f"{where}: {key}: expected a text, got {entry[key]!r:.80}")
    return entry[key]


def _find_root(root: str, folder: Path, where: str) -> Path:
    """The folder ``root``: relative to the description, then to $DETECTRON2_DATASETS."""
    given = Path(_expand(root, where)).expanduser()
    tried = [
        folder / given,
        Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser().resolve() / given,
    ]
    for candidate in tried:
        if candidate.is_dir():
            return candidate
    paths = " and ".join(dict.fromkeys(map(str, tried)))
    raise ValueError(f"{where}: root: the folder does not exist; looked for {paths}")


def _expand(text: str, where: str) -> str:
    """Puts environment variables in: $NAME, ${NAME}, and ${NAME:-default} as in a shell."""

    def value(match: re.Match[str]) -> str:
        name, default = match.group(1) or match.group(3), match.group(2)
        found = os.environ.get(name) or default
        if not found:
            raise ValueError(f"{where}: root: the environment variable {name} in {text!r} is not set")
        return found

    return _VARIABLE.sub(value, text)


def _classes(classes: Any, where: str) -> tuple[str, ...] | None:
    if classes is None:
        return None
    names_only = (
        isinstance(classes, list) and classes and all(isinstance(name, str) and name for name in classes)
    )
    if not names_only or len(set(classes)) != len(classes):
        raise ValueError(f"{where}: classes: expected a list of different names, got {classes!r:.120}")
    return tuple(classes)
