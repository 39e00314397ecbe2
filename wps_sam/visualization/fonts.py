"""A font for every name: Pillow's own, else the first of this machine that has all of its letters."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

logger = logging.getLogger(__name__)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
# Packages of Debian with what is missing most often.
_PACKAGES = "fonts-noto-cjk (Chinese, Japanese, Korean) or fonts-noto-core (most other scripts) on Debian"


@lru_cache(maxsize=1024)
def load_font(size: int, text: str) -> Font:
    """A font with letters ``size`` pixels high that can draw ``text``; a warning says where none can."""
    letters = frozenset(ord(letter) for letter in text if not letter.isspace())
    own = ImageFont.load_default(size)
    if letters <= _letters_of_pillow():
        return own
    for path in _candidates():
        if letters <= _letters_of(path):
            return ImageFont.truetype(path, size)
    _warn_of(frozenset(letters - _letters_of_pillow()))
    return own


def text_width(text: str, size: int) -> float:
    """In pixels, in letters ``size`` pixels high."""
    return load_font(size, text).getlength(text)


def _candidates() -> Iterator[str]:
    """matplotlib's own font, then those of the system, upright and plain ones first."""
    yield str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
    yield from _system_fonts()


@lru_cache(maxsize=1)
def _system_fonts() -> tuple[str, ...]:
    odd = ("italic", "oblique", "bold", "black", "thin", "light", "mono", "condensed")
    paths = font_manager.findSystemFonts()
    return tuple(sorted(paths, key=lambda p: (sum(word in Path(p).stem.lower() for word in odd), p)))


@cache
def _letters_of(path: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (RuntimeError, OSError, ValueError):  # Bitmap fonts and damaged files.
        return frozenset()


@lru_cache(maxsize=1)
def _letters_of_pillow() -> frozenset[int]:
    file: Any = getattr(ImageFont.load_default(10), "path", None)
    if not hasattr(file, "seek"):  # Without FreeType Pillow has a bitmap of Latin letters.
        return frozenset(range(0x20, 0x7F))
    file.seek(0)
    return frozenset(FT2Font(file).get_charmap())


@cache
def _warn_of(letters: frozenset[int]) -> None:
    shown = "".join(map(chr, sorted(letters)[:20]))
    logger.warning("no font on this machine has the letters %s of a class name: install %s", shown, _PACKAGES)
