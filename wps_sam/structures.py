"""Typed values that stages of the model hand to each other.

Axes in comments: B images, N prompt queries, M ground-truth parts of one image, C part classes,
T = 2 prompt tokens, D = 256 (SAM's prompt width), S side of the padded network square in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch


@dataclass(frozen=True)
class Frame:
    """Where one resized image lies in the padded S x S square the network sees.

    All values in pixels. ``left`` and ``top`` are 0 with SAM's own padding (bottom and right).
    """

    size: int
    height: int
    width: int
    top: int = 0
    left: int = 0

    def crop(self, square: torch.Tensor) -> torch.Tensor:
        """Cuts the image region out of ``square`` [..., S, S] and returns [..., height, width]."""
        if square.shape[-2:] != (self.size, self.size):
            raise ValueError(f"expected a [..., {self.size}, {self.size}] tensor, got {tuple(square.shape)}")
        return square[..., self.top : self.top + self.height, self.left : self.left + self.width]


def input_size(model_input: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) in pixels of a model input's picture after augmentation.

    Read off "image" [3, h, w], or "image_size", which stands in its place where nobody needs the pixels.
    """
    if "image" in model_input:
        height, width = model_input["image"].shape[-2:]
    else:
        height, width = model_input["image_size"]
    return height, width


@dataclass(frozen=True)
class PartVocabulary:
    """The part classes a model is asked for, and the objects they belong to.

    ``names`` of the C part classes, in the order of their ids; ``part_objects`` int [C], which object each part
    is of; ``object_names`` of all objects, those without parts too; ``unseen`` classes, whose names were not there
    in training.
    """

    names: tuple[str, ...]
    part_objects: tuple[int, ...]
    object_names: tuple[str, ...]
    unseen: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if len(self.names) != len(self.part_objects):
            raise ValueError(f"{len(self.names)} part classes, but {len(self.part_objects)} objects of parts")

    def __len__(self) -> int:
        return len(self.names)

    def after_training_on(self, trained_names: Sequence[str]) -> PartVocabulary:
        """The same vocabulary for a model that was trained on these names: the others are unseen."""
        trained = set(trained_names)
        return replace(self, unseen=frozenset(c for c, name in enumerate(self.names) if name not in trained))

    def parts_of(self, object_id: int) -> list[int]:
        """The classes of the parts of one object, ascending; [] for an object without parts."""
        if not 0 <= object_id < len(self.object_names):
            raise ValueError(f"object {object_id}: expected 0..{len(self.object_names) - 1}")
        return [c for c, of in enumerate(self.part_objects) if of == object_id]


def object_of_part(part_name: str) -> str:
    """The object in a name such as ``dog's left ear``: the text before the first ``'s ``; else the whole name.

    Never a substring test: "chair" is in "armchair's seat", and "door" in "cabinet's door".
    """
    return part_name.split("'s ", 1)[0]


def vocabulary_of(metadata: Any) -> PartVocabulary:
    """The classes of a data set, from its metadata; where no objects are known, the supercategories are them."""
    objects = metadata.get("obj_classes") or list(dict.fromkeys(metadata.part_supercategories))
    of_part = metadata.get("part_objects") or [objects.index(s) for s in metadata.part_supercategories]
    return PartVocabulary(tuple(metadata.thing_classes), tuple(of_part), tuple(objects))


def vocabulary_from_names(names: Sequence[str]) -> PartVocabulary:
    """The vocabulary of part names alone, whose objects are read off them."""
    objects = list(dict.fromkeys(map(object_of_part, names)))
    return PartVocabulary(tuple(names), tuple(objects.index(object_of_part(n)) for n in names), tuple(objects))


@dataclass
class PartTargets:
    """The weak labels of one image, as the criterion needs them.

    ``labels`` int64 [M]; ``tokens`` float [M, 2, D], the teacher's prompt tokens; ``geometry`` float
    [M, 4] boxes xyxy or [M, 2] points xy, in pixels of the padded square.
    """

    labels: torch.Tensor
    tokens: torch.Tensor
    geometry: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass
class PromptPrediction:
    """What a prompter says of a batch.

    ``logits`` float [B, N, C+1], last = no part; ``tokens`` float [B, N, 2, D]; ``geometry`` float
    [B, N, 4] or [B, N, 2] in pixels of the padded square where the prompter reads prompts out as boxes
    or points, None where it regresses tokens directly (the paper's way); ``anchors`` [N, 2] the
    reference points xy of a prompter whose queries have a fixed place, else None.
    """

    logits: torch.Tensor
    tokens: torch.Tensor
    geometry: torch.Tensor | None = None
    anchors: torch.Tensor | None = None
