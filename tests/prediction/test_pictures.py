"""Every form of a picture is the same picture, and what is none is refused with what came."""

from __future__ import annotations

from typing import Any

from wps_sam.prediction.pictures import is_one_picture, to_rgb

import numpy as np
import pytest
import torch
from PIL import Image

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = np.repeat(RGB[..., :1], 3, axis=2)
RGBA = np.dstack([RGB, np.full((5, 7), 100, np.uint8)])
TENSOR = torch.from_numpy(RGB.transpose(2, 0, 1).copy())


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (RGB, RGB),
        (RGB[:, ::-1][:, ::-1], RGB),
        (GREY[..., 0], GREY),
        (GREY[..., :1], GREY),
        (RGBA, RGB),
        (RGB.astype(np.float64) / 255, RGB),
        (RGB.astype(np.float16) / 255, RGB),
        # Rounding may carry a number a little beyond 1.
        (np.where(RGB > 254, 1 + 1e-4, RGB / 255), RGB),
        (GREY[..., 0].astype(np.float32) / 255, GREY),
        (RGB.astype(np.uint16) * 257, RGB),
        (TENSOR, RGB),
        (TENSOR[:1], GREY),
        (TENSOR / 255, RGB),
        ((TENSOR // 255).bfloat16(), RGB // 255 * 255),
        (torch.from_numpy(RGBA).permute(2, 0, 1), RGB),
        ((TENSOR / 255).requires_grad_(), RGB),
        (Image.fromarray(RGBA), RGB),
    ],
)
def test_forms(image: Any, expected: np.ndarray) -> None:
    pixels, name = to_rgb(image, "picture 0")
    assert np.array_equal(pixels, expected) and name == ""
    assert pixels.dtype == np.uint8 and pixels.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            RGB.astype(np.float32),
            "picture 3: expected floating point numbers from 0 to 1, got .* convert them to uint8",
        ),
        (-RGB.astype(np.float32), r"from 0 to 1, got -248 to -"),
        (np.full((4, 4, 3), np.nan), "from 0 to 1, got nan to nan"),
        (RGB.astype(np.int64), r"got a int64 array \[5, 7, 3\]"),
        (RGB > 100, r"got a bool array \[5, 7, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), r"got a uint8 array \[0, 4, 3\]"),
        (RGB.transpose(2, 0, 1), r"got a uint8 array \[3, 5, 7\]; channels come last in an array"),
        (RGB[None], r"got a uint8 array \[1, 5, 7, 3\]; predict_batch takes several pictures"),
        (torch.from_numpy(RGB), r"got a torch.uint8 tensor \[5, 7, 3\]; channels come first in a tensor"),
        (TENSOR[None], r"\[1, 3, 5, 7\]; predict_batch takes several pictures"),
        (TENSOR[0], r"got a torch.uint8 tensor \[5, 7\]$"),
        (TENSOR[:, :0], r"got a uint8 array \[0, 7, 3\]"),
        (TENSOR.long(), "got a int64 array"),
        (7, "picture 3: expected a path, .* got int"),
    ],
)
def test_refusals(image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_rgb(image, "picture 3")


def test_one_or_several() -> None:
    assert all(map(is_one_picture, (RGB, GREY[..., 0], TENSOR, "photo.jpg", Image.fromarray(RGB))))
    assert not any(map(is_one_picture, (RGB[None], TENSOR[None], [RGB], iter([]))))
