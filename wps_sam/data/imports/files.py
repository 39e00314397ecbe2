"""The files of an export, opened: JSON, XML without document types, and text."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from wps_sam.data.sources.coco import is_litter
from wps_sam.data.sources.fields import read_json, read_text


def files_below(source: Path, patterns: Iterable[str]) -> list[Path]:
    """The file itself, or the files of a folder and all folders in it whose names match a pattern, by path."""
    if source.is_file():
        return [source]
    found = [path for path in source.rglob("*") if any(fnmatch(path.name, pattern) for pattern in patterns)]
    return sorted(path for path in found if path.is_file() and not is_litter(path.name))


def open_file(path: Path) -> Any:
    """What is in a file: of a .json its content, of an .xml its root, of anything else its text in UTF-8.

    Raises:
        ValueError: names the file, which is no such file.
    """
    suffix = path.suffix.lower()
    if suffix == ".json":
        return read_json(path, "labels")
    return read_xml(path) if suffix == ".xml" else read_text(path, "labels")


class _Refused(ValueError):
    """Keeps its own message: it is no error of the parser's."""


def read_xml(path: Path) -> Element:
    """The root of an XML file.

    Raises:
        ValueError: names the file, which is no XML, or has a document type: that could define entities that grow
            without bound or read other files, and no labelling tool writes one.
    """

    def refuse(name: str, *_: Any) -> None:
        raise _Refused(f"labels {path}: has a document type (<!DOCTYPE {name}>), expected XML without one")

    parser, builder = expat.ParserCreate(), TreeBuilder()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
    except _Refused:
        raise
    # The last two: an encoding that is not known, or not read.
    except (OSError, expat.ExpatError, LookupError, ValueError) as error:
        raise ValueError(f"labels {path}: no valid XML, perhaps cut off: {error}") from error
    return builder.close()
