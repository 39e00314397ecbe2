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
        names = list(inspect.signature(self.get_transform).parameters)
        missing = [name for name in names if not hasattr(aug_input, name)]
        if missing:
            raise AttributeError(f"{type(self).__name__} needs {missing}, which the input does not have")
        transform = self.get_transform(*(getattr(aug_input, name) for name in names))
        aug_input.transform(transform)
        return transform

    def _rand_range(self, low: float = 1.0, high: float | None = None, size: int | None = None) -> Any:
        if high is None:
            low, high = 0, low
        return np.random.uniform(low, high, size)

    def __repr__(self) -> str:
        names = [name for name in inspect.signature(type(self).__init__).parameters if name != "self"]
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in names if hasattr(self, name))
        return f"{type(self).__name__}({values})"


class _Fixed(Augmentation):
    def __init__(self, transform: Transform) -> None:
        self.transform = transform

    def get_transform(self) -> Transform:
        return self.transform


class AugmentationList(Augmentation):
    """Augmentations and transforms, one after another."""

    def __init__(self, augs: list[Augmentation | Transform]) -> None:
        for aug in augs:
            if not isinstance(aug, (Augmentation, Transform)):
                raise TypeError(f"expected an Augmentation or a Transform, got {type(aug).__name__}")
        self.augs = [aug if isinstance(aug, Augmentation) else _Fixed(aug) for aug in augs]

    def __call__(self, aug_input: AugInput) -> TransformList:
        return TransformList([aug(aug_input) for aug in self.augs])


class AugInput:
    """What is augmented together.

    ``image`` [H, W] or [H, W, C], uint8 in [0, 255] or float; ``boxes`` [N, 4] xyxy; ``sem_seg`` uint8
    [H, W]. All are changed by ``transform``.
    """

    def __init__(
        self, image: np.ndarray, *, boxes: np.ndarray | None = None, sem_seg: np.ndarray | None = None
    ) -> None:
        if not isinstance(image, np.ndarray) or image.ndim not in (2, 3):
            raise TypeError(f"expected an image array of 2 or 3 axes, got {type(image).__name__}")
        self.image, self.boxes, self.sem_seg = image, boxes, sem_seg

    def transform(self, tfm: Transform) -> None:
        """Applies ``tfm`` to everything, in place."""
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)

    def apply_augmentations(self, augmentations: list[Augmentation | Transform]) -> TransformList:
        """``AugmentationList(augmentations)(self)``."""
        return AugmentationList(augmentations)(self)
