"""Pascal-Part from the official .mat files: five vocabularies, part maps, part instances, and their preparation.

A variant (58, 93, 108, 116, 201) is a class list in vocabularies/pascal_part_{variant}.yaml that also says which parts of the
.mat files each class is made of. Masks are bool [H, W] on the stored pixel grid of the picture.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from wps_sam.data.part_datasets import VOCABULARIES, PartClasses, load_vocabulary

import yaml

VARIANTS = ("58", "93", "108", "116", "201")

# Registered name -> (folder of the images, COCO json), below the root of all data sets.
SPLITS: dict[str, tuple[str, str]] = {
    f"pascal_part_{variant}_{split}": (
        "VOCdevkit/VOC2010/JPEGImages",
        f"PascalPart/{variant}/annotations/{split}/{split}.json",
    )
    for variant in VARIANTS
    for split in ("train", "val")
}


def load_pascal_vocabulary(variant: str) -> PartClasses:
    """The classes of a variant, in the order of their ids.

    Raises:
        ValueError: there is no such variant.
    """
    return load_vocabulary(_vocabulary_name(variant))


def flip_map(variant: str) -> list[int] | None:
    """Class id 0..C-1 to class id after a horizontal flip; None where the variant does not tell left from right."""
    classes = _read_vocabulary(variant)["classes"]
    if not any("flip" in c for c in classes):
        return None
    position = {c["id"]: i for i, c in enumerate(classes)}
    return [position[c.get("flip", c["id"])] for c in classes]


def _vocabulary_name(variant: str) -> str:
    if variant not in VARIANTS:
        raise ValueError(f"Pascal-Part: expected a variant among {VARIANTS}, got {variant!r}")
    return f"pascal_part_{variant}"


@lru_cache
def _read_vocabulary(variant: str) -> Any:
    with open(VOCABULARIES / f"{_vocabulary_name(variant)}.yaml", encoding="utf-8") as file:
        return yaml.safe_load(file)
