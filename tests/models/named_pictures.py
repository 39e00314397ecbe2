"""Small pictures of cats and buses with their parts, for models that are asked for names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from wps_sam.vocabulary import PartVocabulary

import torch
from torch import Tensor

IGNORE = 65535
# Six parts of two objects, and an object without parts.
NAMES = ("cat's head", "cat's torso", "cat's tail", "bus's wheel", "bus's door", "bus's headlight")
VOCABULARY = replace(PartVocabulary.from_names(NAMES), object_names=("cat", "bus", "boat"))


def picture(seed: int = 0, height: int = 40, width: int = 60, **fields: Any) -> dict[str, Any]:
    image = torch.randint(256, (3, height, width), generator=torch.Generator().manual_seed(seed))
    return {"image": image.to(torch.uint8), "file_name": f"{seed}.jpg", **fields}


def labelled(seed: int = 0) -> dict[str, Any]:
    """A picture whose left half is class 1, the rest ignored."""
    record = picture(seed, ignore_label=IGNORE)
    record["sem_seg"] = torch.full((40, 60), IGNORE)
    record["sem_seg"][:, :30] = 1
    return record


COLOURS = ((220, 60, 60), (60, 180, 60), (60, 80, 230), (230, 220, 50), (40, 200, 210), (200, 60, 200))


def eight_pictures() -> list[dict[str, Any]]:
    """Cats and buses in turn: three rectangles each, in a colour for each class, on grey noise."""
    generator = torch.Generator().manual_seed(0)
    records = []
    for i in range(8):
        image = torch.randint(90, 166, (3, 64, 64), generator=generator).to(torch.uint8)
        part_map = torch.full((64, 64), IGNORE)
        of = i % 2
        for part, (height, width) in enumerate(((20, 16), (24, 40), (12, 12))):
            y, x = (int(torch.randint(64 - side, (1,), generator=generator)) for side in (height, width))
            image[:, y : y + height, x : x + width] = torch.tensor(COLOURS[3 * of + part])[:, None, None]
            part_map[y : y + height, x : x + width] = 3 * of + part
        records.append(
            {
                **{"image": image, "sem_seg": part_map, "ignore_label": IGNORE, "category_id": of},
                **{"height": 64, "width": 64, "file_name": f"{i}.jpg"},
            }
        )
    return records


def mean_iou(predict: Callable[[dict[str, Any]], Tensor], records: list[dict[str, Any]]) -> float:
    """Over the six classes, pooled over the pictures, in labelled pixels only (as Oracle-Obj scores)."""
    intersection, union = torch.zeros(6), torch.zeros(6)
    for record in records:
        valid = record["sem_seg"] != IGNORE
        truth, found = record["sem_seg"][valid], predict(record)[valid]
        for c in range(6):
            intersection[c] += ((truth == c) & (found == c)).sum()
            union[c] += ((truth == c) | (found == c)).sum()
    return float((intersection / union).mean())
