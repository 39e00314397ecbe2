"""One's own data without Python: registers data sets from short YAML descriptions (DATASETS.DESCRIPTIONS).

The form is explained in datasets/README.md::

    name: my_parts
    layout: partimagenet            # or coco
    root: my_parts
    splits:
      train: {images: images/train, annotations: annotations/train}
      val: {images: images/val, annotations: annotations/val}
    classes: [wheel, window]        # optional: the order of the class ids
    unseen: [window]                # optional: classes that zero-shot training does not see
    flip_pairs: [[near ear, far ear]]  # optional: classes that a mirrored picture exchanges; else those
                                       # that differ in left and right
    objects: [person]               # optional: what the parts belong to, with a folder of object maps in a split
    crowds: parts                   # optional: what iscrowd marks; else "ignore", a region of no single part
    exif: upright                   # optional: how the pictures lay under the labels; else "auto", or "stored"
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from wps_sam.data.sources.coco import (
    LAYOUTS,
    Layout,
    LoadOptions,
    find_coco_json,
    load_coco_vocabulary,
    register_part_dataset,
)
from wps_sam.data.sources.fields import read_yaml, shown
from wps_sam.data.sources.orientation import EXIF_RULES
from wps_sam.data.sources.ov_parts import OVSet, numbers_in_training, ov_metadata, seen_flags
from wps_sam.paths import find_file
from wps_sam.vocabulary import PartVocabulary, object_of_part

from detectron2.data import DatasetCatalog, MetadataCatalog

logger = logging.getLogger(__name__)

_REQUIRED = ("name", "layout", "root", "splits")
_OPTIONAL = ("classes", "unseen", "flip_pairs", "objects", "crowds", "exif")
_SPLIT_REQUIRED, _SPLIT_OPTIONAL = ("images", "annotations"), ("objects",)
# Of a data set with unseen classes: what a part data set is measured by, and the zero-shot protocol.
_ZERO_SHOT_PROTOCOLS = ("d2_semseg", "pin41", "wps_image_part", "wps_authors", "coco_ap", "pred_all")
_WORD = re.compile(r"[^\W\d_]?[^\W\d_A-Z]+|[A-Z]+(?![a-z])|\d+")
_OTHER_SIDE = {"left": "right", "right": "left", "l": "r", "r": "l"}
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}|\$(\w+)")


class SplitPaths(NamedTuple):
    """Where a split lies: image folder, COCO json, and the folder of its object maps if it has them; all absolute."""

    split: str
    images: str
    json_file: str
    objects: str | None


@dataclass(frozen=True)
class Description:
    """A checked description."""

    name: str
    layout: Layout
    splits: tuple[SplitPaths, ...]
    classes: tuple[str, ...] | None
    unseen: tuple[str, ...]
    flip_pairs: tuple[tuple[str, str], ...] | None
    objects: tuple[str, ...]
    options: LoadOptions


# What this process has registered: the same description may come twice, another one of that name may not.
_REGISTERED: dict[str, Description] = {}


def register_descriptions(paths: Iterable[str]) -> list[str]:
    """Registers the data sets of every description and returns their names.

    ``{name}_{split}`` shows all classes. With ``unseen`` there is also ``{name}_{split}_seen``, which shows the others
    only, numbered 0..; and of a split with object maps both as ``{name}_{split}_obj_condition`` and
    ``{name}_{split}_seen_obj_condition``, one record for each object of a picture, as in OV-PARTS. The class list is
    the description's, or that of the first split's json. Registering a description again does nothing.

    Raises:
        ValueError: names the description and the key, what came and what was expected; or the data set of that
            name that is already there.
    """
    return [name for path in paths for name in _register(read_description(path), path)]


def known_data_sets() -> list[str]:
    """The names of all registered data sets: first those of descriptions, as they came, then the others by name."""
    own = [name for description in _REGISTERED.values() for name in _dataset_names(description)]
    return own + sorted(set(DatasetCatalog.list()) - set(own))


def read_description(path: str) -> Description:
    """Reads and checks one description, which may lie in the project's folder, see :func:`find_file`.

    See :func:`register_descriptions` for the errors.
    """
    file = Path(find_file(path))
    where = f"data set description {path}"
    content = read_yaml(file, "data set description")
    _check_keys(content, _REQUIRED, _OPTIONAL, where)
    name = _text(content, "name", where)
    require_dataset_name(name, f"{where}: name")
    layout = _choice(content, "layout", LAYOUTS, where)
    root = _find_root(_text(content, "root", where), file.resolve().parent, where)
    splits = content["splits"]
    if not isinstance(splits, dict) or not splits:
        raise ValueError(f"{where}: splits: expected at least one, such as train: {{images: ..., annotations: ...}}")
    for split in splits:
        # It becomes part of the data set's name, and that of files and folders.
        require_dataset_name(str(split), f"{where}: splits")
    found = tuple(_split(entry, str(split), root, f"{where}: splits.{split}") for split, entry in splits.items())
    objects = _names(content, "objects", where)
    for paths in found:
        # Object-conditioned records are evaluated by their part maps, which the layout coco does not have.
        if paths.objects is not None and (not objects or layout != "partimagenet"):
            raise ValueError(
                f"{where}: splits.{paths.split}: objects: needs the layout partimagenet and the names of the "
                "objects, such as objects: [person]"
            )
    return Description(
        name=name,
        layout=layout,
        splits=found,
        classes=_names(content, "classes", where) or None,
        unseen=_names(content, "unseen", where),
        flip_pairs=_pairs(content, where),
        objects=objects,
        options=LoadOptions(
            crowds=_choice(content, "crowds", ("ignore", "parts"), where),
            exif=_choice(content, "exif", EXIF_RULES, where),
            # Part maps are written in the ids of the json.
            ids="same" if layout == "partimagenet" else "name",
        ),
    )


def require_dataset_name(name: str, where: str) -> None:
    """Requires a name that can be written in a configuration; ValueError begins with ``where``."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"{where}: expected letters, digits, _ and -, got {name!r}")


def _split(entry: Any, split: str, root: Path, where: str) -> SplitPaths:
    _check_keys(entry, _SPLIT_REQUIRED, _SPLIT_OPTIONAL, where)
    images, annotations = (str(root / _text(entry, key, where)) for key in _SPLIT_REQUIRED)
    objects = str(root / _text(entry, "objects", where)) if "objects" in entry else None
    if objects is not None and not os.path.isdir(objects):
        raise ValueError(f"{where}: objects: the folder {objects} does not exist")
    try:
        return SplitPaths(split, images, find_coco_json(annotations, split), objects)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _register(description: Description, path: str) -> list[str]:
    where = f"data set description {path}"
    if _REGISTERED.get(description.name) == description:
        return _dataset_names(description)
    names = _dataset_names(description)
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{where}: splits: two of them make a data set {name!r}; choose other names")
        if name in DatasetCatalog.list():
            raise ValueError(f"{where}: name: {name!r} is already registered with other content; choose another name")
    try:
        vocabulary = _vocabulary(description)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    for paths in description.splits:
        _register_split(description, paths, vocabulary)
    _REGISTERED[description.name] = description
    return _dataset_names(description)


def _dataset_names(description: Description) -> list[str]:
    names = []
    for paths in description.splits:
        name = f"{description.name}_{paths.split}"
        of_split = [name, f"{name}_seen"] if description.unseen else [name]
        names += of_split
        if paths.objects is not None:
            names += [f"{shown}_obj_condition" for shown in of_split]
    return names


def _vocabulary(description: Description) -> PartVocabulary:
    """The classes, their objects, which of them are seen, and which a mirrored picture exchanges."""
    vocabulary = load_coco_vocabulary(description.splits[0].json_file, description.classes)
    if description.objects:
        vocabulary = _with_objects(vocabulary, description.objects)
    _check_known(description.unseen, vocabulary, "unseen")
    if set(description.unseen) == set(vocabulary.names):
        raise ValueError("unseen: at least one class must be seen")
    vocabulary = vocabulary.with_unseen(vocabulary.names.index(name) for name in description.unseen)
    flip_map = _flip_map(description, vocabulary)
    return replace(vocabulary, flip_map=flip_map, family=description.name)


def _with_objects(vocabulary: PartVocabulary, objects: tuple[str, ...]) -> PartVocabulary:
    """The vocabulary with these objects: a single one has all parts, of several each class names its own."""
    owners = objects * len(vocabulary) if len(objects) == 1 else tuple(map(object_of_part, vocabulary.names))
    lost = [name for name, owner in zip(vocabulary.names, owners) if owner not in objects]
    if lost:
        raise ValueError(
            f"objects: the classes {lost} are of none of {list(objects)}; expected names such as \"{objects[0]}'s "
            'head", or one object, which has all of them'
        )
    return replace(vocabulary, object_names=objects, part_objects=tuple(map(objects.index, owners)))


def _flip_map(description: Description, vocabulary: PartVocabulary) -> tuple[int, ...] | None:
    """Class to class after a horizontal flip; None where no pair is exchanged. Pairs are those of the description, or,
    where it names none, those that differ in "left" and "right"."""
    pairs = description.flip_pairs
    if pairs is None:
        # Of two sides both are seen, or none: a mirrored label of a class that training may not see would show it.
        seen = [vocabulary.names[c] for c in vocabulary.seen_ids]
        pairs, alone = sided_pairs(seen)
        pairs += sided_pairs([name for name in vocabulary.names if name not in seen])[0]
        if pairs:
            logger.info("%s: mirrored pictures exchange %s", description.name, "; ".join(map(" and ".join, pairs)))
        if alone:
            logger.warning(
                "%s: %s: named after a side, and the other side is no class: with INPUT.RANDOM_FLIP horizontal they "
                "are taught on both. Write flip_pairs into the description, [] if that is right",
                description.name,
                ", ".join(alone),
            )
    flip_map = list(range(len(vocabulary)))
    for pair in pairs:
        _check_known(pair, vocabulary, "flip_pairs")
        left, right = map(vocabulary.names.index, pair)
        if (left in vocabulary.unseen) != (right in vocabulary.unseen):
            raise ValueError(f"flip_pairs: of {list(pair)} one is unseen; expected both or none")
        flip_map[left], flip_map[right] = right, left
    return tuple(flip_map) if pairs else None


def sided_pairs(names: Sequence[str]) -> tuple[tuple[tuple[str, str], ...], list[str]]:
    """Pairs of names that differ in left and right alone, "left ear" or "earL", and names whose other side is missing.

    A side is a word of its own: left, right, l or r, whatever its case.
    """
    by_words = {_words(name): name for name in names}
    pairs, alone = [], []
    for words, name in by_words.items():
        mirrored = tuple(_OTHER_SIDE.get(word, word) for word in words)
        # A single letter may mean anything, unless its counterpart is there, too.
        if mirrored in by_words and words < mirrored:
            pairs.append((name, by_words[mirrored]))
        elif mirrored not in by_words and {"left", "right"} & set(words):
            alone.append(name)
    return tuple(pairs), alone


def _words(name: str) -> tuple[str, ...]:
    """Words in lower case, also of names like leftEar."""
    return tuple(word.lower() for word in _WORD.findall(name))


def _check_known(names: Sequence[str], vocabulary: PartVocabulary, key: str) -> None:
    unknown = [name for name in names if name not in vocabulary.names]
    if unknown:
        raise ValueError(f"{key}: {unknown} are not among the classes {list(vocabulary.names)}")


def _register_split(description: Description, paths: SplitPaths, vocabulary: PartVocabulary) -> None:
    """Registers the data sets of one split; those beside the first are made of its records."""
    name = f"{description.name}_{paths.split}"
    layout, images, json_file = description.layout, paths.images, paths.json_file
    protocols = _ZERO_SHOT_PROTOCOLS if description.unseen else None
    register_part_dataset(
        name,
        layout,
        images,
        json_file,
        vocabulary,
        options=description.options,
        protocols=protocols,
        **seen_flags(vocabulary),
    )
    if description.unseen:
        # As zero-shot training may see it.
        seen = vocabulary.only_seen()
        register_part_dataset(
            f"{name}_seen",
            layout,
            images,
            json_file,
            seen,
            load=lambda: _only_seen(name, vocabulary.seen_ids),
            **seen_flags(seen),
            **numbers_in_training(vocabulary),
        )
    if paths.objects is not None:
        _register_objects(name, paths, paths.objects, vocabulary, OVSet("val", "object", "all"))
        if description.unseen:
            _register_objects(f"{name}_seen", paths, paths.objects, vocabulary, OVSet("train", "object", "seen"))


def _register_objects(name: str, paths: SplitPaths, objects: str, vocabulary: PartVocabulary, ov_set: OVSet) -> None:
    """Registers ``{name}_obj_condition``: which part of a given object is each of its pixels?"""
    num_objects, ignore_label = len(vocabulary.object_names), vocabulary.ignore_label
    DatasetCatalog.register(f"{name}_obj_condition", lambda: _one_object_each(name, objects))
    # There is no background inside an object, and any other value of an object map means none.
    inside = replace(vocabulary, background_ids=(), ignored_ids=vocabulary.background_ids)
    MetadataCatalog.get(f"{name}_obj_condition").set(
        image_root=paths.images,
        sem_seg_root=os.path.dirname(paths.json_file),
        obj_label_map={value: value if value < num_objects else ignore_label for value in range(256)},
        **ov_metadata(inside, ov_set),
    )


def _only_seen(name: str, class_ids: Mapping[int, int]) -> list[dict[str, Any]]:
    """The records of the data set ``name`` without the labels of unseen classes; every picture stays."""
    records = []
    for record in DatasetCatalog.get(name):
        seen = {key: value for key, value in record.items() if key != "tags"}
        seen["annotations"] = [
            {**a, "category_id": class_ids[a["category_id"]]}
            for a in record["annotations"]
            if a["category_id"] in class_ids
        ]
        tags = [class_ids[c] for c in record.get("tags", ()) if c in class_ids]
        if tags:
            seen["tags"] = tags
        records.append(seen)
    return records


def _one_object_each(name: str, objects: str) -> list[dict[str, Any]]:
    """A record for each picture of the data set ``name`` and each object that has parts in it."""
    part_objects = MetadataCatalog.get(name).part_objects
    records = []
    for record in DatasetCatalog.get(name):
        stem = os.path.splitext(os.path.basename(record["file_name"]))[0]
        object_map = os.path.join(objects, f"{stem}.png")
        for path in (record.get("sem_seg_file_name"), object_map):
            if path is None or not os.path.isfile(path):
                raise ValueError(f"{record['file_name']}: expected a part map and an object map, {path} is missing")
        # An object without parts has nothing to be told apart, and could never count.
        for category_id in sorted({part_objects[a["category_id"]] for a in record["annotations"]}):
            conditioned = {key: value for key, value in record.items() if key not in ("annotations", "tags")}
            records.append(
                {
                    **conditioned,
                    "image_id": f"{record['image_id']}_{category_id}",
                    "obj_sem_seg_file_name": object_map,
                    "category_id": category_id,
                }
            )
    logger.info("%s_obj_condition: %d records", name, len(records))
    return records


def _check_keys(entry: Any, required: tuple[str, ...], optional: tuple[str, ...], where: str) -> None:
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: expected the keys {required}, got {shown(entry)}")
    unknown = [key for key in entry if key not in required + optional]
    missing = [key for key in required if key not in entry]
    if unknown or missing:
        raise ValueError(
            f"{where}: unknown keys {shown(unknown)}, missing keys {missing}; "
            f"expected {required}" + (f" and perhaps {optional}" if optional else "")
        )


def _choice(content: Mapping[str, Any], key: str, choices: tuple[Any, ...], where: str) -> Any:
    """One of ``choices``; the first where the key is left out."""
    chosen = content.get(key, choices[0])
    if not isinstance(chosen, str) or chosen not in choices:
        raise ValueError(f"{where}: {key}: expected one of {choices}, got {shown(chosen)}")
    return chosen


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
    if not isinstance(entry[key], str) or not entry[key]:
        raise ValueError(f"{where}: {key}: expected a text, got {shown(entry[key])}")
    return entry[key]


def _find_root(root: str, folder: Path, where: str) -> Path:
    """The folder ``root``: relative to the description, then to $DETECTRON2_DATASETS."""
    given = os.path.expanduser(_expand(root, where))
    tried = [folder / given, Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser().resolve() / given]
    for candidate in tried:
        # pathlib would raise for a name that is too long for any folder.
        if os.path.isdir(candidate):
            return candidate
    paths = " and ".join(dict.fromkeys(map(str, tried)))
    raise ValueError(f"{where}: root: the folder does not exist; looked for {paths}")


def _expand(text: str, where: str) -> str:
    """Puts environment variables in: $NAME, ${NAME}, and ${NAME:-default} as in a shell."""

    def value(match: re.Match[str]) -> str:
        name, default = match.group(1) or match.group(3), match.group(2)
        found = os.environ.get(name) or default
        if not found:
            raise ValueError(f"{where}: root: the environment variable {name} in {text!r} is not set")
        return found

    return _VARIABLE.sub(value, text)


def _names(content: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """A list of different names; () where the key is left out."""
    if key not in content:
        return ()
    names = content[key]
    names_only = isinstance(names, list) and names and all(isinstance(name, str) and name for name in names)
    if not names_only or len(set(names)) != len(names):
        raise ValueError(f"{where}: {key}: expected a list of different names, got {shown(names)}")
    return tuple(names)


def _pairs(content: Mapping[str, Any], where: str) -> tuple[tuple[str, str], ...] | None:
    """``flip_pairs``: lists of two names, in which no name occurs twice; None where the key is left out."""
    if "flip_pairs" not in content:
        return None
    pairs = content["flip_pairs"]
    well_formed = isinstance(pairs, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(name, str) for name in pair) for pair in pairs
    )
    names = [name for pair in pairs for name in pair] if well_formed else []
    if not well_formed or len(set(names)) != len(names):
        raise ValueError(
            f"{where}: flip_pairs: expected pairs of names such as [[left ear, right ear]], got {shown(pairs)}"
        )
    return tuple((left, right) for left, right in pairs)
