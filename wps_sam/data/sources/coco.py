"""Loaders for part data sets in two layouts: paths and labels only, no picture is decoded here.

``partimagenet`` is PartImageNet's own layout, in both of its packagings (Seg and OOD); ``coco`` is a folder of
images with one COCO json. Whatever the ids of the json are, class c is 0..C-1 and background is C in a record.
"""

from __future__ import annotations

import ast
import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from wps_sam.data.sources.box_forms import BoxForms
from wps_sam.data.sources.coco_json import (
    NO_SUPERCATEGORY,
    CocoAnnotation,
    CocoCategory,
    CocoFile,
    CocoImage,
    fold,
    is_background,
    read_categories,
    read_coco,
)
from wps_sam.data.sources.orientation import ExifRule, settle_orientation
from wps_sam.data.weak_labels import usable_box
from wps_sam.masks import clip_far_polygons, mask_to_box, rle_runs, segmentation_to_mask, valid_polygons
from wps_sam.paths import outside
from wps_sam.vocabulary import PartVocabulary

import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

logger = logging.getLogger(__name__)

Layout = Literal["partimagenet", "coco"]
LAYOUTS: tuple[Layout, ...] = ("partimagenet", "coco")
VOCABULARIES = Path(__file__).resolve().parents[1] / "vocabularies"

# Length of an ImageNet class id (WNID) such as n01440764, the name of OOD's image folders.
_WNID_LENGTH = 9
# Annotations named in the warning about broken ones; the rest is only counted.
_NUM_EXAMPLES = 5


@dataclass(frozen=True)
class LoadOptions:
    """How a description asks for its json to be read.

    Args:
        crowds: what ``iscrowd`` means: "ignore", COCO's regions of no single part, or "parts", as exports of brush
            masks have it.
        exif: see :func:`wps_sam.data.sources.orientation.settle_orientation`; None leaves it to each picture's size.
        ids: whether categories are found by their "name", or must also have the "same" ids as in the class list, in
            which label maps are written.
    """

    crowds: Literal["ignore", "parts"] = "ignore"
    exif: ExifRule | None = None
    ids: Literal["same", "name"] = "same"


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
            json's ids. Every category with annotations must be among them; they may name more.

    Raises:
        ValueError: names the file and what is wrong with its categories.
    """
    categories = read_categories(json_file, names or ())
    background_ids = tuple(c.id for c in categories if is_background(c.name))
    parts = sorted(c for c in categories if c.id not in background_ids)
    if names is None:
        if not parts:
            raise ValueError(f"{json_file}: categories: expected at least one part class, got none")
        return _vocabulary([(c.name, c.supercategory, c.id) for c in parts], background_ids)
    by_name = {fold(c.name): (c.supercategory, c.id) for c in parts}
    folded = {fold(name) for name in names}
    unknown = [c.name for c in parts if c.used and fold(c.name) not in folded]
    if unknown:
        raise ValueError(f"{json_file}: categories: {unknown} are not among the given classes {list(names)}")
    # A class that this json lacks keeps its place as id, unless another category has taken it.
    taken = {c.id for c in categories}
    rows = []
    for position, name in enumerate(names):
        supercategory, dataset_id = by_name.get(fold(name), (NO_SUPERCATEGORY, None))
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


def load_partimagenet(
    image_root: str, json_file: str, vocabulary: PartVocabulary, options: LoadOptions = LoadOptions()
) -> list[dict[str, Any]]:
    """The records of one split in PartImageNet's layout.

    Seg: images lie flat in ``image_root``, label maps beside the json. OOD: images lie in class folders, although
    the json's file names are flat, and there are no label maps.

    Args:
        image_root: folder of the split's images.
        json_file: the split's COCO file. PNGs in its folder are the label maps.
        vocabulary: the expected classes.
        options: see :class:`LoadOptions`.

    Returns:
        Detectron2's records, in the order of the json: file_name, image_id, height, width, annotations, exif (see
        :func:`wps_sam.data.sources.orientation.settle_orientation`), sem_seg_file_name where there are label maps, and
        tags, sorted class ids of which the json says no more than that they are in the picture, where there are any.
        Images without annotations stay, as evaluation needs them.

    Raises:
        ValueError: names the file and the field, what came and what was expected.
    """
    records = _load(image_root, json_file, vocabulary, _partimagenet_paths, options)
    _add_label_maps(records, image_root, os.path.dirname(json_file))
    return records


def load_coco_parts(
    image_root: str, json_file: str, vocabulary: PartVocabulary, options: LoadOptions = LoadOptions()
) -> list[dict[str, Any]]:
    """The records of one split with images in ``image_root`` and their parts in one COCO json.

    As :func:`load_partimagenet`, without label maps: part maps are painted from the annotations.
    """
    return _load(image_root, json_file, vocabulary, _coco_paths, options)


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


def _load(
    image_root: str,
    json_file: str,
    vocabulary: PartVocabulary,
    candidate_paths: Callable[[str, str], list[str]],
    options: LoadOptions,
) -> list[dict[str, Any]]:
    if not os.path.isdir(image_root):
        raise ValueError(f"images {image_root}: expected a folder, but it does not exist")
    coco = read_coco(json_file)
    class_ids = _match_categories(coco, vocabulary, options)
    report = _Report(json_file)
    records: dict[int | str, dict[str, Any]] = {}
    litter = set()
    for image in coco.images:
        if is_litter(base_name(image.file_name)):
            litter.add(image.id)
            continue
        records[image.id] = {
            "file_name": _existing_image(image_root, image, candidate_paths),
            "image_id": image.id,
            "height": image.height,
            "width": image.width,
            "annotations": [],
            "tags": _image_tags(image, vocabulary),
        }
    if not records:
        raise ValueError(f"{json_file}: images: expected at least one image, got none")
    report.count["entries of macOS litter"] += len(litter)
    # Where no annotation has one, nobody meant to draw masks.
    report.masks_are_meant = any(annotation.segmentation for annotation in coco.annotations)
    for annotation in coco.annotations:
        if annotation.image_id in litter:
            continue
        if annotation.image_id not in records:
            raise ValueError(f"{annotation.where}.image_id: {annotation.image_id!r} is the id of no image")
        record = records[annotation.image_id]
        if annotation.bbox is not None:
            report.boxes.add(annotation.bbox, record["height"], record["width"], annotation.segmentation)
        _add_annotation(annotation, record, class_ids, options, report)
    report.log(list(records.values()), vocabulary)
    report.log_outside([record["file_name"] for record in records.values()], image_root)
    for record in records.values():
        tags = record.pop("tags")
        if tags:
            record["tags"] = sorted(tags)
    found = list(records.values())
    if options.exif is not None:
        settle_orientation(found, options.exif, json_file)
    return found


class _Report:
    """Counts what a loader leaves out or finds odd, to say it once per data set and not once per annotation."""

    def __init__(self, json_file: str) -> None:
        self.json_file = json_file
        self.count: Counter[str] = Counter()
        self.examples: dict[str, list[int | str]] = {}
        self.boxes = BoxForms()
        self.masks_are_meant = True

    def add(self, what: str, annotation_id: int | str) -> None:
        self.count[what] += 1
        examples = self.examples.setdefault(what, [])
        if len(examples) < _NUM_EXAMPLES:
            examples.append(annotation_id)

    def log(self, records: Sequence[Mapping[str, Any]], vocabulary: PartVocabulary) -> None:
        num_annotations = sum(len(record["annotations"]) for record in records)
        num_empty = sum(not record["annotations"] for record in records)
        self._say(logging.INFO, f"{len(records)} images, {num_annotations} annotations; {num_empty} images have none")
        for what, count in self.count.items():
            if count:
                examples = self.examples.get(what, [])
                hint = f" (annotation ids {', '.join(map(str, examples))}{' ...' * (count > len(examples))})"
                self._say(logging.WARNING, f"{count} {what}{hint if examples else ''}")
        odd_boxes = self.boxes.warning()
        if odd_boxes:
            self._say(logging.WARNING, odd_boxes)
        self._log_crowds(records, vocabulary)

    def _log_crowds(self, records: Sequence[Mapping[str, Any]], vocabulary: PartVocabulary) -> None:
        counts = [Counter[int](), Counter[int]()]
        for annotation in (a for record in records for a in record["annotations"]):
            counts[annotation["iscrowd"]][annotation["category_id"]] += 1
        single, crowds = counts
        if crowds:
            only = [vocabulary.names[c] for c in sorted(crowds.keys() - single.keys())]
            lost = f"; of the classes {only} there is nothing else" if only else ""
            self._say(
                logging.WARNING,
                f"{crowds.total()} annotations are crowds (iscrowd 1), regions of no single part, which training "
                f"leaves out{lost}. Some tools, CVAT among them, export every brush mask so: if these are parts, write "
                "crowds: parts into the data set's description",
            )

    def log_outside(self, files: Sequence[str], folder: str) -> None:
        found = outside(files, folder)
        if found:
            self._say(
                logging.WARNING,
                f"{len(found)} pictures lie outside of {folder}, where '..', a whole path or a link leads, among them "
                f"{os.path.realpath(found[0])}: use them only if you trust whoever made the data set",
            )

    def _say(self, level: int, message: str) -> None:
        _say_once(level, f"{self.json_file}: {message}")


@cache
def _say_once(level: int, message: str) -> None:
    """Loaders run several times in a process, and what they say again hides what is new."""
    logger.log(level, message)


def _image_tags(image: CocoImage, vocabulary: PartVocabulary) -> set[int]:
    """The classes that an entry of the json's images says are in the picture."""
    tags = set()
    for name in image.tags:
        if is_background(name):
            continue
        class_id = _class_of_name(name, vocabulary)
        if class_id is None:
            raise ValueError(f"{image.where}.tags: unknown class {name!r}; expected some of {list(vocabulary.names)}")
        tags.add(class_id)
    return tags


def _add_annotation(
    annotation: CocoAnnotation,
    record: dict[str, Any],
    class_ids: Mapping[int, int | None],
    options: LoadOptions,
    report: _Report,
) -> None:
    """Adds one annotation to its record: to the annotations, or only its class to the tags."""
    if annotation.category_id not in class_ids:
        raise ValueError(
            f"{annotation.where}.category_id: unknown category {annotation.category_id}; "
            f"expected one of {sorted(class_ids)}"
        )
    class_id = class_ids[annotation.category_id]
    if class_id is None:
        report.add("annotations of the background category left out", annotation.id)
        return
    height, width = record["height"], record["width"]
    iscrowd = annotation.iscrowd and options.crowds == "ignore"
    loaded: dict[str, Any] = {"id": annotation.id, "category_id": class_id, "iscrowd": int(iscrowd)}
    box, point = annotation.bbox, annotation.point
    try:
        mask = usable_segmentation(annotation.segmentation, height, width)
        if isinstance(mask, list):
            near = clip_far_polygons(mask, height, width)
            if near != mask:
                report.add("masks that reach far outside their images, clipped", annotation.id)
                mask = near or None
        if isinstance(mask, list) and not valid_polygons(annotation.segmentation, rule="wps_sam"):
            # The first polygon is not kept, so a later reader could not find out by itself.
            loaded["dropped_by_wps_sam"] = True
        if mask is not None and box is None:
            box = tight_box(mask, height, width)
            # A mask that is empty within the picture shows nothing.
            mask = mask if box is not None else None
    except ValueError as error:
        # Not fatal: training on boxes has no use for masks, and goes on as if they were whole.
        logger.debug("%s.%s", annotation.where, error)
        report.add("annotations with a malformed mask", annotation.id)
        mask = None
    if point is not None and not (-0.5 <= point[0] <= width - 0.5 and -0.5 <= point[1] <= height - 0.5):
        report.add("points outside the image left out", annotation.id)
        point = None
    boxed = {} if box is None else {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS}
    has_box = usable_box(boxed, height, width) is not None
    if mask is None and not has_box and point is None:
        nothing = "annotations with neither a usable mask, box nor point"
        if iscrowd:
            report.add(f"crowd {nothing}, left out", annotation.id)
        else:
            report.add(f"{nothing}, kept as tags of their pictures", annotation.id)
            record["tags"].add(class_id)
        return
    if mask is not None:
        loaded["segmentation"] = mask
    elif report.masks_are_meant:
        report.add("annotations without a usable mask, kept for their box or point", annotation.id)
    if boxed and not has_box:
        report.add("boxes of no size or outside the image, kept for their mask or point", annotation.id)
    if mask is not None or has_box:
        loaded.update(boxed)
    if point is not None:
        loaded["point"] = point
    record["annotations"].append(loaded)


def usable_segmentation(segmentation: Any, height: int, width: int) -> list[list[float]] | dict[str, Any] | None:
    """The valid polygons, or the encoding, checked; None without any."""
    if not segmentation:
        return None
    if isinstance(segmentation, Mapping):
        encoding = {**segmentation, "counts": _unquoted(segmentation.get("counts"))}
        rle_runs(encoding, height, width)
        return {**encoding, "size": [height, width]}
    return valid_polygons(segmentation) or None


def _unquoted(counts: Any) -> Any:
    """Counts that were written as ``str(bytes)``: "b'...'"."""
    if isinstance(counts, str) and counts[:2] in ("b'", 'b"'):
        try:
            value = ast.literal_eval(counts)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = None
        if not isinstance(value, bytes):
            raise ValueError(f"segmentation.counts: not as Python writes bytes: {counts!r:.80}")
        return value.decode()
    return counts


def tight_box(segmentation: Any, height: int, width: int) -> list[float] | None:
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
    # Pictures and maps may have been copied by systems that spell Unicode differently.
    names = [n for n in os.listdir(folder or ".") if n.lower().endswith(".png") and not is_litter(n)]
    present = {unicodedata.normalize("NFC", name): name for name in names}
    if not present:
        return
    missing = []
    for record in records:
        name = os.path.splitext(os.path.basename(record["file_name"]))[0] + ".png"
        found = present.get(unicodedata.normalize("NFC", name))
        record["sem_seg_file_name"] = os.path.join(folder, found or name)
        if found is None:
            missing.append(record["sem_seg_file_name"])
    if missing:
        raise ValueError(
            f"label maps: {len(missing)} of {len(records)} are missing, among them {missing[0]}; "
            "expected one PNG per image, or none at all"
        )


def _match_categories(coco: CocoFile, vocabulary: PartVocabulary, options: LoadOptions) -> dict[int, int | None]:
    """Category id of this json to class id, None for the background. Classes may be missing in a json."""
    class_ids: dict[int, int | None] = {}
    renumbered: list[CocoCategory] = []
    for category in coco.categories:
        if is_background(category.name):
            class_ids[category.id] = None
            continue
        class_id = _class_of_name(category.name, vocabulary)
        where = f"{coco.path}: categories"
        if class_id is None:
            unknown = f"unknown class {category.name!r}; expected {list(vocabulary.names)}"
            # A label map could show it.
            if category.used or options.ids == "same":
                raise ValueError(f"{where}: {unknown}")
            _say_once(logging.INFO, f"{where}: {unknown}. It has no annotation, and is left out")
            continue
        if category.id != vocabulary.dataset_ids[class_id]:
            if options.ids == "same":
                raise ValueError(
                    f"{where}: {category.name!r} has the id {category.id}; "
                    f"expected {vocabulary.dataset_ids[class_id]}, as in the data set's class list"
                )
            renumbered.append(category)
        class_ids[category.id] = class_id
    if renumbered:
        _say_once(
            logging.INFO,
            f"{coco.path}: {len(renumbered)} categories, such as {renumbered[0].name!r}, have other ids than in the "
            "class list and are found by their names",
        )
    return class_ids


def _class_of_name(name: str, vocabulary: PartVocabulary) -> int | None:
    """The id of a class that a json names, None where the vocabulary has none of this name."""
    ids = _folded_ids(vocabulary.names)
    # ADE20K names a class by all its synonyms ("airplane, aeroplane, plane"), lists of classes by the first.
    return ids.get(fold(name), ids.get(fold(name.split(",")[0])))


@lru_cache
def _folded_ids(names: tuple[str, ...]) -> dict[str, int]:
    return {fold(name): c for c, name in enumerate(names)}


def _existing_image(image_root: str, image: CocoImage, candidate_paths: Callable[[str, str], list[str]]) -> str:
    """Where an image lies; its name may be percent-encoded, or spelt in another form of Unicode than on the disk."""
    tried: dict[str, None] = {}
    for name in dict.fromkeys((image.file_name, unquote(image.file_name))):
        for form in (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))):
            for path in candidate_paths(image_root, form):
                # No name of a file holds a zero.
                if path not in tried and "\0" not in path and os.path.isfile(path):
                    return path
                tried[path] = None
    raise ValueError(f"{image.where}.file_name: the image does not exist; looked for {' and '.join(list(tried)[:2])}")


def register_part_dataset(
    name: str,
    layout: Layout,
    image_root: str,
    json_file: str,
    vocabulary: PartVocabulary,
    load: Callable[[], list[dict[str, Any]]] | None = None,
    options: LoadOptions = LoadOptions(),
    **metadata: Any,
) -> None:
    """Registers one split with Detectron2's catalogs under ``name``; files are read when it is first used.

    Args:
        load: makes the records, where they are not simply those of the json.
        options: how the json is read.
        metadata: added to what every part data set has, or in its place; None is left out.
    """
    loader = load_partimagenet if layout == "partimagenet" else load_coco_parts
    DatasetCatalog.register(name, load or (lambda: loader(image_root, json_file, vocabulary, options)))
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
