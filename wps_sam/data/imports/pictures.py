"""Which picture of a folder an export means: tools write paths of machines that nobody else has."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from wps_sam.masks import EXIF_EXCHANGES_SIDES, stored_size
from wps_sam.picture_files import pictures_of

# Label Studio puts eight digits of a random number before the name of a picture that was uploaded to it.
_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")


class PictureFolder:
    """The pictures of a folder and of all folders in it.

    Raises:
        ValueError: there is none.
    """

    def __init__(self, root: Path) -> None:
        if not os.path.isdir(root):
            raise ValueError(f"images {root}: expected a folder, but it does not exist")
        self.root = root.absolute()
        # Those that can't be opened here are missing wherever a label speaks of them.
        self.paths = [path for path, _ in pictures_of(self.root)[0]]
        self._by_end: defaultdict[str, list[Path]] = defaultdict(list)
        for path in self.paths:
            parts = path.relative_to(self.root).parts
            for k in range(len(parts)):
                end = PurePosixPath(*parts[k:])
                self._by_end[_form(str(end))].append(path)
                self._by_end[_form(str(end.with_suffix("")))].append(path)

    def find(self, name: str) -> list[Path]:
        """The pictures that ``name`` may mean: one if all is well, none, or several.

        They are those that share with it the longest end of the path, which is at least the file's own name.
        """
        path = name.replace("\\", "/")
        for spelt in dict.fromkeys((path, unquote(path))):
            parts = [part for part in spelt.split("/") if part not in ("", ".", "..")]
            ends = ["/".join(parts[k:]) for k in range(len(parts))]
            ends += [_UPLOADED.sub("", part, count=1) for part in parts[-1:] if _UPLOADED.match(part)]
            for end in ends:
                found = self._by_end.get(_form(end))
                if found:
                    return found
        return []


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def sizes(path: Path) -> tuple[tuple[int, int], tuple[int, int], bool]:
    """(height, width) of a picture as stored, and turned upright as its EXIF tag says; whether it has such a tag.

    Raises:
        ValueError: names the file, which is no picture.
    """
    height, width, orientation = stored_size(str(path))
    upright = (width, height) if orientation >= EXIF_EXCHANGES_SIDES else (height, width)
    return (height, width), upright, orientation != 1
