"""Loaders for part data sets in two layouts: paths and labels only, no image is opened here.

``partimagenet`` is PartImageNet's own layout, in both of its packagings (Seg and OOD); ``coco`` is a folder of
images with one COCO json. Whatever the ids of the json are, class c is 0..C-1 and background is C in a record.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from wps_sam.data.weak_labels import usable_box
from wps_sam.masks import mask_to_box, read_label_png, segmentation_to_mask, valid_polygons
from wps_sam.vocabulary import PartVocabulary

import numpy as np
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

logger = logging.getLogger(__name__)

Layout = Literal["partimagenet", "coco"]
LAYOUTS: tuple[Layout, ...] = ("partimagenet", "coco")
VOCABULARIES = Path(__file__).resolve().parents[1] / "vocabularies"

# Converters such as labelme2coco list the background among the categories; it is never a part.
_BACKGROUND_NAMES = frozenset({"_background_", "__background__", "background"})
_NO_SUPERCATEGORY = "object"
# Length of an ImageNet class id (WNID) such as n01440764, the name of OOD's image folders.
_WNID_LENGTH = 9
# Annotations named in the warning about broken ones; the rest is only counted.
_NUM_EXAMPLES = 5


@lru_cache
def read_vocabulary(name: str) -> dict[str, Any]:
    """The content of wps_sam/data/vocabularies/{name}.yaml, to be left as it is: it is read once."""
    # Importing the package reads all of them, and libyaml, where it is there, is ten times as fast.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with open(VOCABULARIES / f"{name}.yaml", encoding="utf-8") as file:
        return yaml.load(file, loader)


@lru_cache
def load_vocabulary(name: str) -> PartVocabulary:
    """The published class list ``name`` from wps_sam/data/vocabularies; supercategories are the objects."""
    content = read_vocabulary(name)
    classes = content["classes"]
    vocabulary = _vocabulary([(c["name"], c["supercategory"], c["id"]) for c in classes], background_ids=())
    position = {c["id"]: i for i, c in enumerate(classes)}
    is_sided = any("flip" in c for c in classes)
    return replace(
        vocabulary,
        ignore_label=content.get("ignore_label", vocabulary.ignore_label),
        flip_map=tuple(position[c.get("flip", c["id"])] for c in classes) if is_sided else None,
        family=name,
    ).with_unseen(i for i, c in enumerate(classes) if not c.get("seen", True))


def load_coco_vocabulary(json_file: str, names: Sequence[str] | None = None) -> PartVocabulary:
    """The part classes of a COCO json: its categories in the order of their ids; supercategories are the objects.

    A background category is left out, and a class need not have annotations.

    Args:
        json_file: the COCO file.
        names: the class names in the order of the class ids 0..C-1, if that is not the order of the
            json's ids. Every category of the json must be among them; they may name more.

    Raises:
        ValueError: names the file and what is wrong with its categories.
    """
    categories = _read_categories(_read_coco(json_file), json_file)
    background_ids = tuple(i for i, (name, _) in categories.items() if _is_background(name))
    parts = {i: pair for i, pair in categories.items() if i not in background_ids}
    if names is None:
        if not parts:
            raise ValueError(f"{json_file}: categories: expected at least one part class, got none")
        return _vocabulary([(*parts[i], i) for i in sorted(parts)], background_ids)
    by_name = {_fold(name): (supercategory, i) for i, (name, supercategory) in parts.items()}
    unknown = [pair[0] for pair in parts.values() if _fold(pair[0]) not in {_fold(name) for name in names}]
    if unknown:
        raise ValueError(f"{json_file}: categories: {unknown} are not among the given classes {list(names)}")
    # A class that this json lacks keeps its place as id, unless another category has taken it.
    taken = set(categories)
    rows = []
    for position, name in enumerate(names):
        supercategory, dataset_id = by_name.get(_fold(name), (_NO_SUPERCATEGORY, None))
        if dataset_id is None:
            dataset_id = position if position not in taken else max(taken) + 1
            taken.add(dataset_id)
        rows.append((name, supercategory, dataset_id))
    return _vocabulary(rows, background_ids)


def _vocabulary(rows: Sequence[tuple[str, str, int]], background_ids: tuple[int, ...]) -> PartVocabulary:
    names, supercategories, dataset_ids = (tuple(column) for column in zip(*rows))
    used = {*dataset_ids, *background_ids}
    # PartImageNet's PNGs put the background behind the last part; sets whose ids start at 1 keep 0 for it.
    implied = {max(*used, len(names) - 1) + 1, *({0} - used)}
    return replace(
        PartVocabulary.from_names(names, supercategories),
        dataset_ids=dataset_ids,
        background_ids=tuple(sorted({*background_ids, *implied})),
    )


def _fold(name: str) -> str:
    """Names that differ in case or blanks only are one class."""
    return " ".join(name.split()).lower()


def _is_background(name: str) -> bool:
    return _fold(name) in _BACKGROUND_NAMES


def find_coco_json(annotations: str, split: str) -> str:
    """The COCO file of ``split``: ``annotations`` itself, or {split}.json or {folder}.json inside that folder.

    It is found by name, never by pattern: PartImageNet keeps a small json per image in the same folder, and
    archives packed on a Mac hold a ._train.json beside train.json.

    Raises:
        ValueError: names the paths that were tried.
    """
    if os.path.isfile(annotations):
        return annotations
    if not os.path.isdir(annotations):
        raise ValueError(f"annotations {annotations}: expected a folder or a json, but it does not exist")
    folder = os.path.basename(os.path.normpath(annotations))
    tried = list(dict.fromkeys(os.path.join(annotations, f"{stem}.json") for stem in (split, folder)))
    for path in tried:
        if os.path.isfile(path):
            return path
    raise ValueError(f"annotations {annotations}: found no COCO file; looked for {' and '.join(tried)}")


def load_partimagenet(image_root: str, json_file: str, vocabulary: PartVocabulary) -> list[dict[str, Any]]:
    """The records of one split in PartImageNet's layout.

    Seg: images lie flat in ``image_root``, label maps beside the json. OOD: images lie in class folders, although
    the json's file names are flat, and there are no label maps.

    Args:
        image_root: folder of the split's images.
        json_file: the split's COCO file. PNGs in its folder are the label maps.
        vocabulary: the expected classes.

    Returns:
        Detectron2's records, in the order of the json: file_name, image_id, height, width, annotations,
        sem_seg_file_name where there are label maps, and tags, sorted class ids of which the json says no more than
        that they are in the picture, where there are any. Images without annotations stay, as evaluation needs them.

    Raises:
        ValueError: names the file and the field, what came and what was expected.
    """
    records = _load(image_root, json_file, vocabulary, _partimagenet_paths)
    _add_label_maps(records, image_root, os.path.dirname(json_file))
    return records


def load_coco_parts(image_root: str, json_file: str, vocabulary: PartVocabulary) -> list[dict[str, Any]]:
    """The records of one split with images in ``image_root`` and their parts in one COCO json.

    As :func:`load_partimagenet`, without label maps: part maps are painted from the annotations.
    """
    return _load(image_root, json_file, vocabulary, _coco_paths)


def _partimagenet_paths(image_root: str, file_name: str) -> list[str]:
    base = base_name(file_name)
    return [os.path.join(image_root, base), os.path.join(image_root, base[:_WNID_LENGTH], base)]


def _coco_paths(image_root: str, file_name: str) -> list[str]:
    relative = file_name.replace("\\", "/")
    return [os.path.join(image_root, relative), os.path.join(image_root, base_name(file_name))]


def base_name(file_name: str) -> str:
    # Some copies of the json were written on Windows.
    return re.split(r"[\\/]", file_name)[-1]


def is_litter(name: str) -> bool:
    """macOS' resource forks end in the right extension and hold no image."""
    return name.startswith("._") or name == ".DS_Store"


def _load(image_root: str, json_file: str, vocabulary: PartVocabulary, candidate_paths: Any) -> list[dict[str, Any]]:
    if not os.path.isdir(image_root):
        raise ValueError(f"images {image_root}: expected a folder, but it does not exist")
    coco = _read_coco(json_file)
    class_ids = _match_categories(coco, json_file, vocabulary)
    records: dict[int, dict[str, Any]] = {}
    litter = set()
    for position, image in enumerate(coco["images"]):
        where = f"{json_file}: images[{position}]"
        image_id = _integer(image, "id", where)
        if image_id in records or image_id in litter:
            raise ValueError(f"{where}.id: {image_id} occurs twice; expected unique image ids")
        name = _field(image, "file_name", where)
        if is_litter(base_name(name)):
            litter.add(image_id)
            continue
        records[image_id] = {
            "file_name": _existing_image(candidate_paths(image_root, name), f"{where}.file_name"),
            "image_id": image_id,
            "height": _integer(image, "height", where, minimum=1),
            "width": _integer(image, "width", where, minimum=1),
            "annotations": [],
            "tags": _image_tags(image, where, vocabulary),
        }
    if not records:
        raise ValueError(f"{json_file}: images: expected at least one image, got none")
    report = _Report(json_file)
    report.count["entries of macOS litter"] += len(litter)
    seen: set[int] = set()
    for position, annotation in enumerate(coco["annotations"]):
        where = f"{json_file}: annotations[{position}]"
        annotation_id = _integer(annotation, "id", where)
        if annotation_id in seen:
            raise ValueError(f"{where}.id: {annotation_id} occurs twice; expected unique annotation ids")
        seen.add(annotation_id)
        image_id = _integer(annotation, "image_id", where)
        if image_id in litter:
            continue
        if image_id not in records:
            raise ValueError(f"{where}.image_id: {image_id} is the id of no image")
        _add_annotation(annotation, f"{where} (id {annotation_id})", records[image_id], class_ids, report)
    report.log(records)
    for record in records.values():
        tags = record.pop("tags")
        if tags:
            record["tags"] = sorted(tags)
    return list(records.values())


class _Report:
    """Counts what a loader leaves out, to say it once per data set and not once per annotation."""

    def __init__(self, json_file: str) -> None:
        self.json_file = json_file
        self.count: Counter[str] = Counter()
        self.examples: dict[str, list[int]] = {}

    def add(self, what: str, annotation_id: int) -> None:
        self.count[what] += 1
        examples = self.examples.setdefault(what, [])
        if len(examples) < _NUM_EXAMPLES:
            examples.append(annotation_id)

    def log(self, records: Mapping[int, Mapping[str, Any]]) -> None:
        num_annotations = sum(len(record["annotations"]) for record in records.values())
        num_empty = sum(not record["annotations"] for record in records.values())
        logger.info(
            "%s: %d images, %d annotations; %d images have none",
            *(self.json_file, len(records), num_annotations, num_empty),
        )
        for what, count in self.count.items():
            if count:
                examples = self.examples.get(what, [])
                hint = f" (annotation ids {', '.join(map(str, examples))}{' ...' * (count > len(examples))})"
                logger.warning("%s: %d %s%s", self.json_file, count, what, hint if examples else "")


def _image_tags(image: Mapping[str, Any], where: str, vocabulary: PartVocabulary) -> set[int]:
    """The classes that an entry of the json's images says are in the picture."""
    names = image.get("tags")
    if names is None:
        return set()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where}.tags: expected a list of class names, got {names!r:.80}")
    tags = set()
    for name in names:
        if _is_background(name):
            continue
        class_id = _class_of_name(name, vocabulary)
        if class_id is None:
            raise ValueError(f"{where}.tags: unknown class {name!r}; expected some of {list(vocabulary.names)}")
        tags.add(class_id)
    return tags


def _add_annotation(
    annotation: Mapping[str, Any],
    where: str,
    record: Mapping[str, Any],
    class_ids: Mapping[int, int | None],
    report: _Report,
) -> None:
    """Adds one annotation to its record: to the annotations, or only its class to the tags."""
    category_id = _integer(annotation, "category_id", where)
    if category_id not in class_ids:
        raise ValueError(f"{where}.category_id: unknown category {category_id}; expected one of {sorted(class_ids)}")
    class_id = class_ids[category_id]
    if class_id is None:
        report.add("annotations of the background category left out", annotation["id"])
        return
    height, width = record["height"], record["width"]
    loaded: dict[str, Any] = {
        "id": annotation["id"],
        "category_id": class_id,
        "iscrowd": int(annotation.get("iscrowd") or 0),
    }
    box = _numbers(annotation, "bbox", ("x", "y", "width", "height"), where)
    point = _numbers(annotation, "point", ("x", "y"), where)
    try:
        mask = _usable_segmentation(annotation.get("segmentation"), loaded, record)
        if mask is not None and box is None:
            box = _tight_box(mask, height, width)
            # A mask that is empty within the picture shows nothing.
            mask = mask if box is not None else None
    except ValueError as error:
        # Not fatal: training on boxes has no use for masks, and goes on as if they were whole.
        logger.debug("%s.%s", where, error)
        report.add("annotations with a malformed mask", annotation["id"])
        mask = None
    if point is not None and not (-0.5 <= point[0] <= width - 0.5 and -0.5 <= point[1] <= height - 0.5):
        report.add("points outside the image left out", annotation["id"])
        point = None
    boxed = {} if box is None else {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS}
    has_box = usable_box(boxed, height, width) is not None
    if mask is None and not has_box and point is None:
        nothing = "annotations with neither a usable mask, box nor point"
        if loaded["iscrowd"]:
            report.add(f"crowd {nothing}, left out", annotation["id"])
        else:
            report.add(f"{nothing}, kept as tags of their pictures", annotation["id"])
            record["tags"].add(class_id)
        return
    if mask is not None:
        loaded["segmentation"] = mask
    else:
        report.add("annotations without a usable mask, kept for their box or point", annotation["id"])
    if boxed and not has_box:
        report.add("boxes of no size or outside the image, kept for their mask or point", annotation["id"])
    if mask is not None or has_box:
        loaded.update(boxed)
    if point is not None:
        loaded["point"] = point
    record["annotations"].append(loaded)


def _usable_segmentation(segmentation: Any, loaded: dict[str, Any], record: Mapping[str, Any]) -> Any:
    """The valid polygons or the encoding; None without any. Notes where the authors' rule decides otherwise."""
    if not segmentation:
        return None
    if isinstance(segmentation, Mapping):
        expected = [record["height"], record["width"]]
        if "counts" not in segmentation or segmentation.get("size") != expected:
            raise ValueError(
                f"segmentation: expected counts and size {expected}, the picture's, got size "
                f"{segmentation.get('size')} and the keys {sorted(segmentation)}"
            )
        return dict(segmentation)
    polygons = valid_polygons(segmentation)
    if polygons and not valid_polygons(segmentation, rule="wps_sam"):
        # The first polygon is not kept, so a later reader could not find out by itself.
        loaded["dropped_by_wps_sam"] = True
    return polygons or None


def _tight_box(segmentation: Any, height: int, width: int) -> list[float] | None:
    """[x, y, width, height] around a usable mask, within the picture; None where nothing of it is there.

    Of polygons it is the extent, as rasterising them would cost more than reading the rest of the json.
    """
    if isinstance(segmentation, Mapping):
        x0, y0, x1, y1 = mask_to_box(segmentation_to_mask(segmentation, height, width))
    else:
        xs = [float(x) for polygon in segmentation for x in polygon[0::2]]
        ys = [float(y) for polygon in segmentation for y in polygon[1::2]]
        x0, x1 = max(min(xs), 0.0), min(max(xs), float(width))
        y0, y1 = max(min(ys), 0.0), min(max(ys), float(height))
    return [x0, y0, x1 - x0, y1 - y0] if x0 < x1 and y0 < y1 else None


def _add_label_maps(records: Sequence[dict[str, Any]], image_root: str, folder: str) -> None:
    if os.path.realpath(folder) == os.path.realpath(image_root):
        return  # Its PNGs are the pictures themselves.
    present = {n for n in os.listdir(folder or ".") if n.lower().endswith(".png") and not is_litter(n)}
    if not present:
        return
    missing = []
    for record in records:
        name = os.path.splitext(os.path.basename(record["file_name"]))[0] + ".png"
        record["sem_seg_file_name"] = os.path.join(folder, name)
        if name not in present:
            missing.append(record["sem_seg_file_name"])
    if missing:
        raise ValueError(
            f"label maps: {len(missing)} of {len(records)} are missing, among them {missing[0]}; "
            "expected one PNG per image, or none at all"
        )


def _read_coco(json_file: str) -> dict[str, Any]:
    """The content of a COCO file, with the three lists that it needs."""
    try:
        with open(json_file, encoding="utf-8") as file:
            coco = json.load(file)
    except FileNotFoundError as error:
        raise ValueError(f"annotations {json_file}: the file does not exist") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"annotations {json_file}: no valid json, perhaps cut off: {error}") from error
    keys = ("images", "annotations", "categories")
    if not isinstance(coco, dict) or not all(isinstance(coco.get(key), list) for key in keys):
        got = sorted(coco) if isinstance(coco, dict) else type(coco).__name__
        raise ValueError(f"annotations {json_file}: expected a COCO file with the lists {keys}, got {got}")
    return coco


def _read_categories(coco: Mapping[str, Any], json_file: str) -> dict[int, tuple[str, str]]:
    """Category id to (name, supercategory)."""
    categories: dict[int, tuple[str, str]] = {}
    names: dict[str, int] = {}
    for position, category in enumerate(coco["categories"]):
        where = f"{json_file}: categories[{position}]"
        category_id = _integer(category, "id", where, minimum=0)
        name = _field(category, "name", where)
        if category_id in categories:
            raise ValueError(f"{where}.id: {category_id} occurs twice; expected unique category ids")
        if _fold(name) in names:
            raise ValueError(f"{where}.name: {name!r} occurs twice; expected unique names, such as 'Dog Head'")
        names[_fold(name)] = category_id
        categories[category_id] = (name, category.get("supercategory") or _NO_SUPERCATEGORY)
    return categories


def _match_categories(coco: Mapping[str, Any], json_file: str, vocabulary: PartVocabulary) -> dict[int, int | None]:
    """Category id of this json to class id, None for the background. Classes may be missing in a json."""
    class_ids: dict[int, int | None] = {}
    for category_id, (name, _) in _read_categories(coco, json_file).items():
        if _is_background(name):
            class_ids[category_id] = None
            continue
        class_id = _class_of_name(name, vocabulary)
        if class_id is None:
            raise ValueError(f"{json_file}: categories: unknown class {name!r}; expected {list(vocabulary.names)}")
        if category_id != vocabulary.dataset_ids[class_id]:
            raise ValueError(
                f"{json_file}: categories: {name!r} has the id {category_id}; "
                f"expected {vocabulary.dataset_ids[class_id]}, as in the data set's class list"
            )
        class_ids[category_id] = class_id
    return class_ids


def _class_of_name(name: str, vocabulary: PartVocabulary) -> int | None:
    """The id of a class that a json names, None where the vocabulary has none of this name."""
    ids = _folded_ids(vocabulary.names)
    # ADE20K names a class by all its synonyms ("airplane, aeroplane, plane"), lists of classes by the first.
    return ids.get(_fold(name), ids.get(_fold(name.split(",")[0])))


@lru_cache
def _folded_ids(names: tuple[str, ...]) -> dict[str, int]:
    return {_fold(name): c for c, name in enumerate(names)}


def _field(entry: Any, key: str, where: str) -> str:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where}.{key}: expected a text, got {value!r:.80}")
    return value


def _integer(entry: Any, key: str, where: str, minimum: int | None = None) -> int:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, int) or isinstance(value, bool) or (minimum is not None and value < minimum):
        expected = "an integer" if minimum is None else f"an integer of at least {minimum}"
        raise ValueError(f"{where}.{key}: expected {expected}, got {value!r:.80}")
    return value


def _numbers(annotation: Mapping[str, Any], key: str, meaning: tuple[str, ...], where: str) -> list[float] | None:
    """As many finite numbers, in pixels, as ``meaning`` has words; None where the key is missing or null."""
    value = annotation.get(key)
    if value is None:
        return None
    if isinstance(value, list) and len(value) == len(meaning) and all(isinstance(v, int | float) for v in value):
        if all(math.isfinite(v) for v in value):
            return [float(v) for v in value]
    raise ValueError(f"{where}.{key}: expected [{', '.join(meaning)}] in pixels, got {value!r:.80}")


def _existing_image(candidates: Sequence[str], where: str) -> str:
    for path in candidates:
        if os.path.isfile(path):
            return path
    raise ValueError(f"{where}: the image does not exist; looked for {' and '.join(dict.fromkeys(candidates))}")


def check_part_map_ids(records: Sequence[Mapping[str, Any]], metadata: Any, max_images: int = 200) -> None:
    """Fails where the label PNGs number the parts in another order than the json.

    That PartImageNet's PNGs follow the json's ids is not proven: lists published for the PNGs swap the parts
    of three supercategories. So the annotations of some images are rasterised and compared with their PNGs.

    Args:
        records: of one data set. Without label maps there is nothing to check.
        metadata: of the data set, with thing_classes and label_map.
        max_images: images to look at, evenly spread; one more for every class that these leave out.

    Raises:
        ValueError: lists every class that covers more of another class's PNG value than that class itself.
    """
    usable = [record for record in records if "sem_seg_file_name" in record and record["annotations"]]
    num_classes = len(metadata.thing_classes)
    # PNG value -> its pixels in all, and those under the annotations of each class.
    present: Counter[int] = Counter()
    covered: list[Counter[int]] = [Counter() for _ in range(num_classes)]
    for record in _spread(usable, max_images):
        stored = read_label_png(record["sem_seg_file_name"])
        height, width = record["height"], record["width"]
        if stored.shape != (height, width):
            raise ValueError(
                f"label map {record['sem_seg_file_name']}: height and width are {stored.shape}, "
                f"but the annotation says {(height, width)}"
            )
        masks: dict[int, np.ndarray] = {}
        for annotation in record["annotations"]:
            if "segmentation" in annotation:
                mask = segmentation_to_mask(annotation["segmentation"], height, width)
                class_id = annotation["category_id"]
                masks[class_id] = masks[class_id] | mask if class_id in masks else mask
        present.update(_histogram(stored))
        for class_id, mask in masks.items():
            covered[class_id].update(_histogram(stored[mask]))
    value_of = {class_id: value for value, class_id in metadata.label_map.items()}
    wrong = []
    for value, class_id in sorted(metadata.label_map.items()):
        if class_id >= num_classes:  # Background, or a class that the data set hides.
            continue
        # Asked from the PNG's side: a part may lie under others in the map, all of it even (a bus's front under its
        # windows), but whatever the map shows of it lies within its annotations.
        found = max(range(num_classes), key=lambda c: covered[c][value])
        if covered[found][value] > covered[class_id][value]:
            share = 100 * covered[found][value] / present[value]
            name = metadata.thing_classes[found]
            wrong.append(f"{name} (class {found}): expected {value_of[found]}, found {value} ({share:.0f}%)")
    if wrong:
        raise ValueError(
            f"the label maps in {os.path.dirname(usable[0]['sem_seg_file_name'])} number the parts differently from "
            f"the json: {'; '.join(wrong)}. Correct the class list, or move the label maps away: part maps "
            "are then painted from the json's polygons"
        )


def _histogram(values: np.ndarray) -> dict[int, int]:
    counts = np.bincount(values.ravel())
    return {int(value): int(counts[value]) for value in counts.nonzero()[0]}


def _spread(records: Sequence[Mapping[str, Any]], max_images: int) -> list[Mapping[str, Any]]:
    """At most ``max_images`` records at even distances, and the first one of every class not among them."""
    step = max(1, math.ceil(len(records) / max_images))
    chosen = list(records[::step])
    covered = {a["category_id"] for record in chosen for a in record["annotations"]}
    for record in records:
        classes = {a["category_id"] for a in record["annotations"]}
        if not classes <= covered:
            chosen.append(record)
            covered |= classes
    return chosen


# Data sets whose label maps this process has compared with their json: once is enough.
_CHECKED: set[str] = set()


def check_part_maps_once(name: str) -> None:
    """Runs :func:`check_part_map_ids` on a registered data set, the first time in this process.

    Evaluation calls it. Training does not: it must not depend on masks, however wrong they are.
    """
    if name not in _CHECKED:
        check_part_map_ids(DatasetCatalog.get(name), MetadataCatalog.get(name))
        _CHECKED.add(name)


def register_part_dataset(
    name: str,
    layout: Layout,
    image_root: str,
    json_file: str,
    vocabulary: PartVocabulary,
    load: Callable[[], list[dict[str, Any]]] | None = None,
    **metadata: Any,
) -> None:
    """Registers one split with Detectron2's catalogs under ``name``; files are read when it is first used.

    Args:
        load: makes the records, where they are not simply those of the json.
        metadata: added to what every part data set has, or in its place; None is left out.
    """
    loader = load_partimagenet if layout == "partimagenet" else load_coco_parts
    DatasetCatalog.register(name, load or (lambda: loader(image_root, json_file, vocabulary)))
    fields: dict[str, Any] = {
        "image_root": image_root,
        "json_file": json_file,
        "layout": layout,
        "evaluator_type": "part_seg",
        **vocabulary.metadata(),
        **metadata,
    }
    if vocabulary.dataset_ids != tuple(range(len(vocabulary))):
        fields["thing_dataset_id_to_contiguous_id"] = {d: c for c, d in enumerate(vocabulary.dataset_ids)}
    MetadataCatalog.get(name).set(**{key: value for key, value in fields.items() if value is not None})
