"""Predictions back to the size of the original image."""

import torch
from torch.nn import functional as F


def sem_seg_postprocess(
    result: torch.Tensor, img_size: tuple[int, int], output_height: int, output_width: int
) -> torch.Tensor:
    """Cuts off the padding of scores [C, H, W] and resizes them bilinearly to [C, output_height, output_width].

    ``img_size`` is (height, width) of the image within the padded frame.
    """
    cropped = result[None, :, : img_size[0], : img_size[1]]
    return F.interpolate(cropped, size=(output_height, output_width), mode="bilinear", align_corners=False)[0]
