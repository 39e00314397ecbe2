"""Photos that come to the page, within limits, and what is taken home from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from ..picture_files import open_picture, what_is_missing
from ..prediction import PartPrediction
from ..prediction.results import COCO_FILE, Results
from ..prediction.sources import Source

# What wps-sam predict writes of a picture, too.
_KINDS = ("overlay", "json", "labels")


@dataclass(frozen=True)
class Limits:
    """The largest upload: of its file, in 1024 x 1024 bytes, and of its picture, in millions of pixels."""

    megabytes: float
    megapixels: float

    @property
    def bytes(self) -> int:
        return int(self.megabytes * 2**20)


def check_upload(path: Path, limits: Limits) -> None:
    """Requires that an uploaded file is a picture within the limits; looks at its header alone.

    Raises:
        ValueError: says what of it is too much, or that it is no picture.
    """
    size = path.stat().st_size
    if size > limits.bytes:
        raise ValueError(f"{path.name}: {size / 2**20:.1f} MB; this page takes files up to {limits.megabytes:g} MB")
    try:
        with open_picture(path) as image:
            pixels = image.width * image.height
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path.name}: {error}; this page takes up to {limits.megapixels:g} megapixels") from error
    except Exception as error:  # A damaged file makes Pillow raise anything.
        hint = what_is_missing(path)
        raise ValueError(f"{path.name}: no picture that can be opened{f'; {hint}' if hint else ''}") from error
    if pixels > limits.megapixels * 1e6:
        raise ValueError(
            f"{path.name}: {pixels / 1e6:.1f} megapixels; this page takes pictures up to {limits.megapixels:g}"
        )


def write_downloads(parts: PartPrediction, folder: Path) -> list[Path]:
    """Writes the masks in COCO's form (RLE), the label picture and the drawing, see :class:`Results`; returns them.

    ``folder``: has nothing in it.
    """
    # Where the page kept it is nobody's business.
    parts = replace(parts, file_name=Path(parts.file_name).name or "photo")
    name = Path(parts.file_name).stem
    with Results(folder, _KINDS, parts.class_names) as results:
        results.write(Source(parts.file_name, Path(name)), parts)
    return [folder / COCO_FILE, folder / f"{name}.labels.png", folder / f"{name}.png"]
