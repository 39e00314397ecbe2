"""``Augmentation``: draws a transform, given what it is to be applied to."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from fvcore.transforms.transform import Transform, TransformList


class Augmentation:
    """A policy that returns a ``Transform`` for an input, mostly at random.

    Subclasses define ``get_transform``; the names of its arguments are attributes of the ``AugInput``
    ("image", "boxes", "sem_seg" or your own).
    """

    def get_transform(self, *args: Any) -> Transform:
        """Draws a transform."""
        raise NotImplementedError

    def __call__(self, aug_input: AugInput) -> Transform:
        """Draws a transform, applies it to the input in place, and returns it."""
        names = inspect.signature(self.get_transform).parameters
        transform = self.get_transform(*(getattr(aug_input, name) for name in names))
        aug_input.transform(transform)
        return transform


class AugmentationList(Augmentation):
    """Augmentations and transforms, one after another."""

    def __init__(self, augs: list[Augmentation | Transform]) -> None:
        self.augs = augs

    def __call__(self, aug_input: AugInput) -> TransformList:
        done: list[Transform] = []
        for aug in self.augs:
            if isinstance(aug, Augmentation):
                done.append(aug(aug_input))
            else:
                aug_input.transform(aug)
                done.append(aug)
        return TransformList(done)


class AugInput:
    """What is augmented together, in place.

    ``image`` [H, W] or [H, W, C], uint8 in [0, 255] or float; ``boxes`` [N, 4] xyxy; ``sem_seg`` uint8 [H, W].
    """

    def __init__(
        self, image: np.ndarray, *, boxes: np.ndarray | None = None, sem_seg: np.ndarray | None = None
    ) -> None:
        self.image, self.boxes, self.sem_seg = image, boxes, sem_seg

    def transform(self, tfm: Transform) -> None:
        """Applies ``tfm`` to everything."""
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)

    def apply_augmentations(self, augmentations: list[Augmentation | Transform]) -> TransformList:
        """``AugmentationList(augmentations)(self)``."""
        return AugmentationList(augmentations)(self)
