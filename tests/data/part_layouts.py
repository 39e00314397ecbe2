"""Copies of PartImageNet's two packagings, small, written to disk with everything that the real ones hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wps_sam.data.sources.coco import load_vocabulary

import numpy as np
import pytest
from PIL import Image

HEIGHT, WIDTH = 40, 60
BACKGROUND = 40


def rectangle(x: float, y: float, width: float, height: float) -> list[float]:
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def part(category_id: int, x: int, y: int, width: int, height: int, **changes: Any) -> dict[str, Any]:
    """An annotation without ids: a rectangle of one class."""
    return {
        "category_id": category_id,
        "segmentation": [rectangle(x, y, width, height)],
        "bbox": [x, y, width, height],
        "area": width * height,
        "iscrowd": 0,
        **changes,
    }


# A dog (four feet would be four annotations of one class; two do), a bicycle, and a picture without labels.
DOG, BICYCLE, EMPTY = "n02102040_11", "n02835271_7", "n01440764_10029"
PICTURES: dict[str, list[dict[str, Any]]] = {
    DOG: [part(1, 10, 10, 30, 15), part(0, 40, 5, 12, 12), part(2, 12, 25, 5, 10), part(2, 30, 25, 5, 10)],
    BICYCLE: [part(27, 5, 5, 20, 20), part(28, 30, 5, 10, 10), part(30, 5, 28, 10, 10)],
    EMPTY: [],
}


def coco_of(pictures: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The COCO json of PartImageNet: all 40 categories, whether they occur or not, with ids from 0."""
    vocabulary = load_vocabulary("partimagenet")
    coco: dict[str, Any] = {
        "images": [
            {"id": i, "file_name": f"{stem}.JPEG", "height": HEIGHT, "width": WIDTH} for i, stem in enumerate(pictures)
        ],
        "annotations": [],
        "categories": [
            {"id": i, "name": name, "supercategory": supercategory}
            for i, (name, supercategory) in enumerate(zip(vocabulary.names, vocabulary.supercategories))
        ],
    }
    for image_id, parts in enumerate(pictures.values()):
        for entry in parts:
            coco["annotations"].append({"id": len(coco["annotations"]), "image_id": image_id, **entry})
    return coco


def part_map_of(parts: list[dict[str, Any]]) -> np.ndarray:
    """uint8 part map of the rectangles' boxes, 40 = background."""
    part_map = np.full((HEIGHT, WIDTH), BACKGROUND, np.uint8)
    for entry in parts:
        x, y, width, height = entry["bbox"]
        part_map[y : y + height, x : x + width] = entry["category_id"]
    return part_map


@dataclass(frozen=True)
class Split:
    """One written split; ``rewrite`` changes the content of its json."""

    images: Path
    json_file: Path

    def rewrite(self, change: Callable[[dict[str, Any]], Any]) -> None:
        coco = json.loads(self.json_file.read_text())
        change(coco)
        self.json_file.write_text(json.dumps(coco))

    def change_annotation(self, position: int, **fields: Any) -> None:
        self.rewrite(lambda coco: coco["annotations"][position].update(fields))


def _write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.linspace(0, 255, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint8)
    Image.fromarray(np.stack([ramp, ramp.T.reshape(HEIGHT, WIDTH), 255 - ramp], axis=2)).save(path, "JPEG")


def _write_litter(folder: Path, *names: str) -> None:
    for name in (".DS_Store", *(f"._{name}" for name in names)):
        (folder / name).write_bytes(b"\x00\x05\x16\x07 not what the name says")


@pytest.fixture
def seg(tmp_path: Path) -> Split:
    """PartImageNet_Seg's training split: flat images, per-image json and PNG, object maps, and macOS litter."""
    root = tmp_path / "PartImageNet"
    images, labels, whole = (root / "images/train", root / "annotations/train", root / "annotations/train_whole")
    for folder in (images, labels, whole):
        folder.mkdir(parents=True)
    for stem, parts in PICTURES.items():
        _write_image(images / f"{stem}.JPEG")
        part_map = part_map_of(parts)
        Image.fromarray(part_map).save(labels / f"{stem}.png")
        (labels / f"{stem}.json").write_text(json.dumps({"imgHeight": HEIGHT, "imgWidth": WIDTH}))
        Image.fromarray(np.where(part_map == BACKGROUND, 158, 3).astype(np.uint8)).save(whole / f"{stem}.png")
    (labels / "train.json").write_text(json.dumps(coco_of(PICTURES)))
    _write_litter(images, f"{DOG}.JPEG")
    _write_litter(labels, "train.json", f"{DOG}.png", f"{DOG}.json")
    return Split(images, labels / "train.json")


@pytest.fixture
def ood(tmp_path: Path) -> Split:
    """PartImageNet_OOD's training split: images in class folders, flat names in the json, no label maps."""
    root = tmp_path / "PartImageNet_OOD"
    for stem in PICTURES:
        _write_image(root / "train" / stem[:9] / f"{stem}.JPEG")
        _write_litter(root / "train" / stem[:9], f"{stem}.JPEG")
    (root / "train.json").write_text(json.dumps(coco_of(PICTURES)))
    return Split(root / "train", root / "train.json")
