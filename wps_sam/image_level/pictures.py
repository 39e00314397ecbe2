"""The pictures of a run, and what is said to be in them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..data import register_descriptions
from ..data.tags import read_tags
from .settings import ImageLevelSettings


@dataclass(frozen=True)
class Tagged:
    """A picture: its ``name`` in the run, ``file``, and the class ids ``tags`` that are in it, sorted."""

    name: str
    file: str
    tags: tuple[int, ...]


def tagged_pictures(settings: ImageLevelSettings) -> tuple[list[Tagged], list[str]]:
    """The pictures of the settings, and the names of their classes.

    Raises:
        ValueError: names the file or data set, and what is wrong with it.
    """
    if settings.dataset:
        register_descriptions(settings.descriptions)
        if settings.dataset not in DatasetCatalog.list():
            raise ValueError(f"dataset: {settings.dataset!r} is not registered; known: {sorted(DatasetCatalog.list())}")
        records, classes = (
            DatasetCatalog.get(settings.dataset),
            list(MetadataCatalog.get(settings.dataset).thing_classes),
        )
        found = [(record["file_name"], _tags_of(record)) for record in records]
    else:
        classes = list(settings.classes)
        found = [(str(Path(settings.images) / n), t) for n, t in read_tags(settings.tags, settings.images, classes)]
    names = _names([file for file, _ in found])
    return [Tagged(name, file, tuple(sorted(set(tags)))) for name, (file, tags) in zip(names, found)], classes


def _tags_of(record: Mapping[str, Any]) -> list[int]:
    """Of labels the classes alone are read."""
    labelled = [a["category_id"] for a in record["annotations"] if not a.get("iscrowd", 0)]
    return [*labelled, *record.get("tags", ())]


def _names(files: Sequence[str]) -> list[str]:
    """A name for each picture: its file's without ending, with as many folders as tell it from all others."""
    root = os.path.commonpath([os.path.dirname(file) for file in files]) if files else ""
    short = [Path(file).stem for file in files]
    twice = {name for name, count in Counter(short).items() if count > 1}
    long = [os.path.splitext(os.path.relpath(file, root))[0].replace(os.sep, "__") for file in files]
    return [full if name in twice else name for name, full in zip(short, long)]
