"""Labels made weaker: what a data set would be if it had been labelled with less work.

For measuring what labels are worth: a share of the pictures keeps boxes, another points, another tags alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wps_sam.data.tags import read_tags
from wps_sam.data.weak_labels import part_point, usable_box
from wps_sam.masks import record_size, stored_size

import numpy as np

Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Weakening:
    """Which share of the pictures, 0..1, keeps ``box`` labels, ``point`` labels, or ``tag`` labels alone.

    Together at most 1; the rest is left out. ``jitter``: each side of a box is moved by a random amount of up to this
    share of the box's size. Points are the deepest pixels of the masks. ``seed`` decides which picture gets what.
    """

    box: float = 0.0
    point: float = 0.0
    tag: float = 0.0
    jitter: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        shares = (self.box, self.point, self.tag)
        if min(shares) < 0 or not 0 < sum(shares) <= 1 + 1e-9:
            raise ValueError(f"box, point, tag: expected shares of 0 or more, together at most 1, got {list(shares)}")
        if not 0 <= self.jitter < 0.5:
            raise ValueError(f"jitter: expected 0 or more and less than 0.5, got {self.jitter}")


def weaken(records: Records, class_names: Sequence[str], how: Weakening, root: str) -> dict[str, Any]:
    """A COCO file of the records with weaker labels, file names relative to ``root``.

    Boxes are XYWH, points xy of pixel centres; crowds are left out. Pictures without any part stay, with no label, and
    those whose ids are whole numbers keep them, so that they are cropped alike.
    """
    order = np.random.default_rng(how.seed).permutation(len(records))
    ends = [round(share * len(records)) for share in np.cumsum([how.box, how.point, how.tag]).tolist()]
    kind_of = {int(i): sum(k >= end for end in ends) for k, i in enumerate(order)}
    ids = [record["image_id"] for record in records]
    if not all(isinstance(image_id, int) for image_id in ids):
        ids = list(range(len(records)))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, record in enumerate(records):
        if kind_of[i] > 2:
            continue
        height, width = record_size(record)
        file_name = os.path.relpath(record["file_name"], root)
        image = {"id": ids[i], "file_name": file_name, "height": height, "width": width}
        parts = [a for a in record["annotations"] if not a.get("iscrowd", 0)]
        if kind_of[i] == 2:
            image["tags"] = sorted({class_names[a["category_id"]] for a in parts})
        else:
            for part in parts:
                label = _box(part, height, width, how) if kind_of[i] == 0 else _point(part, height, width)
                if label:
                    entry = {"id": len(annotations), "image_id": ids[i], "category_id": part["category_id"]}
                    annotations.append({**entry, **label})
        images.append(image)
    categories = [{"id": c, "name": name} for c, name in enumerate(class_names)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _box(part: Mapping[str, Any], height: int, width: int, how: Weakening) -> dict[str, Any]:
    box = usable_box(part, height, width)
    if box is None:
        return {}
    corners = np.array(box)
    if how.jitter:
        size = np.tile(corners[2:] - corners[:2], 2)
        # Of the annotation alone, so that other shares of the same data have the same boxes.
        rng = np.random.default_rng([how.seed, int(part["id"]) % 2**64])
        corners = corners + rng.uniform(-how.jitter, how.jitter, 4) * size
        corners = corners.clip(0, [width, height, width, height])
    x0, y0, x1, y1 = (round(float(v), 2) for v in corners)
    return {"bbox": [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)]}


def _point(part: Mapping[str, Any], height: int, width: int) -> dict[str, Any]:
    point = part_point(part, height, width, "deepest_pixel", 0)
    return {} if point is None else {"point": list(point)}


def add_tagged_pictures(content: dict[str, Any], tags_file: str, folder: str, root: str) -> int:
    """Adds pictures that have nothing but tags, ``{file name: [class names]}``; returns how many.

    Raises:
        ValueError: names the file, the picture that is missing, or the class that is unknown.
    """
    names = [category["name"] for category in content["categories"]]
    first = 1 + max((image["id"] for image in content["images"]), default=-1)
    found = read_tags(tags_file, folder, names)
    for i, (name, tags) in enumerate(found):
        path = Path(folder) / name
        height, width, _ = stored_size(str(path))
        entry = {"id": first + i, "file_name": os.path.relpath(path, root), "height": height, "width": width}
        content["images"].append({**entry, "tags": sorted(names[c] for c in tags)})
    return len(found)
