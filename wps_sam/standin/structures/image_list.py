"""``ImageList``: images of several sizes in one padded tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F


class ImageList:
    """``tensor`` [N, ..., H, W], padded on the right and bottom; ``image_sizes`` the (height, width) within."""

    def __init__(self, tensor: torch.Tensor, image_sizes: list[tuple[int, int]]) -> None:
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx: int) -> torch.Tensor:
        height, width = self.image_sizes[idx]
        return self.tensor[idx, ..., :height, :width]

    def to(self, *args: Any, **kwargs: Any) -> ImageList:
        """The images on another device or of another type."""
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> torch.device:
        """Where the tensor is."""
        return self.tensor.device

    @staticmethod
    def from_tensors(
        tensors: list[torch.Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: dict[str, int] | None = None,
    ) -> ImageList:
        """Pads images [..., Hi, Wi] to one size.

        The size is that of the largest, or ``padding_constraints["square_size"]`` if that is above 0,
        rounded up to ``size_divisibility`` (``padding_constraints["size_divisibility"]`` wins).

        Raises:
            ValueError: an image is larger than the square.
        """
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in tensors]
        height, width = max(size[0] for size in sizes), max(size[1] for size in sizes)
        if padding_constraints is not None:
            square = padding_constraints.get("square_size", 0)
            if square > 0:
                if max(height, width) > square:
                    raise ValueError(f"an image of {height}x{width} does not fit a square of {square}")
                height = width = square
            size_divisibility = padding_constraints.get("size_divisibility", size_divisibility)
        if size_divisibility > 1:
            height = -(-height // size_divisibility) * size_divisibility
            width = -(-width // size_divisibility) * size_divisibility
        padded = [F.pad(image, (0, width - w, 0, height - h), value=pad_value) for image, (h, w) in zip(tensors, sizes)]
        return ImageList(torch.stack(padded).contiguous(), sizes)
