"""The pictures of a run, and what is said to be in them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..data import register_descriptions
from ..data.tags import read_tags
from ..masks import read_label_png, read_part_map, read_rgb
from ..user_errors import did_you_mean
from .objects import Region, read_objects
from .settings import ImageLevelSettings


@dataclass(frozen=True)
class Tagged:
    """A picture: its ``name`` in the run, ``file``, the class ids ``tags`` that are in it, sorted, and the ``region``
    that is looked at, None for all of it."""

    name: str
    file: str
    tags: tuple[int, ...]
    region: Region | None = None

    def look(self) -> np.ndarray:
        """uint8 [h, w, 3] of the region, RGB."""
        return self.cut(read_rgb(self.file))

    def cut(self, pixels: np.ndarray) -> np.ndarray:
        """[H, W, ...] of the picture to [h, w, ...] of the region."""
        return self.region.cut(pixels) if self.region else pixels


# From this share of the pictures on tags teach nothing of a class: there are hardly any without it.
ALWAYS = 0.9


def presence(pictures: Sequence[Tagged], num_classes: int) -> np.ndarray:
    """float [C]: in which share of the pictures each class is."""
    counts = np.zeros(num_classes)
    for picture in pictures:
        counts[list(picture.tags)] += 1
    return counts / max(len(pictures), 1)


def tagged_pictures(settings: ImageLevelSettings) -> tuple[list[Tagged], list[str]]:
    """The pictures of the settings, and the names of their classes.

    Raises:
        ValueError: names the file or data set, and what is wrong with it.
    """
    classes = list(settings.classes)
    if settings.dataset:
        records, metadata = _records(settings)
        classes = list(metadata.thing_classes)
        found = [(record["file_name"], _tags_of(record, metadata)) for record in records]
    elif settings.tags:
        found = [(str(Path(settings.images) / n), t) for n, t in read_tags(settings.tags, settings.images, classes)]
    else:
        maps = ((file, np.unique(_read_label_map(settings, file)).tolist()) for file in _listed(settings))
        found = [(file, [c for c in values if 0 <= c < len(classes)]) for file, values in maps]
    names = _names([file for file, _ in found])
    regions = read_objects(settings.objects, [file for file, _ in found]) if settings.objects else {}
    pictures = [
        Tagged(name, file, tuple(sorted(set(tags))), regions.get(file)) for name, (file, tags) in zip(names, found)
    ]
    return pictures, classes


def true_labels(settings: ImageLevelSettings) -> Callable[[str], np.ndarray]:
    """What every pixel of a picture's file is: int64 [H, W] of classes 0..C-1, C background, -1 where nobody knows.

    Raises:
        ValueError: the settings name no truth.
    """
    if settings.label_maps:
        return lambda file: _read_label_map(settings, file)
    if not settings.dataset:
        raise ValueError("eval needs the truth: settings that name a dataset with masks, or label_maps")
    listed, metadata = _records(settings)
    records = {record["file_name"]: record for record in listed}

    def read(file: str) -> np.ndarray:
        labels = read_part_map(records[file], metadata)
        return np.where(labels == metadata.ignore_label, -1, labels)

    return read


def _records(settings: ImageLevelSettings) -> tuple[list[dict[str, Any]], Any]:
    """Of the settings' data set the records and metadata; its descriptions need not have been registered before."""
    register_descriptions(settings.descriptions)
    if settings.dataset not in DatasetCatalog.list():
        known = sorted(DatasetCatalog.list())
        near = did_you_mean(settings.dataset, known)
        raise ValueError(f"dataset: {settings.dataset!r} is not registered{near}; known: {known}")
    return DatasetCatalog.get(settings.dataset), MetadataCatalog.get(settings.dataset)


def listed_names(path: str) -> list[str]:
    """Names of the pictures that a file lists, with or without ending or folders, as the published lists are.

    Raises:
        ValueError: it can't be read.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise ValueError(f"{path}: expected a list of pictures: {error}") from error
    return [Path(line.split()[0]).stem for line in lines if line.strip()]


def _listed(settings: ImageLevelSettings) -> list[str]:
    """The files of ``names``."""
    files = []
    for stem in listed_names(settings.names):
        candidates = [Path(settings.images) / (stem + ending) for ending in (".jpg", ".png", ".jpeg")]
        there = [path for path in candidates if os.path.isfile(path)]
        if not there:
            raise ValueError(f"{settings.names}: {stem}: there is no such picture in {settings.images}")
        files.append(str(there[0]))
    return files


def _read_label_map(settings: ImageLevelSettings, file: str) -> np.ndarray:
    path = Path(settings.label_maps) / f"{Path(file).stem}.png"
    values = read_label_png(str(path))
    count = len(settings.classes)
    unknown = sorted(set(np.unique(values).tolist()) - {*range(count + 1), 255})
    if unknown:
        raise ValueError(f"{path}: expected 0 to {count} and 255, got {unknown[:5]}")
    return np.where(values == 255, -1, np.where(values == 0, count, values - 1))


def _tags_of(record: Mapping[str, Any], metadata: Any) -> list[int]:
    """Of labels the classes alone are read; of a record that has none, those of its label map."""
    labelled = [a["category_id"] for a in record["annotations"] if not a.get("iscrowd", 0)]
    tags = [*labelled, *record.get("tags", ())]
    if not tags and record.get("sem_seg_file_name"):
        tags = [c for c in np.unique(read_part_map(record, metadata)).tolist() if c < len(metadata.thing_classes)]
    return tags


def _names(files: Sequence[str]) -> list[str]:
    """A name for each picture: its file's without ending, with as many folders as tell it from all others."""
    root = os.path.commonpath([os.path.dirname(file) for file in files]) if files else ""
    short = [Path(file).stem for file in files]
    twice = {name for name, count in Counter(short).items() if count > 1}
    long = [os.path.splitext(os.path.relpath(file, root))[0].replace(os.sep, "__") for file in files]
    return [full if name in twice else name for name, full in zip(short, long)]
