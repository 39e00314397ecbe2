"""From masks and scores to one part map: pure functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..structures import Frame

MASK_THRESHOLD = 0.5


def resize_mask(mask_logits: Tensor, frame: Frame, height: int, width: int) -> Tensor:
    """Mask logits [E, E] of the square to float32 logits [height, width] of the original image.

    Bilinear to the square, padding cut off, bilinear to the image (segment_anything's order); of a square that the
    image fills, its shape lost, in one step (SAM 2's).
    """
    small = mask_logits[None, None].float()
    if frame.stretched:
        return F.interpolate(small, (height, width), mode="bilinear", align_corners=False)[0, 0]
    square = F.interpolate(small, (frame.size, frame.size), mode="bilinear", align_corners=False)
    image = F.interpolate(frame.crop(square), (height, width), mode="bilinear", align_corners=False)
    return image[0, 0]


def resize_masks(mask_logits: Tensor, frame: Frame, height: int, width: int) -> Tensor:
    """[K, E, E] to [K, height, width], as ``resize_mask``; never more than one square at a time."""
    images = mask_logits.new_empty(len(mask_logits), height, width, dtype=torch.float32)
    for image, logits in zip(images, mask_logits):
        image.copy_(resize_mask(logits, frame, height, width))
    return images


class SemanticMerge:
    """Part map scores [C+1, H, W], background last: a pixel has one label.

    The score of class c at a pixel is the largest ``score * p(mask)`` of its queries whose mask covers the pixel
    (reaches one half); a pixel that no mask covers is background. Takes one mask after the other, so that there
    need never be a stack of them. Where masks overlap, what is known of a pixel itself may decide.
    """

    def __init__(self, num_classes: int, height: int, width: int, device: torch.device | str = "cpu") -> None:
        self._scores = torch.zeros(num_classes + 1, height, width, device=device)
        self._covered = torch.zeros(height, width, dtype=torch.bool, device=device)

    def add(self, probability: Tensor, score: float, label: int, of_pixel: Tensor | None = None) -> None:
        """One query: mask probabilities [H, W], the probability of its class, and the class; and the probability [H, W]
        that a pixel is of that class, whatever the mask, if that is known."""
        covers = probability >= MASK_THRESHOLD
        of_class = self._scores[label]
        found = probability * covers * score
        if of_pixel is not None:
            # Never 0: a pixel that one mask alone covers is of its class, however unlikely.
            found *= of_pixel.clamp(min=1e-6)
        torch.maximum(of_class, found, out=of_class)
        self._covered |= covers

    def part_map(self) -> Tensor:
        """float [C+1, H, W] of all queries so far; its argmax is the label of each pixel."""
        self._scores[-1] = ~self._covered
        return self._scores


class AuthorsMerge:
    """The authors' merge: per class the sum of its queries' mask probabilities, a part where it reaches 0.5.

    Used like ``SemanticMerge``. Where several classes pass, the largest sum wins the argmax.
    """

    def __init__(self, num_classes: int, height: int, width: int, device: torch.device | str = "cpu") -> None:
        self._sums = torch.zeros(num_classes + 1, height, width, device=device)
        self._labels: set[int] = set()

    def add(self, probability: Tensor, score: float, label: int, of_pixel: Tensor | None = None) -> None:
        """As ``SemanticMerge.add``; the score and pixels play no part."""
        self._sums[label] += probability
        self._labels.add(label)

    def part_map(self) -> Tensor:
        """As ``SemanticMerge.part_map``."""
        background = torch.ones_like(self._sums[-1], dtype=torch.bool)
        for label in self._labels:
            background &= self._sums[label] < MASK_THRESHOLD
        # Sums can exceed 1: an uncovered pixel has none above one half, a covered one has background 0.
        self._sums[-1] = background
        return self._sums


class WithinObjectMerge:
    """Scores [C, H, W] of the parts of one object, of which every pixel of the object gets one.

    The largest ``p(class) * p(mask)`` of the queries, as in ``SemanticMerge``, but without a threshold, and each
    query speaks for every class: where no mask covers a pixel the nearest guess still says which part it is.
    """

    def __init__(self, num_classes: int, height: int, width: int, device: torch.device | str = "cpu") -> None:
        self._scores = torch.zeros(num_classes, height, width, device=device)

    def add(self, probability: Tensor, of_class: Tensor) -> None:
        """One query: mask probabilities [H, W] and probabilities [C] of the classes."""
        torch.maximum(self._scores, of_class[:, None, None] * probability, out=self._scores)

    def part_map(self) -> Tensor:
        """float [C, H, W] of all queries so far, without background."""
        return self._scores


MERGES: dict[str, type[SemanticMerge | AuthorsMerge]] = {"semantic": SemanticMerge, "authors": AuthorsMerge}
