"""Tags in a CSV: a picture and what is in it, a line a picture or a line a tag; or a column a class with 0 and 1."""

from __future__ import annotations

from collections.abc import Sequence

from wps_sam.data.imports.labels import Export, Format, LabelledPicture, Notes, ReadFile, split_of
from wps_sam.data.imports.tables import BOX_COLUMNS, has_box_columns, is_picture, rows_of

# Headings of a column that holds names of classes; all others are classes over 0 and 1.
_TAG_COLUMNS = frozenset("class classes label labels name names part parts tag tags".split())


def _recognises(file: ReadFile) -> bool:
    # The second line, as the first may be a heading.
    if not isinstance(file.content, str):
        return False
    first = rows_of(file)[:2]
    return any(is_picture(row[0]) for row in first) and not has_box_columns(first[0])


def _read(files: Sequence[ReadFile], notes: Notes) -> Export:
    pictures: list[LabelledPicture] = []
    classes = dict[str, None]()
    for file in files:
        rows = rows_of(file)
        heading = [] if is_picture(rows[0][0]) else rows.pop(0)
        if "region_shape_attributes" in heading:
            raise ValueError(f"labels {file.path}: is a CSV of VIA; expected its JSON (Annotation, Export as json)")
        flags = heading[1:] if all(cell in ("0", "1") for row in rows for cell in row[1:]) else []
        classes.update(dict.fromkeys(flags))
        unknown = [] if flags else [cell for cell in heading[1:] if cell and cell.lower() not in _TAG_COLUMNS]
        if unknown or _ends_in_boxes(rows):
            what = f"unknown headings {', '.join(unknown)}" if unknown else "four numbers a line, which are no tags"
            raise ValueError(
                f"labels {file.path}: {what}; expected file,tag,tag,... or classes over 0 and 1, or of boxes the "
                f"heading {','.join(BOX_COLUMNS)}"
            )
        by_name: dict[str, LabelledPicture] = {}
        for line, (name, *cells) in enumerate(rows, start=1 + bool(heading)):
            if flags and len(cells) != len(flags):
                raise ValueError(f"labels {file.path}: line {line}: expected {len(flags)} of 0 and 1, got {len(cells)}")
            tags = [flag for flag, cell in zip(flags, cells) if cell == "1"] if flags else list(filter(None, cells))
            picture = by_name.setdefault(name, LabelledPicture(name, split=split_of(file.relative)))
            picture.tags += tags
        pictures += by_name.values()
    return Export(pictures, tuple(classes))


def _ends_in_boxes(rows: Sequence[Sequence[str]]) -> bool:
    """Whether each line is a file, a name and four numbers that are not only 0 and 1."""
    numbers = [cell for row in rows for cell in row[2:]]
    return all(len(row) == 6 for row in rows) and not set(numbers) <= {"0", "1"} and all(map(_is_number, numbers))


def _is_number(cell: str) -> bool:
    return cell.replace(".", "", 1).removeprefix("-").isdigit()


FORMAT = Format("tags_csv", "CSV of tags: file,tag,tag,...", ("*.csv",), _recognises, _read)
