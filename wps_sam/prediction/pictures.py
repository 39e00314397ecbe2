"""Pictures in every form that people have them in, to the one that a model is shown."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
from PIL import Image

from ..masks import PixelGrid, pil_to_rgb, read_rgb, to_eight_bits

if TYPE_CHECKING:
    import torch

ImageLike: TypeAlias = "str | Path | np.ndarray | torch.Tensor | Image.Image"
# A model answers at the picture's size up to so many pixels, a Full HD frame, and a larger picture at this size: its
# masks come from cells some pixels wide, so that more would cost time and show nothing.
WORKING_PIXELS = 2**21
# Grey, RGB, and RGB with transparency.
CHANNELS = (1, 3, 4)
FORMS = (
    "a path, a PIL image, an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], or a tensor [1, H, W], [3, H, W] or "
    "[4, H, W], of uint8, uint16 or floating point numbers from 0 to 1"
)


def to_rgb(image: ImageLike, place: str, exif: PixelGrid = "upright") -> tuple[np.ndarray, str]:
    """One picture as a model is shown it, and the name of its file.

    Of arrays and tensors, one channel is grey and three are RGB; a fourth, transparency, is dropped, as of files. Of 16
    bits the upper 8 are taken that the picture uses, see :func:`wps_sam.masks.read_rgb`. Floating point numbers go
    from 0, black, to 1.

    Args:
        image: a file's path, a PIL image of any mode, an array [H, W] or [H, W, C], or a tensor [C, H, W].
        place: of the picture among others, for what is said of an array that does not fit.
        exif: which way up files and PIL images are wanted.

    Returns:
        uint8 [H, W, 3] RGB, and the name; "" for arrays and tensors.

    Raises:
        ValueError: the picture is missing, damaged, empty, or in none of these forms.
    """
    if isinstance(image, str | Path):
        return read_rgb(str(image), exif=exif), str(image)
    if isinstance(image, Image.Image):
        return pil_to_rgb(image, exif), str(getattr(image, "filename", ""))
    if isinstance(image, np.ndarray):
        return _array_to_rgb(image, place), ""
    if _is_tensor(image):
        return _array_to_rgb(_tensor_to_array(image, place), place), ""
    hint = "; predict_batch takes several pictures" if isinstance(image, list | tuple) else ""
    raise ValueError(f"{place}: expected {FORMS}, got {type(image).__name__}{hint}")


def is_one_picture(images: ImageLike | Iterable[ImageLike]) -> TypeGuard[ImageLike]:
    """Whether this is a single picture and not several: a list, an array [N, H, W, C] or a tensor [N, C, H, W]."""
    if isinstance(images, np.ndarray) or _is_tensor(images):
        return images.ndim < 4
    return isinstance(images, str | Path | Image.Image)


def working_size(height: int, width: int, most: float = WORKING_PIXELS) -> tuple[int, int]:
    """The size (h, w) at which a model answers for a picture of H x W: its own, or one of ``most`` pixels."""
    scale = min(1.0, (most / (height * width)) ** 0.5)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _is_tensor(image: Any) -> TypeGuard[torch.Tensor]:
    # Who has a tensor has PyTorch; models of other runtimes do without it.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(image, torch.Tensor)


def _tensor_to_array(tensor: torch.Tensor, place: str) -> np.ndarray:
    """[C, H, W] to [H, W, C]."""
    if tensor.ndim != 3 or tensor.shape[0] not in CHANNELS:
        hint = "; channels come first in a tensor" if tensor.ndim == 3 and tensor.shape[2] in CHANNELS else ""
        hint = "; predict_batch takes several pictures" if tensor.ndim == 4 else hint
        raise ValueError(f"{place}: expected {FORMS}, got a {tensor.dtype} tensor {list(tensor.shape)}{hint}")
    tensor = tensor.detach().cpu().permute(1, 2, 0)
    # NumPy has no bfloat16.
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _array_to_rgb(array: np.ndarray, place: str) -> np.ndarray:
    """[H, W] or [H, W, C] to uint8 [H, W, 3]."""
    pixels = array[..., None] if array.ndim == 2 else array
    kind_fits = array.dtype in (np.uint8, np.uint16) or np.issubdtype(array.dtype, np.floating)
    if not kind_fits or pixels.ndim != 3 or pixels.shape[2] not in CHANNELS or not pixels.size:
        hint = "; channels come last in an array" if array.ndim == 3 and array.shape[0] in CHANNELS else ""
        hint = "; predict_batch takes several pictures" if array.ndim == 4 else hint
        raise ValueError(f"{place}: expected {FORMS}, got a {array.dtype} array {list(array.shape)}{hint}")
    pixels = pixels[..., :3]
    if pixels.dtype == np.uint16:
        pixels = to_eight_bits(pixels, place)
    elif pixels.dtype != np.uint8:
        pixels = np.rint(pixels.astype(np.float32) * 255)
        # What rounding carries beyond the ends by less than half a step of 8 bits is forgiven; NaN is not.
        if not (pixels.min() >= 0 and pixels.max() <= 255):
            raise ValueError(
                f"{place}: expected floating point numbers from 0 to 1, got {array.min():g} to {array.max():g}"
                + ("; if these are 0 to 255, convert them to uint8" if 1 < array.max() <= 255 else "")
            )
        pixels = pixels.astype(np.uint8)
    return np.ascontiguousarray(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels)
