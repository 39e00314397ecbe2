"""Reading images and moving annotations."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from ..utils.file_io import PathManager

__all__ = [
    "SizeMismatchError",
    "check_image_size",
    "convert_PIL_to_numpy",
    "read_image",
]


class SizeMismatchError(ValueError):
    """The image is not as large as its record says."""


def convert_PIL_to_numpy(image: Image.Image, format: str | None) -> np.ndarray:
    """Converts to uint8 [H, W, 3] of order ``format`` (RGB, BGR), or [H, W, 1] for L; None keeps PIL's mode."""
    if format is not None:
        image = image.convert("RGB" if format == "BGR" else format)
    array = np.asarray(image)
    if format == "L":
        return array[:, :, None]
    return array[:, :, ::-1] if format == "BGR" else array


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """Reads an image of any PIL mode, turned as its EXIF orientation says.

    Returns uint8 [H, W, 3] of order ``format`` (RGB or BGR) or [H, W, 1] for L.
    """
    with PathManager.open(file_name, "rb") as f:
        image = Image.open(f)
        return convert_PIL_to_numpy(ImageOps.exif_transpose(image), format)


def check_image_size(dataset_dict: dict, image: np.ndarray) -> None:
    """Compares "width" and "height" of a record with its image, or sets them.

    Raises:
        SizeMismatchError: they differ; names the file and both sizes.
    """
    if "width" in dataset_dict or "height" in dataset_dict:
        actual, expected = (image.shape[1], image.shape[0]), (dataset_dict["width"], dataset_dict["height"])
        if actual != expected:
            raise SizeMismatchError(
                f"{dataset_dict.get('file_name', 'an image')}: the image is {actual} (width, height), its record says "
                f"{expected}. Are the annotations those of this image? Is it stored rotated (EXIF)?"
            )
    dataset_dict.setdefault("width", image.shape[1])
    dataset_dict.setdefault("height", image.shape[0])
