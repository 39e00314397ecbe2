"""``ResizeTransform``; the others are fvcore's."""

from __future__ import annotations

import numpy as np
import torch
from fvcore.transforms.transform import Transform
from PIL import Image
from torch.nn import functional as F

_TORCH_MODES: dict[int, str] = {
    Image.Resampling.NEAREST: "nearest",
    Image.Resampling.BILINEAR: "bilinear",
    Image.Resampling.BICUBIC: "bicubic",
}


class ResizeTransform(Transform):
    """Resizes from (h, w) to (new_h, new_w) pixels; ``interp`` is one of PIL's, bilinear unless given."""

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None) -> None:
        super().__init__()
        self.h, self.w, self.new_h, self.new_w = h, w, new_h, new_w
        self.interp = Image.Resampling.BILINEAR if interp is None else interp

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resizes [H, W] or [H, W, C]: uint8 with PIL's filters, other types by torch's interpolation."""
        if img.shape[:2] != (self.h, self.w):
            raise ValueError(f"expected an image of {self.h}x{self.w}, got {img.shape[0]}x{img.shape[1]}")
        method = self.interp if interp is None else interp
        if img.dtype == np.uint8:
            single = img.ndim == 3 and img.shape[2] == 1
            resized = np.asarray(
                Image.fromarray(img[:, :, 0] if single else img).resize((self.new_w, self.new_h), method)
            )
            return resized[:, :, None] if single else resized
        # A negative stride, as of a flipped array, is nothing torch can take over.
        planes = torch.from_numpy(np.ascontiguousarray(img)).reshape(1, self.h, self.w, -1).permute(0, 3, 1, 2)
        mode = _TORCH_MODES[method]
        resized_planes = F.interpolate(
            planes, (self.new_h, self.new_w), mode=mode, align_corners=None if mode == "nearest" else False
        )
        return resized_planes[0].permute(1, 2, 0).reshape(self.new_h, self.new_w, *img.shape[2:]).numpy()

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Scales continuous coordinates (x, y), [N, 2], in place."""
        coords[:, 0] = coords[:, 0] * (self.new_w * 1.0 / self.w)
        coords[:, 1] = coords[:, 1] * (self.new_h * 1.0 / self.h)
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resizes labels by the nearest pixel."""
        return self.apply_image(segmentation, interp=Image.Resampling.NEAREST)

    def inverse(self) -> ResizeTransform:
        """The resize back."""
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)
