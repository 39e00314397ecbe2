"""Picture files of all kinds: which of them Pillow can open here, and what it would need for the others."""

from __future__ import annotations

import importlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image

# Pillow's plugins by their package, and what they open.
_PLUGINS = {
    "pillow-heif": ("pillow_heif", (".heic", ".heif", ".hif")),
    "pillow-avif-plugin": ("pillow_avif", (".avif",)),
    "pillow-jxl-plugin": ("pillow_jxl", (".jxl",)),
}
_RAW = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf")
_PICTURES = frozenset(
    (".jpg .jpeg .jpe .jfif .png .apng .bmp .dib .webp .tif .tiff .gif .jp2 .j2k .jpx .ppm .pgm .pbm .pnm .tga").split()
).union(_RAW, *(suffixes for _, suffixes in _PLUGINS.values()))


def _openable() -> frozenset[str]:
    for module, suffixes in _PLUGINS.values():
        if not set(suffixes) & set(Image.registered_extensions()):
            try:
                plugin = importlib.import_module(module)
            except ImportError:
                continue
            # The others register themselves when they are imported.
            getattr(plugin, "register_heif_opener", lambda: None)()
    return _PICTURES & {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}


SUFFIXES = _openable()
_FORMATS = sorted({Image.registered_extensions()[suffix] for suffix in SUFFIXES})


def max_pixels() -> int:
    """The pixels of the largest picture that is opened: Pillow's own limit, which it tells from a file's header."""
    return 2 * (Image.MAX_IMAGE_PIXELS or 2**30)


def open_picture(file: str | Path | BinaryIO) -> Image.Image:
    """``Image.open`` for files of the kinds of :data:`SUFFIXES`, whatever they are called; no pixel is decoded yet.

    Of Pillow's other kinds one runs a program (PostScript), and nobody's labels are drawn on the rest.

    Raises:
        Exception: of any kind, see :func:`decoding`; also of more than :func:`max_pixels`.
    """
    return Image.open(file, formats=_FORMATS)


class PictureError(ValueError):
    """What is wrong with a picture, in words that name its file."""


@contextmanager
def decoding(what: str, file_name: str | Path) -> Iterator[None]:
    """In it a picture is opened and decoded: what goes wrong becomes a ValueError that names the file.

    Args:
        what: it is, as "image" or "label map".
        file_name: of it.
    """
    try:
        yield
    except PictureError:
        raise
    except FileNotFoundError as error:
        raise PictureError(f"{what} {file_name}: the file does not exist") from error
    except Exception as error:  # A damaged file makes Pillow raise anything.
        hint = what_is_missing(file_name)
        said = f"{error}" or type(error).__name__
        raise PictureError(f"{what} {file_name}: cannot be decoded: {said}{f' ({hint})' if hint else ''}") from error


def what_is_missing(file_name: str | Path) -> str | None:
    """How a kind of picture that can't be opened here could be; None for all others."""
    suffix = Path(file_name).suffix.lower()
    if suffix in SUFFIXES or suffix not in _PICTURES:
        return None
    package = next((package for package, (_, suffixes) in _PLUGINS.items() if suffix in suffixes), None)
    return f"pip install {package}" if package else "convert it to JPEG or PNG first"


def pictures_of(
    given: Path, is_result: Callable[[Path], bool] = lambda path: False
) -> tuple[list[tuple[Path, Path]], Counter[str]]:
    """The pictures of a file or of a folder, which is searched to the bottom.

    Args:
        given: the file or folder.
        is_result: of files in a folder, which of them are results of an earlier search, to be skipped.

    Returns:
        (picture, its path below the folder); and the number of pictures in the folder that can't be opened here, by
        what could be done about them.

    Raises:
        ValueError: the folder holds no picture.
    """
    if not os.path.isdir(given):
        return [(given, Path(given.name))], Counter()
    # Archives packed on a Mac carry "._name.jpg" beside name.jpg, which is no picture.
    inside = sorted(p for p in given.rglob("*") if p.is_file() and not p.name.startswith("._"))
    found_here = [p for p in inside if p.suffix.lower() in SUFFIXES]
    pictures = [p for p in found_here if not is_result(p)]
    others = [(p.suffix.lower(), hint) for p in inside if (hint := what_is_missing(p))]
    skipped = Counter(f"of the kind {suffix}: {hint}" for suffix, hint in others)
    if len(pictures) < len(found_here):
        skipped = Counter({"that these tools made": len(found_here) - len(pictures)}) + skipped
    if not pictures:
        more = f"; {len(others)} of kinds that can't be opened here ({others[0][0]}: {others[0][1]})" if others else ""
        raise ValueError(f"{given}: no picture in this folder{more}; expected {', '.join(sorted(SUFFIXES))}")
    return [(p, p.relative_to(given)) for p in pictures], skipped


def placed(found: Iterable[tuple[Path, Path]]) -> list[tuple[Path, Path]]:
    """Each file once, with a place that no other has, see :func:`distinct`."""
    once: dict[str, tuple[Path, Path]] = {}
    for picture, place in found:
        once.setdefault(os.path.abspath(picture), (picture, place))
    places = distinct([place for _, place in once.values()])
    return [(picture, place) for (picture, _), place in zip(once.values(), places)]


def distinct(places: Iterable[Path]) -> list[Path]:
    """Places without their suffix; those that would meet keep it, or get a number. Case does not tell them apart."""
    taken: set[str] = set()
    result = []
    for place in places:
        base, number = place.with_suffix(""), 2
        if str(base).lower() in taken:
            base = place
        while str(base).lower() in taken:
            base, number = place.with_suffix(f".{number}"), number + 1
        taken.add(str(base).lower())
        result.append(base)
    return result
