"""Copies of OV-PARTS' two data sets and PartImageNet, small, written to disk in the layout of the downloads.

Every class has a colour of its own, so that a model can learn the pictures by heart.
"""

from __future__ import annotations

import colorsys
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wps_sam.masks import mask_to_rle

import cv2
import numpy as np
import yaml
from PIL import Image

HEIGHT, WIDTH = 48, 64
VOCABULARIES = Path(__file__).resolve().parents[2] / "wps_sam" / "data" / "vocabularies"
# An object fills the left or the right half of a picture.
LEFT, RIGHT = (2, 3, 27, 40), (34, 5, 28, 38)


@dataclass(frozen=True)
class Thing:
    """An object in a picture: ``box`` x, y, width, height of its outline; ``parts``, top to bottom."""

    name: str
    box: tuple[int, int, int, int] = LEFT
    parts: tuple[str, ...] = ()

    def moved(self, box: tuple[int, int, int, int]) -> Thing:
        return Thing(self.name, box, self.parts)


CAT = Thing("cat", parts=("head", "torso", "leg"))
PERSON = Thing("person", RIGHT, ("head", "hair", "torso"))
BUS = Thing("bus", parts=("window", "side", "wheel"))
BOAT = Thing("boat", RIGHT)  # None of its classes exists.
DOG = Thing("dog", RIGHT, ("head", "torso", "leg"))  # Unseen, as are bird and sheep.
BIRD = Thing("bird", parts=("wing", "beak"))
UNLABELLED_CAT, UNLABELLED_SHEEP = Thing("cat"), Thing("sheep", RIGHT)

PASCAL_TRAIN: dict[str, list[Thing]] = {
    "2008_000001": [CAT, PERSON],
    "2008_000002": [BUS],
    "2008_000003": [DOG],
    "2008_000005": [CAT, BOAT],
    "2009_000006": [CAT, DOG],
    "2009_000008": [UNLABELLED_CAT],
    "2010_000010": [BUS, PERSON],
    "2010_000011": [BIRD],
}
PASCAL_VAL: dict[str, list[Thing]] = {
    "2008_000004": [CAT, DOG],
    "2008_000007": [BUS],
    "2008_000009": [BOAT],
    "2009_000012": [BIRD, DOG],
    "2010_000013": [PERSON],
    "2010_000014": [UNLABELLED_SHEEP],
    "2010_000015": [CAT, BOAT],
}
PASCAL_16_SHOT = ("2008_000001", "2008_000002", "2008_000003", "2010_000011")

CHAIR = Thing("chair", parts=("back", "seat", "leg"))
CABINET = Thing("cabinet", RIGHT, ("top", "door", "drawer"))
DOOR = Thing("door", RIGHT, ("panel", "knob"))
BENCH = Thing("bench", RIGHT, ("back", "seat"))  # Unseen, as are desk and stool.
DESK = Thing("desk", parts=("top", "leg"))
UNLABELLED_CHAIR, UNLABELLED_STOOL = Thing("chair", RIGHT), Thing("stool")

ADE_TRAIN: dict[str, list[Thing]] = {
    "ADE_train_00000001": [CHAIR, CABINET],
    "ADE_train_00000002": [DOOR],
    "ADE_train_00000007": [CHAIR, BENCH],
    "ADE_train_00000008": [DESK],
    "ADE_train_00000009": [CHAIR, CHAIR.moved(RIGHT)],
    "ADE_train_00000011": [UNLABELLED_CHAIR, DESK],
    "ADE_train_00000012": [UNLABELLED_STOOL],
    "ADE_train_00000013": [CABINET.moved(LEFT), DOOR],
}
ADE_VAL: dict[str, list[Thing]] = {
    "ADE_val_00000001": [CHAIR, BENCH],
    "ADE_val_00000003": [CABINET],
    "ADE_val_00000004": [UNLABELLED_CHAIR],
    "ADE_val_00000005": [DESK, DOOR],
}
ADE_16_SHOT = ("ADE_train_00000001", "ADE_train_00000002", "ADE_train_00000008")


# By supercategory, a part's class in PartImageNet. Of each picture, whose name says its object, the one thing.
TIGER, ICE_BEAR = Thing("tiger", parts=("head", "body", "foot")), Thing("ice bear", RIGHT, ("head", "body", "foot"))
MINIBUS, JEEP = Thing("minibus", RIGHT, ("body", "side mirror", "tier")), Thing("jeep", parts=("body", "tier"))
UNLABELLED_TIGER = Thing("tiger")
SUPERCATEGORIES = {"tiger": "Quadruped", "ice bear": "Quadruped", "minibus": "Car", "jeep": "Car"}
# An English springer, n02102040, is none of the 40 objects; ice bear and jeep are unseen.
PARTIMAGENET_TRAIN: dict[str, Thing] = {
    "n02129604_10": TIGER,
    "n03769881_4": MINIBUS,
    "n02134084_7": ICE_BEAR,
    "n02102040_11": TIGER,
    "n02129604_12": TIGER.moved(RIGHT),
    "n03769881_9": MINIBUS.moved(LEFT),
    "n02129604_13": UNLABELLED_TIGER,
}
PARTIMAGENET_VAL: dict[str, Thing] = {
    "n02129604_2": TIGER,
    "n03594945_3": JEEP,
    "n02134084_5": ICE_BEAR.moved(LEFT),
    "n02102040_6": TIGER,
    "n03769881_8": MINIBUS,
}


def write_pascal_part_116(
    root: Path, train: Mapping[str, Sequence[Thing]] | None = None, val: Mapping[str, Sequence[Thing]] | None = None
) -> Path:
    """Writes PascalPart116 below ``root``, the folder of all data sets, and returns its own folder.

    Objects are classes, not instances, in these maps; the label-count files are left to whoever uses the
    folder first, as in the download.
    """
    folder = root / "PascalPart116"
    names = _Names("pascal_part_116")
    pictures = {"train": PASCAL_TRAIN if train is None else train, "val": PASCAL_VAL if val is None else val}
    for split, split_pictures in pictures.items():
        images = folder / "images" / split
        objects, parts = (folder / f"annotations_detectron2_{kind}" / split for kind in ("obj", "part"))
        for stem, things in split_pictures.items():
            object_map, part_map = names.maps(things)
            _save(images / f"{stem}.jpg", names.paint(object_map, part_map))
            _save(objects / f"{stem}.png", object_map.astype(np.uint8))
            _save(parts / f"{stem}.png", part_map.astype(np.uint8))
        for used, suffix in ((images, "jpg"), (objects, "png"), (parts, "png")):
            write_litter(used, f"{next(iter(split_pictures))}.{suffix}")
    _write_16_shot(folder, "datasets/PascalPart116/images/train", [s for s in PASCAL_16_SHOT if s in pictures["train"]])
    return folder


def write_ade20k_part_234(
    root: Path, train: Mapping[str, Sequence[Thing]] | None = None, val: Mapping[str, Sequence[Thing]] | None = None
) -> Path:
    """Writes ADE20KPart234 below ``root`` and returns its own folder. Instances are polygons and both kinds of RLE."""
    folder = root / "ADE20KPart234"
    names = _Names("ade20k_part_234")
    pictures = {"training": ADE_TRAIN if train is None else train, "validation": ADE_VAL if val is None else val}
    for split, split_pictures in pictures.items():
        images, parts = folder / "images" / split, folder / "annotations_detectron2_part" / split
        coco: dict[str, Any] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": i, "name": name} for i, name in enumerate(names.objects)],
        }
        for position, (stem, things) in enumerate(split_pictures.items()):
            object_map, part_map = names.maps(things)
            _save(images / f"{stem}.jpg", names.paint(object_map, part_map))
            _save(parts / f"{stem}.png", part_map.astype(np.uint16))
            image = {"id": 10 * position + 3, "file_name": f"{stem}.jpg", "height": HEIGHT, "width": WIDTH}
            coco["images"].append(image)
            for thing in things:
                number = len(coco["annotations"])
                coco["annotations"].append(
                    {
                        "id": number + 1,
                        "image_id": image["id"],
                        "category_id": names.objects.index(thing.name),
                        "bbox": list(thing.box),
                        "area": thing.box[2] * thing.box[3],
                        "iscrowd": 0,
                        "segmentation": _segmentation(thing.box, number),
                        "part_category_id": [names.classes.index(f"{thing.name}'s {p}") for p in thing.parts],
                    }
                )
        short = {"training": "train", "validation": "val"}[split]
        (folder / f"ade20k_instance_{short}.json").write_text(json.dumps(coco))
        for used, suffix in ((images, "jpg"), (parts, "png")):
            write_litter(used, f"{next(iter(split_pictures))}.{suffix}")
    _write_16_shot(
        folder, "datasets/ADE20KPart234/images/training", [s for s in ADE_16_SHOT if s in pictures["training"]]
    )
    return folder


def write_partimagenet(root: Path) -> Path:
    """Writes PartImageNet, as it unpacks from PartImageNet_Seg.zip, below ``root`` and returns its own folder."""
    folder = root / "PartImageNet"
    names, forty = _Names("partimagenet_147"), yaml.safe_load((VOCABULARIES / "partimagenet.yaml").read_text())
    ids = {entry["name"].lower(): entry["id"] for entry in forty["classes"]}
    for split, pictures in {"train": PARTIMAGENET_TRAIN, "val": PARTIMAGENET_VAL}.items():
        images, labels = folder / "images" / split, folder / "annotations" / split
        categories = [{key: entry[key] for key in ("id", "name", "supercategory")} for entry in forty["classes"]]
        coco: dict[str, Any] = {"images": [], "annotations": [], "categories": categories}
        for image_id, (stem, thing) in enumerate(pictures.items()):
            object_map, part_map = names.maps([thing])
            _save(images / f"{stem}.JPEG", names.paint(object_map, part_map))
            coco["images"].append({"id": image_id, "file_name": f"{stem}.JPEG", "height": HEIGHT, "width": WIDTH})
            stored = np.full((HEIGHT, WIDTH), 40, np.uint8)
            for part in thing.parts:
                category_id = ids[f"{SUPERCATEGORIES[thing.name]} {part}".lower()]
                shown = part_map == names.classes.index(f"{thing.name}'s {part}")
                stored[shown] = category_id
                for box in cv2.connectedComponentsWithStats(shown.astype(np.uint8))[2][1:, :4].tolist():
                    number = len(coco["annotations"])
                    annotation = {"id": number, "image_id": image_id, "category_id": category_id, "iscrowd": 0}
                    annotation |= {"bbox": box, "area": box[2] * box[3], "segmentation": _segmentation(box, number)}
                    coco["annotations"].append(annotation)
            _save(labels / f"{stem}.png", stored)
            _save(
                folder / "annotations" / f"{split}_whole" / f"{stem}.png", np.where(stored == 40, 158, 3).astype("u1")
            )
            (labels / f"{stem}.json").write_text(json.dumps({"imgHeight": HEIGHT, "imgWidth": WIDTH}))
        (labels / f"{split}.json").write_text(json.dumps(coco))
        write_litter(images, f"{next(iter(pictures))}.JPEG")
        write_litter(labels, f"{split}.json", f"{next(iter(pictures))}.png")
    return folder


def write_litter(folder: Path, *names: str) -> None:
    """What archives packed on a Mac leave beside real files."""
    for name in (".DS_Store", *(f"._{name}" for name in names)):
        (folder / name).write_bytes(b"\x00\x05\x16\x07 not what the name says")


class _Names:
    """A vocabulary's names in the order of their ids, and pictures of them."""

    def __init__(self, vocabulary: str) -> None:
        content = yaml.safe_load((VOCABULARIES / f"{vocabulary}.yaml").read_text())
        self.objects: list[str] = [entry["name"] for entry in content["objects"]]
        self.classes: list[str] = [entry["name"] for entry in content["classes"]]
        self.ignore: int = content["ignore_label"]

    def maps(self, things: Sequence[Thing]) -> tuple[np.ndarray, np.ndarray]:
        """int64 object map and part map. Each part is a band; legs and wheels come in two pieces."""
        object_map = np.full((HEIGHT, WIDTH), self.ignore)
        part_map = object_map.copy()
        for thing in things:
            x, y, width, height = thing.box
            object_map[y : y + height, x : x + width] = self.objects.index(thing.name)
            # Around the parts, two pixels of the object have no part label.
            band = (height - 4) // max(1, len(thing.parts))
            for position, part in enumerate(thing.parts):
                rows = slice(y + 2 + position * band, y + 2 + (position + 1) * band)
                class_id = self.classes.index(f"{thing.name}'s {part}")
                part_map[rows, x + 2 : x + width - 2] = class_id
                if part in ("leg", "wheel", "foot", "tier"):
                    part_map[rows, x + 9 : x + width - 9] = self.ignore
        return object_map, part_map

    def paint(self, object_map: np.ndarray, part_map: np.ndarray) -> np.ndarray:
        """uint8 RGB [H, W, 3]: dark background, light objects, coloured parts."""
        pixels = np.full((*part_map.shape, 3), 40, np.uint8)
        pixels[object_map != self.ignore] = 225
        for class_id in set(np.unique(part_map).tolist()) - {self.ignore}:
            pixels[part_map == class_id] = class_colour(self.classes[class_id])
        return pixels


def class_colour(name: str) -> tuple[int, int, int]:
    """RGB of a class of the pictures: hues at even distances, in the order of the benchmark's classes painted."""
    painted = next(names for names in _PAINTED if name in names)
    position = painted.index(name)
    hue, value = position / len(painted), (1.0, 0.65)[position % 2]
    red, green, blue = (round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, 0.9, value))
    return red, green, blue


_PAINTED = [
    [f"{thing.name}'s {part}" for thing in things for part in thing.parts]
    for things in (
        (CAT, PERSON, BUS, DOG, BIRD, CHAIR, CABINET, DOOR, BENCH, DESK),
        (TIGER, ICE_BEAR, MINIBUS, JEEP),
    )
]


def _segmentation(box: Sequence[int], number: int) -> Any:
    x, y, width, height = box
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + height, x : x + width] = True
    if number % 3 == 0:
        return [[x, y, x + width, y, x + width, y + height, x, y + height]]
    if number % 3 == 1:
        return mask_to_rle(mask)
    # Uncompressed: run lengths column by column, beginning outside.
    runs, inside = [0], False
    for value in mask.T.reshape(-1).tolist():
        if value != inside:
            runs.append(0)
            inside = value
        runs[-1] += 1
    return {"size": [HEIGHT, WIDTH], "counts": runs}


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".jpg", ".JPEG"):
        Image.fromarray(pixels).save(path, quality=95, subsampling=0)
    else:
        # uint16 becomes the mode I;16, as in the download.
        Image.fromarray(pixels).save(path)


def _write_16_shot(folder: Path, images: str, stems: Sequence[str]) -> None:
    # Paths of the makers' machine: they begin with "datasets" wherever the data lies.
    entries = [{"file_name": f"{images}/{stem}.jpg", "height": HEIGHT, "width": WIDTH} for stem in stems]
    (folder / "train_16shot.json").write_text(json.dumps(entries))
