"""Tags in a CSV: a picture and what is in it, a line a picture or a line a tag; or a column a class with 0 and 1."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import PurePosixPath

from wps_sam.data.imports.labels import Export, Format, LabelledPicture, Notes, ReadFile, split_of
from wps_sam.picture_files import SUFFIXES


def _rows(file: ReadFile) -> list[list[str]]:
    # Spreadsheets of some countries write semicolons.
    first = file.content.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    rows = csv.reader(file.content.splitlines(), delimiter=separator, skipinitialspace=True)
    try:
        return [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ValueError(f"labels {file.path}: no valid CSV: {error}") from error


def _is_picture(name: str) -> bool:
    return PurePosixPath(name.replace("\\", "/")).suffix.lower() in SUFFIXES


def _recognises(file: ReadFile) -> bool:
    # The second line, as the first may be a heading.
    return isinstance(file.content, str) and any(_is_picture(row[0]) for row in _rows(file)[:2])


def _read(files: Sequence[ReadFile], notes: Notes) -> Export:
    pictures: list[LabelledPicture] = []
    classes = dict[str, None]()
    for file in files:
        rows = _rows(file)
        heading = [] if _is_picture(rows[0][0]) else rows.pop(0)
        if "region_shape_attributes" in heading:
            raise ValueError(f"labels {file.path}: is a CSV of VIA; expected its JSON (Annotation, Export as json)")
        flags = heading[1:] if all(cell in ("0", "1") for row in rows for cell in row[1:]) else []
        classes.update(dict.fromkeys(flags))
        by_name: dict[str, LabelledPicture] = {}
        for line, (name, *cells) in enumerate(rows, start=1 + bool(heading)):
            if flags and len(cells) != len(flags):
                raise ValueError(f"labels {file.path}: line {line}: expected {len(flags)} of 0 and 1, got {len(cells)}")
            tags = [flag for flag, cell in zip(flags, cells) if cell == "1"] if flags else list(filter(None, cells))
            picture = by_name.setdefault(name, LabelledPicture(name, split=split_of(file.relative)))
            picture.tags += tags
        pictures += by_name.values()
    return Export(pictures, tuple(classes))


FORMAT = Format("tags_csv", "CSV of tags: file,tag,tag,...", ("*.csv",), _recognises, _read)
