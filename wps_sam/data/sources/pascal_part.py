"""Pascal-Part from its official .mat files: five vocabularies, part maps, part instances, and their preparation.

A variant (58, 93, 108, 116, 201) is a class list, vocabularies/pascal_part_{variant}.yaml, that also says which parts
of the .mat files make up each class. Masks are bool [H, W] on the stored pixel grid of the picture. What a part map
shows:

- Parts overlap (a head contains its eyes), so the order of painting decides: :func:`paint_order`.
- Objects are painted in file order, each over all of its silhouette: a pixel is of the last object that claims it.
- Pixels of an object that carry no part label are neither a part nor background. They are ignored, unless a class
  claims them (``UNLABELED``: the bodies of bicycles, the frames of screens, boats as a whole). A part that has no
  class in the variant leaves what lies under it.

Instances need no order: they are made of whole part masks, hidden by other parts or not.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

from wps_sam.data.sources.coco import base_name, load_vocabulary, read_vocabulary
from wps_sam.data.sources.fields import read_text
from wps_sam.data.sources.mat_file import MatReader
from wps_sam.masks import mask_to_box, mask_to_rle, stored_size
from wps_sam.outputs import write_output
from wps_sam.vocabulary import PartVocabulary

import numpy as np
from PIL import Image

logger = logging.getLogger(__name__)

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

UNLABELED = "UNLABELED"
_NUMBERED = re.compile(r"(.+)_(\d+)")
# They stand before frontside and backside in the files, which would bury them.
_LICENSE_PLATES = ("fliplate", "bliplate")
# Name in a vocabulary -> class in the .mat files: VLPart's spelling, and VOC's own name of what they call a table.
_OBJECT_IN_MAT = {"potted plant": "pottedplant", "diningtable": "table"}
_PROGRESS_EVERY = 500
_read_mat = MatReader()


def load_pascal_vocabulary(variant: str) -> PartVocabulary:
    """The classes of a variant, in the order of their ids.

    116 has no background among its ids: in its part maps 255 is background and unlabelled object alike.

    Raises:
        ValueError: there is no such variant.
    """
    return load_vocabulary(_vocabulary_name(variant))


def _vocabulary_name(variant: str) -> str:
    if variant not in VARIANTS:
        raise ValueError(f"Pascal-Part: expected a variant among {VARIANTS}, got {variant!r}")
    return f"pascal_part_{variant}"


@dataclass(frozen=True)
class PartGroups:
    """Which parts of the .mat files make up the classes of one variant.

    ``instances``: object -> (id, kinds of parts that together make one instance of it), an entry per instance.
    ``background`` and ``ignore_label`` are values of the part map.
    """

    background: int
    ignore_label: int
    instances: dict[str, list[tuple[int, tuple[str, ...]]]]

    def class_id(self, object_name: str, kind: str) -> int | None:
        """The id of a kind of part, None where the variant has no class for it."""
        for class_id, kinds in self.instances.get(object_name, ()):
            if kind in kinds:
                return class_id
        return None


@lru_cache
def load_part_groups(variant: str) -> PartGroups:
    """The groups of parts of a variant, from its vocabulary.

    Raises:
        ValueError: there is no such variant.
    """
    vocabulary = read_vocabulary(_vocabulary_name(variant))
    instances: dict[str, list[tuple[int, tuple[str, ...]]]] = {}
    for entry in vocabulary["classes"]:
        name = _OBJECT_IN_MAT.get(entry["supercategory"], entry["supercategory"])
        of_object = instances.setdefault(name, [])
        of_object += [(entry["id"], tuple(kinds)) for kinds in entry["members"]]
    ignore_label = vocabulary["ignore_label"]
    # 116 has no id for background: there it is one with what is ignored, as in the released maps.
    return PartGroups(vocabulary.get("background", ignore_label), ignore_label, instances)


@lru_cache
def original_parts() -> dict[str, frozenset[str]]:
    """Object -> kinds of parts that the .mat files know, 193 in all; 201 has a class for each."""
    groups = load_part_groups("201").instances
    return {
        name: frozenset(kind for _, kinds in entries for kind in kinds) - {UNLABELED}
        for name, entries in groups.items()
    }


@dataclass(frozen=True)
class PartMask:
    """One part of one object: ``kind`` "wheel_%d" and ``number`` 3 for wheel_3, "head" and None for head."""

    kind: str
    number: int | None
    mask: np.ndarray


@dataclass(frozen=True)
class ObjectMask:
    """One object: its class in the .mat files, its silhouette and its parts, in file order."""

    name: str
    mask: np.ndarray
    parts: tuple[PartMask, ...]

    @cached_property
    def with_unlabelled(self) -> tuple[PartMask, ...]:
        """All parts, behind one of the kind ``UNLABELED``: the silhouette where no part covers it."""
        rest = self.mask.copy()
        for part in self.parts:
            rest &= ~part.mask
        return (PartMask(UNLABELED, None, rest), *self.parts)


def read_annotation(mat_file: str | Path) -> list[ObjectMask]:
    """The objects of one picture with their parts, in file order.

    Args:
        mat_file: of the official Annotations_Part, named as its picture.

    Returns:
        The objects; their masks are bool and all of one size. An object may have no parts, a mask may be empty.

    Raises:
        ValueError: names the file and the field, what came and what was expected: no MATLAB 5 file, another structure,
            the annotation of another picture, an unknown object or part, masks of different sizes.
    """
    if not Path(mat_file).is_file():
        raise ValueError(f"annotation {mat_file}: the file does not exist")
    try:
        content = _read_mat(mat_file)
    except ValueError as error:
        raise ValueError(f"annotation {mat_file}: cannot be read as a MATLAB 5 file: {error}") from error
    where = f"annotation {mat_file}: anno"
    annotation = next(_structs(content.get("anno", np.empty(0)), where), None)
    name = _text(annotation, "imname", where)
    if name != Path(mat_file).stem:
        raise ValueError(f"{where}.imname: expected the file's own name, got {name!r}")
    objects: list[ObjectMask] = []
    for position, entry in enumerate(_structs(_field(annotation, "objects", where), where)):
        objects.append(_read_object(entry, f"{where}.objects[{position}]", objects))
    return objects


def _read_object(entry: Any, where: str, before: Sequence[ObjectMask]) -> ObjectMask:
    name, known = _text(entry, "class", where), original_parts()
    name = _OBJECT_IN_MAT.get(name, name)
    if name not in known:
        raise ValueError(f"{where}.class: unknown object {name!r}; expected one of {sorted(known)}")
    mask = _mask(entry, f"{where} ({name})", before[0].mask.shape if before else None)
    parts = []
    # 0x0 instead of a row of structs where an object has no parts.
    for position, part in enumerate(_structs(_field(entry, "parts", where), where)):
        inside = f"{where} ({name}).parts[{position}]"
        part_name = _text(part, "part_name", inside)
        match = _NUMBERED.fullmatch(part_name)
        kind, number = (f"{match[1]}_%d", int(match[2])) if match else (part_name, None)
        if kind not in known[name]:
            raise ValueError(
                f"{inside}.part_name: unknown part {part_name!r} of {name}; expected one of {sorted(known[name])}"
            )
        parts.append(PartMask(kind, number, _mask(part, f"{inside} ({part_name})", mask.shape)))
    return ObjectMask(name, mask, tuple(parts))


def _structs(array: Any, where: str) -> Iterator[Any]:
    """The structs of a MATLAB struct array, whatever its shape."""
    if not isinstance(array, np.ndarray) or (array.size and array.dtype.names is None):
        what = "an array" if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"{where}: expected MATLAB structs, got {what} of {array.dtype}")
    return iter(array.ravel())


def _field(struct: Any, name: str, where: str) -> np.ndarray:
    # By name: the order of the fields is no part of the format.
    names = struct.dtype.names if struct is not None else ()
    if name not in names:
        raise ValueError(f"{where}: expected a field {name!r}, got {list(names)}")
    value = struct[name]
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{where}.{name}: expected a MATLAB array, got {type(value).__name__}")
    return value


def _text(struct: Any, name: str, where: str) -> str:
    value = _field(struct, name, where)
    if value.size != 1 or value.dtype.kind != "U":
        raise ValueError(f"{where}.{name}: expected a text, got {value!r:.80}")
    return str(value.item())


def _mask(struct: Any, where: str, shape: tuple[int, ...] | None) -> np.ndarray:
    value = _field(struct, "mask", where)
    if value.ndim != 2 or value.dtype.kind not in "bui" or value.shape != (shape or value.shape):
        expected = f"{shape}, the size of the masks before" if shape else "two dimensions"
        raise ValueError(f"{where}.mask: expected whole numbers of {expected}, got {value.dtype} of {value.shape}")
    return value > 0


def paint_order(parts: Iterable[PartMask]) -> list[PartMask]:
    """The parts of an object, first painted first: file order, with the license plates moved to the end.

    The official script paints in plain file order, in which front and back bury the plates. By area, largest first,
    a leg may bury its paw.
    """
    return sorted(parts, key=lambda part: part.kind in _LICENSE_PLATES)


def part_map(objects: Iterable[ObjectMask], variant: str, height: int, width: int) -> np.ndarray:
    """The part map of one picture, as described at the top of this module.

    Returns:
        uint8 [height, width]: ids of the variant's vocabulary. Elsewhere 0 (background) or 255 (object without part
        label); for 116, whose ids begin at 0, 255 in both cases.
    """
    groups = load_part_groups(variant)
    painted = np.full((height, width), groups.background, np.uint8)
    for annotated in objects:
        painted[annotated.mask] = groups.ignore_label
        for part in paint_order(annotated.with_unlabelled):
            class_id = groups.class_id(annotated.name, part.kind)
            if class_id is not None:
                painted[part.mask] = class_id
    return painted


def part_instances(objects: Iterable[ObjectMask], variant: str) -> list[tuple[int, np.ndarray]]:
    """(id, mask bool [H, W]) of every part instance of one picture, object by object in the order of the vocabulary.

    An instance unites the parts of one object that a list of the class's ``members`` names; where all of them are
    numbered, the parts of one number. Empty ones are left out.
    """
    groups = load_part_groups(variant)
    instances = []
    for annotated in objects:
        parts = annotated.with_unlabelled
        for class_id, kinds in groups.instances.get(annotated.name, ()):
            numbered = all(kind.endswith("_%d") for kind in kinds)
            masks: dict[int | None, np.ndarray] = {}
            for part in parts:
                if part.kind in kinds:
                    key = part.number if numbered else None
                    masks[key] = masks[key] | part.mask if key in masks else part.mask
            instances += [
                (class_id, masks[key]) for key in sorted(masks, key=lambda number: number or 0) if masks[key].any()
            ]
    return instances


def prepare(
    voc: str | Path,
    annotations: str | Path,
    output: str | Path,
    variants: Sequence[str] = VARIANTS,
    num_workers: int = 1,
) -> None:
    """Writes Pascal-Part in the ``partimagenet`` layout; the pictures stay where they are.

    Makes ``{output}/{variant}/annotations/{train,val}/{train,val}.json`` and beside it a part map NAME.png for every
    picture. The json is written last, so a split that has one is complete and is skipped; any other is made from its
    beginning.

    Args:
        voc: the folder VOC2010 of the VOCdevkit, with ImageSets/Main/{train,val}.txt and JPEGImages.
        annotations: the folder of the .mat files. Names of the lists without a file there are left out, and counted.
        output: the folder to write to.
        variants: of :data:`VARIANTS`.
        num_workers: processes to share the pictures among.

    Raises:
        ValueError: names the file: a missing list or picture, a list none of whose names has a .mat file, a picture of
            another size than its masks, and all that :func:`read_annotation` refuses.
    """
    for variant in variants:
        load_part_groups(variant)
    for split in ("train", "val"):
        _prepare_split(Path(voc), Path(annotations), Path(output), split, variants, num_workers)


def _prepare_split(
    voc: Path, annotations: Path, output: Path, split: str, variants: Sequence[str], num_workers: int
) -> None:
    folders = {variant: output / variant / "annotations" / split for variant in variants}
    for variant, folder in list(folders.items()):
        if (folder / f"{split}.json").exists():
            logger.info("%s: already there, skipped", folder / f"{split}.json")
            del folders[variant]
    if not folders:
        return
    names = _annotated_names(voc / "ImageSets" / "Main" / f"{split}.txt", annotations)
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    convert = partial(_prepare_image, voc=voc, annotations=annotations, folders=folders)
    cocos: dict[str, dict[str, Any]] = {
        variant: {"images": [], "annotations": [], "categories": _categories(variant)} for variant in folders
    }
    num_empty = 0
    with ExitStack() as stack:
        run: Any = map
        if num_workers > 1:
            run = partial(stack.enter_context(ProcessPoolExecutor(num_workers)).map, chunksize=8)
        for done, (image, found, empty) in enumerate(run(convert, names), start=1):
            num_empty += empty
            for variant, coco in cocos.items():
                coco["images"].append(image)
                for entry in found[variant]:
                    coco["annotations"].append({"id": len(coco["annotations"]) + 1, **entry})
            if done % _PROGRESS_EVERY == 0:
                logger.info("%s: %d of %d pictures", split, done, len(names))
    if num_empty:
        logger.warning("%s: %d parts with an empty mask left out", split, num_empty)
    for variant, coco in cocos.items():
        path = folders[variant] / f"{split}.json"
        write_output(path, json.dumps(coco).encode())
        logger.info("%s: %d pictures, %d part instances", path, len(names), len(coco["annotations"]))


def _annotated_names(list_file: Path, annotations: Path) -> list[str]:
    lines = read_text(list_file, "list of pictures").splitlines()
    names = [line.split()[0] for line in lines if line.strip()]
    for name in names:
        # It becomes the name of a file that is written.
        if base_name(name) != name:
            raise ValueError(f"list of pictures {list_file}: expected names such as 2008_000002, got {name!r}")
    found = [name for name in names if (annotations / f"{name}.mat").is_file()]
    if not found:
        raise ValueError(
            f"annotations {annotations}: expected .mat files such as 2008_000002.mat for the {len(names)} pictures "
            f"of {list_file}, found none"
        )
    if len(found) < len(names):
        missing = sorted(set(names) - set(found))
        logger.warning(
            "%s: %d of %d pictures have no .mat file and are left out, among them %s",
            *(list_file, len(missing), len(names), missing[0]),
        )
    return found


def _prepare_image(
    name: str, voc: Path, annotations: Path, folders: dict[str, Path]
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]], int]:
    """Writes the part maps of one picture; returns its entry, its annotations by variant, its count of empty parts."""
    mat_file, picture = annotations / f"{name}.mat", voc / "JPEGImages" / f"{name}.jpg"
    objects = read_annotation(mat_file)
    height, width, _ = stored_size(str(picture))
    if objects and objects[0].mask.shape != (height, width):
        raise ValueError(
            f"image {picture}: height and width are {(height, width)}, "
            f"but the masks of {mat_file} have {objects[0].mask.shape}"
        )
    # As VLPart: 2008_000652 is 2008000652, which needs 64 bits.
    image_id = int(re.sub(r"\D", "", name))
    found = {}
    for variant, folder in folders.items():
        painted = Image.fromarray(part_map(objects, variant, height, width))
        write_output(folder / f"{name}.png", partial(painted.save, format="PNG"), durable=False)
        found[variant] = [
            {"image_id": image_id, **_coco_annotation(class_id, mask)}
            for class_id, mask in part_instances(objects, variant)
        ]
    num_empty = sum(not part.mask.any() for annotated in objects for part in annotated.parts)
    entry = {"id": image_id, "file_name": f"{name}.jpg", "height": height, "width": width}
    return entry, found, num_empty


def _coco_annotation(class_id: int, mask: np.ndarray) -> dict[str, Any]:
    x0, y0, x1, y1 = mask_to_box(mask)
    return {
        "category_id": class_id,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": int(mask.sum()),
        "segmentation": mask_to_rle(mask),
        "iscrowd": 0,
    }


def _categories(variant: str) -> list[dict[str, Any]]:
    return [
        {key: entry[key] for key in ("id", "name", "supercategory")}
        for entry in read_vocabulary(_vocabulary_name(variant))["classes"]
    ]
