"""What the formats that are CSV have in common: rows of cells, with a heading or without."""

from __future__ import annotations

import csv
from pathlib import PurePosixPath

from wps_sam.data.imports.labels import ReadFile
from wps_sam.picture_files import SUFFIXES

# The heading of a table of boxes; its columns may come in any order.
BOX_COLUMNS = ("file", "part", "x", "y", "width", "height")


def rows_of(file: ReadFile) -> list[list[str]]:
    """The cells of every line that is not empty, stripped; ValueError if it is no CSV."""
    # Spreadsheets of some countries write semicolons.
    first = file.content.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    rows = csv.reader(file.content.splitlines(), delimiter=separator, skipinitialspace=True)
    try:
        return [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ValueError(f"labels {file.path}: no valid CSV: {error}") from error


def has_box_columns(row: list[str]) -> bool:
    return sorted(cell.lower() for cell in row) == sorted(BOX_COLUMNS)


def is_picture(name: str) -> bool:
    return PurePosixPath(name.replace("\\", "/")).suffix.lower() in SUFFIXES
