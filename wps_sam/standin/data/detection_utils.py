"""Reading images and comparing them with their records."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from ..utils.file_io import PathManager


class SizeMismatchError(ValueError):
    """The image is not as large as its record says."""


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """Reads an image of any PIL mode, turned as its EXIF orientation says.

    Returns uint8 [H, W, 3] of order ``format`` (RGB or BGR), [H, W, 1] for L, or the file's own mode.
    """
    with PathManager.open(file_name, "rb") as f:
        image = ImageOps.exif_transpose(Image.open(f))
        if format is not None:
            image = image.convert("RGB" if format == "BGR" else format)
        array = np.asarray(image)
    if format == "L":
        return array[:, :, None]
    return array[:, :, ::-1] if format == "BGR" else array


def check_image_size(dataset_dict: dict, image: np.ndarray) -> None:
    """Compares "width" and "height" of a record with its image, or sets them.

    Raises:
        SizeMismatchError: they differ; names the file and both sizes.
    """
    actual = (image.shape[1], image.shape[0])
    expected = (dataset_dict.setdefault("width", actual[0]), dataset_dict.setdefault("height", actual[1]))
    if actual != expected:
        raise SizeMismatchError(
            f"{dataset_dict.get('file_name', 'an image')}: the image is {actual} (width, height), its record says "
            f"{expected}. Are the annotations those of this image? Is it stored rotated (EXIF)?"
        )
