"""Pascal-Part-116 and ADE20K-Part-234 as OV-PARTS (NeurIPS 2023, data sets track) releases them, and PartImageNet as
PartCLIPSeg (NeurIPS 2024) adds it to them.

Classes are parts of objects ("dog's ear"). The zero-shot split trains on the parts of seen objects and tests on all.
One record is an image, or one object of an image. The label maps number all classes of the benchmark; a
zero-shot training set numbers its seen ones consecutively. Loaders open no image and no label map: what they must know
of the maps they read from derived files beside them, which are made on first use.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from wps_sam.checkpointer import write_atomically
from wps_sam.data.sources.coco import base_name, is_litter, load_coco_parts, load_vocabulary, read_vocabulary
from wps_sam.data.sources.fields import mapping_of, read_json, text
from wps_sam.masks import annotation_mask, mask_to_rle, read_label_png
from wps_sam.vocabulary import PartVocabulary, object_of_part

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

logger = logging.getLogger(__name__)

Record = dict[str, Any]
PASCAL_FOLDER, ADE_FOLDER, PARTIMAGENET_FOLDER = "PascalPart116", "ADE20KPart234", "PartImageNet"
FEW_SHOT_FILE = "train_16shot.json"
_PARTS, _OBJECTS = "annotations_detectron2_part", "annotations_detectron2_obj"
_HOW_TO_DRAW = "datasets/prepare_ov_parts.py --draw-16-shot makes one of your own"
# ADE20K calls its folders otherwise than its json files.
_ADE_FOLDERS = {"train": "training", "val": "validation"}


@dataclass(frozen=True)
class OVSet:
    """One data set of a benchmark.

    ``record``: what one record is; ``classes``: which the set shows (the rest reads as ignore); ``few_shot``: whether
    it belongs to the few-shot task, which trains on the images of the 16-shot list and sees every class.
    """

    split: Literal["train", "val"]
    record: Literal["image", "object"]
    classes: Literal["seen", "all"]
    few_shot: bool = False


@lru_cache
def load_ov_vocabulary(family: str) -> PartVocabulary:
    """The vocabulary of a benchmark, such as "pascal_part_116", with all objects; pixels without part are ignored."""
    classes, objects = load_vocabulary(family), read_vocabulary(family)["objects"]
    names = tuple(entry["name"] for entry in objects)
    return replace(
        classes,
        object_names=names,
        part_objects=tuple(names.index(object_of_part(name)) for name in classes.names),
        # Boats, of which no part has a class, are seen all the same.
        unseen_objects=frozenset(i for i, entry in enumerate(objects) if not entry["seen"]),
        background_ids=(),
    )


def ov_metadata(vocabulary: PartVocabulary, ov_set: OVSet) -> dict[str, Any]:
    """What MetadataCatalog has to know of a data set of objects with parts; see datasets/README.md for the fields."""
    shown = vocabulary.only_seen() if ov_set.classes == "seen" else vocabulary
    if ov_set.few_shot:
        # A task of its own: what the zero-shot split calls unseen has been seen in few-shot training.
        shown = replace(shown, unseen=frozenset(), family=f"{vocabulary.family}_few_shot")
    return {
        **shown.metadata(),
        **seen_flags(shown),
        **(numbers_in_training(vocabulary) if ov_set.classes == "seen" else {}),
        "evaluator_type": "sem_seg",
        "protocols": ("ov_oracle",) if ov_set.record == "object" else ("pred_obj", "pred_all"),
    }


def seen_flags(vocabulary: PartVocabulary) -> dict[str, Any]:
    """OV-PARTS' two metadata fields that say which classes are seen, where all of them may be."""
    return {
        "evaluation_set": {"base": list(vocabulary.seen_ids)},
        "trainable_flag": [int(c not in vocabulary.unseen) for c in range(len(vocabulary))],
    }


def numbers_in_training(vocabulary: PartVocabulary) -> dict[str, Any]:
    """OV-PARTS' two metadata fields that say which numbers seen classes and objects get in zero-shot training.

    Object ids are those of the full list in records and in the other fields. OV-PARTS' code builds obj_map from the
    list of parts by mistake, so that Pascal loses all objects from dog on.
    """
    seen_objects = [i for i in range(len(vocabulary.object_names)) if i not in vocabulary.unseen_objects]
    return {"obj_part_map": vocabulary.seen_ids, "obj_map": {full: i for i, full in enumerate(seen_objects)}}


def load_pascal_part_116(root: str, ov_set: OVSet) -> list[Record]:
    """The records of a data set of Pascal-Part-116 in ``root``/PascalPart116.

    A record holds file_name, image_id, sem_seg_file_name, obj_sem_seg_file_name; category_id if it is of one object;
    height, width and annotations (the connected pieces of each class, in Detectron2's form) if it is an image to
    train on. Records without a pixel of any class are left out: OV-PARTS' code puts random others in their place.

    Raises:
        ValueError: names the folder or file that is missing or wrong, or cannot be written.
    """
    folder, vocabulary = Path(root) / PASCAL_FOLDER, load_ov_vocabulary("pascal_part_116")
    images = _pascal_images(folder, ov_set.split)
    if ov_set.record == "image" and ov_set.split == "train":
        _annotate(images, folder, vocabulary, ov_set)
    if ov_set.few_shot:
        images, _ = _split_by_few_shot(folder, images)
    kept = set(_class_ids(vocabulary, ov_set))
    part_labels, object_labels = (_pascal_label_count(folder, ov_set.split, kind) for kind in ("part", "obj"))
    records: list[Record] = []
    empty: list[Record] = []
    for image in images:
        key = os.path.basename(image["sem_seg_file_name"])
        labels = kept & set(part_labels[key])
        if ov_set.record == "image":
            (records if labels else empty).append(image)
            continue
        objects_with_parts = {vocabulary.part_objects[label] for label in labels}
        for category_id in object_labels[key]:
            chosen = records if category_id in objects_with_parts else empty
            image_id = f"{image['image_id']}_{category_id}"
            chosen.append({**image, "image_id": image_id, "category_id": category_id})
    _log_loaded(folder, ov_set, records, empty, vocabulary)
    return records


def load_ade20k_part_234(root: str, ov_set: OVSet) -> list[Record]:
    """The records of a data set of ADE20K-Part-234 in ``root``/ADE20KPart234.

    As :func:`load_pascal_part_116`; also height, width and obj_annotations, the object instances in COCO's form with
    part_labels, the part classes in their masks: the record's own instance, all of an image to train on, or those of
    an image that are tested and have parts.
    The test set is the whole val split, and the unseen objects of the training images; the few-shot test set leaves
    out the images of the 16-shot list.
    """
    folder, vocabulary = Path(root) / ADE_FOLDER, load_ov_vocabulary("ade20k_part_234")
    images = _ade_images(folder, "train", vocabulary)
    if ov_set.record == "image" and ov_set.split == "train":
        _annotate(images, folder, vocabulary, ov_set)
    listed, others = _split_by_few_shot(folder, images) if ov_set.few_shot else ([], images)
    if ov_set.split == "val":
        images = [*_ade_images(folder, "val", vocabulary), *_with_unseen_objects(others, vocabulary)]
    elif ov_set.few_shot:
        images = listed
    kept = set(_class_ids(vocabulary, ov_set))
    records: list[Record] = []
    empty: list[Record] = []
    for image in images:
        if ov_set.record == "object":
            for instance in image["obj_annotations"]:
                record = {
                    **image,
                    "image_id": f"{image['image_id']}_{instance['id']}",
                    "category_id": instance["category_id"],
                    "obj_annotations": [instance],
                }
                (empty if kept.isdisjoint(instance["part_labels"]) else records).append(record)
        elif ov_set.split == "train":
            (records if image["annotations"] else empty).append(image)
        else:
            with_parts = [a for a in image["obj_annotations"] if not kept.isdisjoint(a["part_labels"])]
            (records if with_parts else empty).append({**image, "obj_annotations": with_parts})
    _log_loaded(folder, ov_set, records, empty, vocabulary)
    return records


def load_partimagenet_147(root: str, ov_set: OVSet) -> list[Record]:
    """The records of a data set of 40 objects of PartImageNet, of its packaging Seg in ``root``/PartImageNet.

    A picture shows one object, by the WNID that its name begins with; those of other objects are left out, and so are
    those of unseen objects where ``ov_set`` shows seen classes only. There are no label maps: a record holds height,
    width, annotations and obj_annotations, all of its parts together as the one object of the picture, and both maps
    are painted from these. Otherwise as :func:`load_pascal_part_116`.

    Source: PartCLIPSeg, which deletes the other pictures from the folder, and paints parts in the json's order.
    """
    folder, vocabulary = Path(root) / PARTIMAGENET_FOLDER, load_ov_vocabulary("partimagenet_147")
    objects = {entry["wnid"]: entry["id"] for entry in read_vocabulary("partimagenet_147")["objects"]}
    class_ids = _class_ids(vocabulary, ov_set)
    shown = {vocabulary.part_objects[c] for c in class_ids}
    json_file = str(folder / "annotations" / ov_set.split / f"{ov_set.split}.json")
    parts = load_vocabulary("partimagenet")
    records: list[Record] = []
    empty: list[Record] = []
    for image in load_coco_parts(str(folder / "images" / ov_set.split), json_file, parts):
        stem = os.path.splitext(os.path.basename(image["file_name"]))[0]
        category_id = objects.get(stem.split("_")[0])
        if category_id not in shown:
            continue
        # Of PartImageNet's 40 classes, which are others.
        image.pop("tags", None)
        for annotation in image["annotations"]:
            part, owner = parts.names[annotation["category_id"]], vocabulary.object_names[category_id]
            name = f"{owner}'s {part.removeprefix(parts.supercategories[annotation['category_id']]).strip().lower()}"
            if name not in vocabulary.names:
                raise ValueError(
                    f"{json_file}: annotation {annotation['id']}: category_id: {stem} shows {owner!r}, which has no "
                    f"part {part!r}"
                )
            annotation["category_id"] = class_ids[vocabulary.names.index(name)]
        with_mask = [a for a in image["annotations"] if "segmentation" in a]
        whole = {"id": image["image_id"], "category_id": category_id, "iscrowd": 0}
        if with_mask:
            whole["segmentation"] = _union(image, with_mask)
        image |= {"image_id": stem, "obj_sem_seg_file_name": "NA", "obj_annotations": [whole]}
        if ov_set.record == "object":
            image |= {"image_id": f"{stem}_{category_id}", "category_id": category_id}
        (records if with_mask else empty).append(image)
    _log_loaded(folder, ov_set, records, empty, vocabulary)
    return records


def _union(record: Record, annotations: Sequence[Mapping[str, Any]]) -> Any:
    """One segmentation of all annotations of a picture."""
    segmentations = [annotation["segmentation"] for annotation in annotations]
    if all(isinstance(polygons, list) for polygons in segmentations):
        return [polygon for polygons in segmentations for polygon in polygons]
    return mask_to_rle(np.logical_or.reduce([annotation_mask(record, a) for a in annotations]))


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Args:
        folder: below the root of all data sets.
        family: its vocabulary.
        split_folders: the name of each split's folder.
        load: makes the records of one of its data sets.
        labels: the folder of the part labels.
        few_shot: whether it has the few-shot task.
    """

    folder: str
    family: str
    split_folders: Mapping[str, str]
    load: Callable[[str, OVSet], list[Record]]
    labels: str = _PARTS
    few_shot: bool = True


_SPLIT_FOLDERS = {"train": "train", "val": "val"}
PASCAL_PART_116 = Benchmark(PASCAL_FOLDER, "pascal_part_116", _SPLIT_FOLDERS, load_pascal_part_116)
ADE20K_PART_234 = Benchmark(ADE_FOLDER, "ade20k_part_234", _ADE_FOLDERS, load_ade20k_part_234)
PARTIMAGENET_147 = Benchmark(
    PARTIMAGENET_FOLDER, "partimagenet_147", _SPLIT_FOLDERS, load_partimagenet_147, labels="annotations", few_shot=False
)


def register_ov_set(name: str, root: str, benchmark: Benchmark, ov_set: OVSet) -> None:
    """Registers one data set with Detectron2's catalogs; files are read when it is first used."""
    DatasetCatalog.register(name, lambda: benchmark.load(root, ov_set))
    folder = Path(root) / benchmark.folder
    split_folder = benchmark.split_folders[ov_set.split]
    MetadataCatalog.get(name).set(
        image_root=str(folder / "images" / split_folder),
        sem_seg_root=str(folder / benchmark.labels / split_folder),
        **ov_metadata(load_ov_vocabulary(benchmark.family), ov_set),
    )


def prepare(root: str, benchmark: Benchmark, draw_seed: int | None = None) -> None:
    """Makes every derived file of a benchmark and loads all of it, which logs what it holds.

    Args:
        root: the folder of all data sets.
        draw_seed: also draw a train_16shot.json with this seed. One that is there is never overwritten.

    Raises:
        ValueError: names what is wrong with the layout.
    """
    few_shot_file = Path(root) / benchmark.folder / FEW_SHOT_FILE
    if draw_seed is not None and not benchmark.few_shot:
        raise ValueError(f"{benchmark.folder}: expected no list to draw, as it has no few-shot task")
    if draw_seed is not None and few_shot_file.exists():
        raise ValueError(f"{few_shot_file}: exists already; move it away before drawing another")
    benchmark.load(root, OVSet("train", "image", "all"))
    benchmark.load(root, OVSet("val", "image", "all"))
    benchmark.load(root, OVSet("val", "object", "all"))
    objects = benchmark.load(root, OVSet("train", "object", "all"))
    if draw_seed is not None:
        entries = draw_few_shot(objects, draw_seed)
        _write_json(few_shot_file, lambda: entries)
        logger.info("%s: drew %d images with the seed %d", few_shot_file, len(entries), draw_seed)
    if not benchmark.few_shot:
        return
    if few_shot_file.exists():
        benchmark.load(root, OVSet("train", "object", "all", few_shot=True))
    else:
        logger.warning("%s: does not exist; only the few-shot data sets need it", few_shot_file)


def draw_few_shot(records: Iterable[Mapping[str, Any]], seed: int, shots: int = 16) -> list[dict[str, str]]:
    """A 16-shot list of one's own: of each object class ``shots`` random images with its parts, or all there are.

    How OV-PARTS drew its lists is not published.

    Args:
        records: of one object each, with file_name and category_id.

    Returns:
        The content of train_16shot.json, sorted. An image that was drawn for several objects is in it once.
    """
    images: dict[int, set[str]] = {}
    for record in records:
        images.setdefault(record["category_id"], set()).add(os.path.basename(record["file_name"]))
    rng = np.random.default_rng(seed)
    drawn: set[str] = set()
    for category_id in sorted(images):
        names = sorted(images[category_id])
        drawn.update(rng.choice(names, min(shots, len(names)), replace=False).tolist())
    return [{"file_name": name} for name in sorted(drawn)]


def find_parts(records: Sequence[Mapping[str, Any]], vocabulary: PartVocabulary) -> dict[str, Any]:
    """A COCO file of part instances: the 8-connected pieces of each class in the records' part maps.

    The maps are semantic, so that pieces are the nearest thing to instances. Boxes are XYWH in pixels, tight.

    Raises:
        ValueError: names a label map that is missing, damaged, or has a value outside the vocabulary.
    """
    coco: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [
            {"id": i, "name": name, "supercategory": supercategory}
            for i, (name, supercategory) in enumerate(zip(vocabulary.names, vocabulary.supercategories))
        ],
    }
    for image_id, record in enumerate(records):
        part_map = read_label_png(record["sem_seg_file_name"])
        height, width = part_map.shape
        name = os.path.basename(record["file_name"])
        coco["images"].append({"id": image_id, "file_name": name, "height": height, "width": width})
        for class_id in _labels_in(part_map, vocabulary.ignore_label, len(vocabulary), record["sem_seg_file_name"]):
            num_pieces, pieces, stats, _ = cv2.connectedComponentsWithStats(
                (part_map == class_id).astype(np.uint8), connectivity=8
            )
            for piece in range(1, num_pieces):
                *box, area = stats[piece].tolist()
                coco["annotations"].append(
                    {
                        "id": len(coco["annotations"]) + 1,
                        "image_id": image_id,
                        "category_id": class_id,
                        "bbox": box,
                        "area": area,
                        "iscrowd": 0,
                        "segmentation": mask_to_rle(pieces == piece),
                    }
                )
    return coco


def count_labels(folder: Path, ignore_label: int, num_labels: int) -> dict[str, list[int]]:
    """OV-PARTS' label count: by the name of every PNG of a folder, the sorted values in it but ``ignore_label``."""
    return {
        name: _labels_in(read_label_png(str(folder / name)), ignore_label, num_labels, str(folder / name))
        for name in _files(folder, ".png")
    }


def _labels_in(label_map: np.ndarray, ignore_label: int, num_labels: int, where: str) -> list[int]:
    labels = [value for value in np.unique(label_map).tolist() if value != ignore_label]
    if labels and labels[-1] >= num_labels:
        raise ValueError(
            f"label map {where}: unknown value {labels[-1]}; expected 0..{num_labels - 1} or {ignore_label} (ignore)"
        )
    return labels


def _class_ids(vocabulary: PartVocabulary, ov_set: OVSet) -> dict[int, int]:
    """The classes that a data set shows, each with its id there."""
    return vocabulary.seen_ids if ov_set.classes == "seen" else {c: c for c in range(len(vocabulary))}


def _pascal_images(folder: Path, split: str) -> list[Record]:
    """One record for every image of a split that has both label maps."""
    # Never by replacing "part" in a path: the folders above may be called ...part... as well.
    folders = {
        "file_name": folder / "images" / split,
        "sem_seg_file_name": folder / _PARTS / split,
        "obj_sem_seg_file_name": folder / _OBJECTS / split,
    }
    by_stem = {}
    for key, place in folders.items():
        suffix = ".jpg" if key == "file_name" else ".png"
        by_stem[key] = {os.path.splitext(name)[0]: str(place / name) for name in _files(place, suffix)}
    common = sorted(set.intersection(*map(set, by_stem.values())))
    counts = {str(folders[key]): len(names) for key, names in by_stem.items()}
    if any(count != len(common) for count in counts.values()):
        logger.warning("the files do not match: %s; used are the %d stems in all of them", counts, len(common))
    if not common:
        raise ValueError(f"{folder}: expected images with label maps of the same names, got {counts}")
    return [{"image_id": stem, **{key: by_stem[key][stem] for key in folders}} for stem in common]


def _ade_images(folder: Path, split: str, vocabulary: PartVocabulary) -> list[Record]:
    """One record for every image of the split's instance json, with its objects as obj_annotations."""
    json_file = str(folder / f"ade20k_instance_{split}.json")
    place = _ADE_FOLDERS[split]
    # The json's ids are the vocabulary's: names and ids that differ are an error, and nothing is renumbered.
    objects = PartVocabulary.from_names(vocabulary.object_names)
    records = load_coco_parts(str(folder / "images" / place), json_file, objects)
    for record in records:
        stem = os.path.splitext(os.path.basename(record["file_name"]))[0]
        # Of objects, while the tags of a record are of part classes.
        record.pop("tags", None)
        record.update(
            image_id=stem,
            sem_seg_file_name=str(folder / _PARTS / place / f"{stem}.png"),
            obj_sem_seg_file_name="NA",
            obj_annotations=[a for a in record.pop("annotations") if "segmentation" in a],
        )
    path = folder / _PARTS / f"{split}_instance_label_count.json"
    labels = _label_counts(path, len(vocabulary), lambda: _count_instance_labels(records, vocabulary))
    for record in records:
        for instance in record["obj_annotations"]:
            instance["part_labels"] = labels[str(instance["id"])]
    return records


def _count_instance_labels(records: Iterable[Record], vocabulary: PartVocabulary) -> dict[str, list[int]]:
    """As :func:`count_labels`, for the mask of each object instance, by its annotation id."""
    counts = {}
    for record in records:
        part_map = read_label_png(record["sem_seg_file_name"], record)
        for instance in record["obj_annotations"]:
            counts[str(instance["id"])] = _labels_in(
                part_map[annotation_mask(record, instance)],
                vocabulary.ignore_label,
                len(vocabulary),
                record["sem_seg_file_name"],
            )
    return counts


def _with_unseen_objects(images: Iterable[Record], vocabulary: PartVocabulary) -> list[Record]:
    """The images that show unseen objects, with these alone."""
    found = []
    for image in images:
        unseen = [a for a in image["obj_annotations"] if a["category_id"] in vocabulary.unseen_objects]
        if unseen:
            found.append({**image, "obj_annotations": unseen})
    return found


def _annotate(images: list[Record], folder: Path, vocabulary: PartVocabulary, ov_set: OVSet) -> None:
    """Gives all training images height, width and the annotations of the classes that ``ov_set`` shows."""
    path = _made(folder / _PARTS / "train_parts.json", lambda: find_parts(images, vocabulary))
    image_root = os.path.dirname(images[0]["file_name"])
    found = {r["file_name"]: r for r in load_coco_parts(image_root, str(path), vocabulary)}
    class_ids = _class_ids(vocabulary, ov_set)
    for image in images:
        if image["file_name"] not in found:
            raise ValueError(f"{path}: has no entry of {image['file_name']}: delete it, and it is made anew")
        parts = found[image["file_name"]]
        image.update(
            height=parts["height"],
            width=parts["width"],
            annotations=[
                {**a, "category_id": class_ids[a["category_id"]]}
                for a in parts["annotations"]
                if a["category_id"] in class_ids
            ],
        )


def _pascal_label_count(folder: Path, split: str, kind: Literal["part", "obj"]) -> dict[str, list[int]]:
    """The label count of a split's part or object maps; both lie beside the part maps, as OV-PARTS wants it."""
    vocabulary = load_ov_vocabulary("pascal_part_116")
    maps = folder / (_PARTS if kind == "part" else _OBJECTS) / split
    num_labels = len(vocabulary.names if kind == "part" else vocabulary.object_names)
    path = folder / _PARTS / f"{split}_{kind}_label_count.json"
    return _label_counts(path, num_labels, lambda: count_labels(maps, vocabulary.ignore_label, num_labels))


def _split_by_few_shot(folder: Path, images: Iterable[Record]) -> tuple[list[Record], list[Record]]:
    """The images in the 16-shot list and the others, told apart by their base names.

    The list holds paths of its makers' machine, which begin with "datasets" wherever the data lies.
    """
    path = folder / FEW_SHOT_FILE
    if not os.path.isfile(path):
        raise ValueError(f"{path}: the file does not exist; {_HOW_TO_DRAW}")
    entries = read_json(path, "16-shot list")
    if not isinstance(entries, list):
        raise ValueError(f"{path}: expected a list of entries with file_name, got {type(entries).__name__}")
    names = {base_name(text(entry, "file_name", f"{path}: [{i}]")) for i, entry in enumerate(entries)}
    listed: list[Record] = []
    others: list[Record] = []
    for image in images:
        (listed if os.path.basename(image["file_name"]) in names else others).append(image)
    if not listed:
        raise ValueError(f"{path}: none of its {len(names)} images is among those in {folder / 'images'}")
    if len(listed) < len(names):
        logger.warning("%s: %d of its %d images do not exist", path, len(names) - len(listed), len(names))
    return listed, others


def _files(folder: Path, suffix: str) -> list[str]:
    """The sorted names of the files with ``suffix``; without what macOS leaves in archives."""
    if not os.path.isdir(folder):
        raise ValueError(f"{folder}: expected a folder, but it does not exist; see datasets/README.md for the layout")
    names = sorted(n for n in os.listdir(folder) if n.lower().endswith(suffix) and not is_litter(n))
    if not names:
        raise ValueError(f"{folder}: expected {suffix} files, found none")
    return names


def _made(path: Path, make: Callable[[], dict[str, Any]]) -> Path:
    """``path``, a file that is made from the data set, by ``make`` if it does not exist yet."""
    if not os.path.isfile(path):
        logger.info("%s: made now; this is done once and may take minutes", path)
        _write_json(path, make)
    return path


def _label_counts(path: Path, num_labels: int, make: Callable[[], dict[str, Any]]) -> dict[str, list[int]]:
    """A made file of labels 0..``num_labels`` - 1 by name. An entry that it lacks is an error that says what to do."""

    def are_labels(value: Any) -> bool:
        return isinstance(value, list) and all(type(label) is int and 0 <= label < num_labels for label in value)

    path = _made(path, make)
    try:
        content = read_json(path, "label count")
        return _Derived(path, mapping_of(content, str(path), are_labels, f"a list of labels 0..{num_labels - 1}"))
    except ValueError as error:
        raise ValueError(f"{error}; delete the file, and it is made anew") from error


class _Derived(dict[str, Any]):
    """A derived file's content, which says so where it is older than the data set."""

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        super().__init__(content)
        self._path = path

    def __missing__(self, key: str) -> Any:
        raise ValueError(f"{self._path}: has no entry {key!r}: made from other data; delete it, and it is made anew")


def _write_json(path: Path, make: Callable[[], Any]) -> None:
    """Writes what ``make`` returns; it is not called if the file cannot be written."""
    try:
        write_atomically(path, lambda file: file.write(json.dumps(make()).encode()))
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be written ({error}); let somebody who may write there run "
            "datasets/prepare_ov_parts.py once"
        ) from error


def _log_loaded(
    folder: Path, ov_set: OVSet, records: Sequence[Record], empty: Sequence[Record], vocabulary: PartVocabulary
) -> None:
    logger.info(
        "%s: %d records of %s, one %s each, %s classes%s",
        *(folder, len(records), ov_set.split, ov_set.record, ov_set.classes),
        ", few-shot" if ov_set.few_shot else "",
    )
    if not empty:
        return
    by_object = Counter(vocabulary.object_names[r["category_id"]] for r in empty if "category_id" in r)
    logger.info(
        "%s: %d records left out that could never count, as no pixel of them is of a class%s",
        *(folder, len(empty), f": {dict(by_object.most_common())}" if by_object else ""),
    )
