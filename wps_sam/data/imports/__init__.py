"""Labels of other tools as a data set of ours: one module a format, and one that makes COCO files of what they read.

:func:`read_labels` and then :func:`convert`; ``tools/import_labels.py`` is both from the command line.
"""

from __future__ import annotations

import os
from pathlib import Path

from wps_sam.data.imports import boxes_csv, coco, cvat, label_studio, labelme, tags_csv, via, voc, yolo
from wps_sam.data.imports.convert import Imported, convert
from wps_sam.data.imports.files import files_below, open_file
from wps_sam.data.imports.labels import Export, Format, Notes, ReadFile
from wps_sam.data.imports.pictures import PictureFolder

__all__ = ["FORMATS", "Export", "Imported", "Notes", "PictureFolder", "convert", "detect_format", "read_labels"]

FORMATS: dict[str, Format] = {
    module.FORMAT.name: module.FORMAT
    for module in (coco, labelme, cvat, label_studio, yolo, via, voc, boxes_csv, tags_csv)
}
# Files of each kind that are looked into to find out the format.
_NUM_LOOKED_INTO = 10


def detect_format(source: Path) -> str:
    """The name of the only format in :data:`FORMATS` that a file, or some file of a folder, is of.

    Raises:
        ValueError: it is of none, or of several.
    """
    _require(source)
    opened: dict[Path, ReadFile] = {}
    found: dict[str, str] = {}
    for form in FORMATS.values():
        for path in _candidates(source, form)[:_NUM_LOOKED_INTO]:
            if path not in opened:
                opened[path] = _opened(path, source)
            if form.recognises(opened[path]):
                found[form.name] = path.name
                break
    if len(found) != 1:
        if found:
            several = ", ".join(f"{name} ({file})" for name, file in found.items())
            raise ValueError(f"labels {source}: could be {several}; choose with --format")
        known = "; ".join(f"{form.name}: {form.about}" for form in FORMATS.values())
        raise ValueError(f"labels {source}: of no known format; expected one of {known}")
    return next(iter(found))


def read_labels(source: Path, format_name: str, notes: Notes) -> Export:
    """What a file or folder of labels says, in a format of :data:`FORMATS`.

    ``notes``: gets what is left out, files of another form among it.

    Raises:
        ValueError: names the file and the field, what came and what was expected.
    """
    _require(source)
    form = FORMATS[format_name]
    files = []
    for path in _candidates(source, form):
        file = _opened(path, source)
        if form.recognises(file):
            files.append(file)
        else:
            notes.leave_out(f"files that are not of the format {form.name}", str(file.relative))
    if not files:
        raise ValueError(f"labels {source}: no file of the format {form.name} ({form.about})")
    return form.read(files, notes)


def _require(source: Path) -> None:
    if not os.path.exists(source):
        raise ValueError(f"labels {source}: expected a file or a folder, but it does not exist")


def _candidates(source: Path, form: Format) -> list[Path]:
    found = files_below(source, form.patterns)
    # A single file of any name may be it, if it is of the right kind.
    return [path for path in found if any(path.suffix == Path(pattern).suffix for pattern in form.patterns)]


def _opened(path: Path, source: Path) -> ReadFile:
    return ReadFile(path, path.relative_to(source) if source.is_dir() else Path(path.name), open_file(path))
