"""Boxes in a CSV: a line a box, under the heading file,part,x,y,width,height."""

from __future__ import annotations

from collections.abc import Sequence

from wps_sam.data.imports.labels import Export, Format, Label, LabelledPicture, Notes, ReadFile, number, split_of
from wps_sam.data.imports.tables import BOX_COLUMNS, has_box_columns, rows_of


def _recognises(file: ReadFile) -> bool:
    return isinstance(file.content, str) and any(map(has_box_columns, rows_of(file)[:1]))


def _read(files: Sequence[ReadFile], notes: Notes) -> Export:
    pictures: list[LabelledPicture] = []
    for file in files:
        heading, *rows = rows_of(file) or [[]]
        if not has_box_columns(heading):
            raise ValueError(
                f"labels {file.path}: expected the heading {','.join(BOX_COLUMNS)}, got {','.join(heading)!r}"
            )
        columns = [cell.lower() for cell in heading]
        by_name: dict[str, LabelledPicture] = {}
        for row, cells in enumerate(rows, start=2):
            where = f"labels {file.path}: row {row}"
            if len(cells) != len(columns):
                raise ValueError(f"{where}: expected {len(columns)} cells, {', '.join(heading)}, got {len(cells)}")
            said = dict(zip(columns, cells))
            picture = by_name.setdefault(said["file"], LabelledPicture(said["file"], split=split_of(file.relative)))
            # A file alone is a picture with nothing on it.
            if any(said[column] for column in BOX_COLUMNS[1:]):
                x, y, width, height = (number(said[column], f"{where}: {column}") for column in BOX_COLUMNS[2:])
                picture.labels.append(Label(said["part"], box=(x, y, x + width, y + height)))
        pictures += by_name.values()
    return Export(pictures)


FORMAT = Format(
    "boxes_csv", f"CSV of boxes in pixels under the heading {','.join(BOX_COLUMNS)}", ("*.csv",), _recognises, _read
)
