"""A COCO file at the door: every field that is read is checked here, once, and brought to one form.

What is in a field is decided elsewhere (:mod:`wps_sam.data.sources.coco`), such as which category is which class.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from wps_sam.data.sources.fields import flag, identity, integer, numbers, picture_size, read_json, shown, text

logger = logging.getLogger(__name__)

# Converters such as labelme2coco list the background among the categories; it is never a part.
_BACKGROUND_NAMES = frozenset({"_background_", "__background__", "background"})
NO_SUPERCATEGORY = "object"
_LISTS = ("images", "annotations", "categories")


class CocoImage(NamedTuple):
    """An entry of ``images``; ``where`` names it in messages, height and width are in pixels."""

    where: str
    id: int | str
    file_name: str
    height: int
    width: int
    tags: list[str]


class CocoAnnotation(NamedTuple):
    """An entry of ``annotations``: ``bbox`` [x, y, width, height] and ``point`` [x, y] in pixels, None if missing;
    ``segmentation`` as it stands."""

    where: str
    id: int | str
    image_id: int | str
    category_id: int
    iscrowd: bool
    bbox: list[float] | None
    point: list[float] | None
    segmentation: Any


class CocoCategory(NamedTuple):
    """An entry of ``categories``; ``used``: by an annotation."""

    id: int
    name: str
    supercategory: str
    used: bool


@dataclass(frozen=True)
class CocoFile:
    """What a COCO file holds; ``categories`` without those that only name the project."""

    path: str
    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


def fold(name: str) -> str:
    """Names that differ in case, blanks or Unicode's form only are one class."""
    return " ".join(unicodedata.normalize("NFC", name).split()).lower()


def is_background(name: str) -> bool:
    return fold(name) in _BACKGROUND_NAMES


def read_coco(json_file: str) -> CocoFile:
    """Reads and checks a whole COCO file.

    Raises:
        ValueError: names the file and the field, what came and what was expected.
    """
    return check_coco(read_json(json_file, "annotations"), json_file)


def check_coco(content: Any, json_file: str) -> CocoFile:
    """:func:`read_coco` of what has been read already."""
    _require_lists(content, json_file)
    images = [_image(entry, f"{json_file}: images[{i}]") for i, entry in enumerate(content["images"])]
    annotations = [
        _annotation(entry, f"{json_file}: annotations[{i}]") for i, entry in enumerate(content["annotations"])
    ]
    _require_unique([image.id for image in images], [f"{image.where}.id" for image in images])
    _require_unique([a.id for a in annotations], [f"{json_file}: annotations[{i}].id" for i in range(len(annotations))])
    categories, _ = _categories(content, json_file)
    return CocoFile(json_file, images, annotations, categories)


def read_categories(json_file: str, names: Sequence[str] = ()) -> list[CocoCategory]:
    """The categories alone, which is quicker. Errors as of :func:`read_coco`.

    Args:
        json_file: the COCO file.
        names: of classes, which none of them is taken for the project's name.
    """
    content = read_json(json_file, "annotations")
    _require_lists(content, json_file)
    categories, project = _categories(content, json_file, names)
    if project is not None:
        logger.info(
            "%s: the category %r is the supercategory of all others and has no annotation: taken for the project's "
            "name, not for a class. If it is one, name it among the description's classes",
            *(json_file, project),
        )
    return categories


def _require_unique(values: Sequence[Any], places: Sequence[str], example: str = "") -> None:
    seen = set()
    for value, where in zip(values, places):
        if value in seen:
            raise ValueError(f"{where}: {value!r} occurs twice; expected each once{example}")
        seen.add(value)


def _require_lists(content: Any, json_file: str) -> None:
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in _LISTS):
        got = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"annotations {json_file}: expected a COCO file with the lists {_LISTS}, got {got}")


def _image(entry: Any, where: str) -> CocoImage:
    return CocoImage(
        where,
        identity(entry, "id", where),
        text(entry, "file_name", where),
        *picture_size(entry, where),
        _tags(entry.get("tags"), where),
    )


def _tags(names: Any, where: str) -> list[str]:
    if names is None:
        return []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where}.tags: expected a list of class names, got {shown(names)}")
    return names


def _annotation(entry: Any, where: str) -> CocoAnnotation:
    annotation_id = identity(entry, "id", where)
    where = f"{where} (id {annotation_id})"
    return CocoAnnotation(
        where,
        annotation_id,
        identity(entry, "image_id", where),
        integer(entry, "category_id", where),
        flag(entry, "iscrowd", where),
        numbers(entry, "bbox", ("x", "y", "width", "height"), where),
        numbers(entry, "point", ("x", "y"), where),
        entry.get("segmentation"),
    )


def _categories(
    content: Mapping[str, Any], json_file: str, names: Sequence[str] = ()
) -> tuple[list[CocoCategory], str | None]:
    """The categories without the one that only names the project, and its name."""
    used = {_category_of(entry) for entry in content["annotations"]}
    categories, places = [], []
    for position, entry in enumerate(content["categories"]):
        where = f"{json_file}: categories[{position}]"
        category_id, name = integer(entry, "id", where, minimum=0), text(entry, "name", where)
        supercategory = entry.get("supercategory")
        if supercategory is not None and not isinstance(supercategory, str):
            raise ValueError(f"{where}.supercategory: expected a text, got {shown(supercategory)}")
        categories.append(CocoCategory(category_id, name, supercategory or NO_SUPERCATEGORY, category_id in used))
        places.append(where)
    project = None
    if _begins_with_project(categories, names):
        project = categories[0].name
        categories, places = categories[1:], places[1:]
    _require_unique([c.id for c in categories], [f"{where}.id" for where in places])
    by_fold = {fold(c.name): c.name for c in categories}
    _require_unique(
        [by_fold[fold(c.name)] for c in categories], [f"{where}.name" for where in places], ", such as 'Dog Head'"
    )
    return categories, project


def _begins_with_project(categories: Sequence[CocoCategory], names: Sequence[str]) -> bool:
    """Whether the first category stands for the whole project, as in Roboflow's exports.

    Its supercategory is the word "none", it has no annotation, and is the supercategory of all others. It may have the
    name of one of them.
    """
    if len(categories) < 2:
        return False
    root, *others = categories
    if root.used or root.supercategory != "none" or any(c.supercategory != root.name for c in others):
        return False
    is_double = fold(root.name) in {fold(c.name) for c in others}
    return is_double or fold(root.name) not in {fold(name) for name in names}


def _category_of(entry: Any) -> int | None:
    try:
        return integer(entry, "category_id", "")
    except ValueError:  # Told when annotations are read.
        return None
