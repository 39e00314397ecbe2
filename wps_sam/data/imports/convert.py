"""What was read of an export and a folder of pictures become COCO files in the form that our loader reads."""

from __future__ import annotations

import posixpath
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wps_sam.data.imports.labels import Box, Export, Label, LabelledPicture, Notes
from wps_sam.data.imports.pictures import PictureFolder, sizes
from wps_sam.data.sources.coco import tight_box, usable_segmentation
from wps_sam.data.sources.coco_json import fold, is_background
from wps_sam.masks import Segmentation
from wps_sam.user_errors import did_you_mean

# A side that an export does not name.
_TRAIN, _VAL = "train", "val"
# Boxes drawn by hand end a little outside.
_SLACK = 1.0
_NUM_CLASSES_SAID = 20
# What an annotation counts as: the most that it has.
_KEYS = {"mask": "segmentation", "box": "bbox", "point": "point"}


@dataclass
class Imported:
    """A data set that was made of an export.

    Args:
        classes: in the order of their ids.
        splits: a COCO file for each, file names relative to the folder of the pictures.
        upright: labels were made on pictures turned as their EXIF tags say, and only we know it.
    """

    classes: list[str]
    splits: dict[str, dict[str, Any]]
    notes: Notes
    upright: bool = False
    # (class, kind) of labels and tags.
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def summary(self) -> str:
        """One paragraph: pictures, labels by kind and class, what was left out and what was changed."""
        images = [image for content in self.splits.values() for image in content["images"]]
        labelled = {a["image_id"] for content in self.splits.values() for a in content["annotations"]}
        empty = sum(image["id"] not in labelled and not image.get("tags") for image in images)
        shares = ", ".join(f"{split} {len(content['images'])}" for split, content in self.splits.items())
        said = [f"{len(images)} pictures ({shares}), {empty} of them without labels."]
        by_kind = Counter[str]()
        by_class: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for (name, kind), count in self.counts.items():
            by_kind[kind] += count
            by_class[name][kind] += count
        said.append(f"Labels: {_counted(by_kind)}.")
        lines = [f"{name}: {_counted(by_class[name])}" for name in self.classes]
        more = f"; and {len(lines) - _NUM_CLASSES_SAID} more classes" if len(lines) > _NUM_CLASSES_SAID else ""
        said.append(f"By class: {'; '.join(lines[:_NUM_CLASSES_SAID])}{more}.")
        for split in self.splits if len(self.splits) > 1 else ():
            if lacking := self._classes_without_labels(split):
                said.append(f"No label in {split} of: {', '.join(lacking)}.")
        return " ".join([*said, *self.notes.sentences()])

    def _classes_without_labels(self, split: str) -> list[str]:
        content = self.splits[split]
        there = {self.classes[a["category_id"]] for a in content["annotations"]}
        there.update(tag for image in content["images"] for tag in image.get("tags", ()))
        return [name for name in self.classes if name not in there]


def _counted(kinds: Mapping[str, int]) -> str:
    names = {"mask": "masks", "box": "boxes", "point": "points", "tag": "tags"}
    found = [
        f"{kinds[kind]} {plural if kinds[kind] > 1 else kind}" for kind, plural in names.items() if kinds.get(kind)
    ]
    return ", ".join(found) or "none"


def convert(
    export: Export,
    pictures: PictureFolder,
    notes: Notes,
    classes: Sequence[str] = (),
    val_share: float = 0.0,
    seed: int = 0,
) -> Imported:
    """The COCO files of an export: images with size and perhaps ``tags``; annotations with ``bbox`` (x, y, width,
    height), ``segmentation`` and ``point``, as far as they are known, in pixels.

    Pictures that are missing, damaged or of another size than the export says, and labels that lie outside of their
    pictures are left out and noted. Where the export names no size, labels are taken as made on the picture turned
    upright, as all tools show it.

    Args:
        classes: to keep, in the order of their ids; () keeps all, in the order of the tool, and else of the alphabet.
        val_share: of the pictures, 0..1, drawn by ``seed`` for val so that every class of two pictures or more has some
            on both sides, as far as that can be; only of exports that name no splits but train.

    Raises:
        ValueError: no picture, or no class, is left; two classes have one name; a chosen class is spelt otherwise in
            the export; the export has its own val.
    """
    names = _Names(export, classes, notes)
    imported = Imported(names.order, {}, notes)
    merged = _merged(export, pictures, notes)
    if not merged:
        raise ValueError(
            f"images {pictures.root}: of {len(export.pictures)} labelled pictures none could be used. "
            + " ".join(notes.sentences())
        )
    splits = _drawn(merged, val_share, seed, names)
    for path, parts in merged.items():
        content = imported.splits.setdefault(
            splits[path],
            {
                "images": [],
                "annotations": [],
                "categories": [{"id": c, "name": name} for c, name in enumerate(names.order)],
            },
        )
        _add_picture(content, path.relative_to(pictures.root).as_posix(), parts, names, imported)
    for path in pictures.paths:
        if path not in merged:
            notes.leave_out("pictures of the folder that no label speaks of", path.name)
    imported.upright = any(parts.upright for parts in merged.values())
    order = {_TRAIN: 0, _VAL: 1}
    imported.splits = dict(sorted(imported.splits.items(), key=lambda item: order.get(item[0], 2)))
    return imported


class _Names:
    """Which class a name of the export is: names that differ in case, blanks or Unicode's form are one.

    The order is that of ``chosen``, or the tool's, and then the alphabet's.
    """

    def __init__(self, export: Export, chosen: Sequence[str], notes: Notes) -> None:
        used = {name for p in export.pictures for name in (*p.tags, *(label.name for label in p.labels))}
        ordered = list(chosen) or [*export.classes, *sorted(used.difference(export.classes))]
        self._ids: dict[str, int] = {}
        self.order: list[str] = []
        for name in ordered:
            folded = fold(name)
            if folded and not is_background(name) and folded not in self._ids:
                self._ids[folded] = len(self.order)
                self.order.append(" ".join(name.split()))
        if chosen and len(self.order) < len(chosen):
            raise ValueError(f"classes: expected different names of parts, got {list(chosen)}")
        known = {fold(name): name for name in (*export.classes, *sorted(used))}
        for name in chosen:
            if fold(name) not in known:
                # Of a list that goes for several exports, some classes may be missing in this one; but not misspelt.
                meant = did_you_mean(name, [own for folded, own in known.items() if folded not in self._ids])
                if meant:
                    raise ValueError(f"classes: the labels have no class {name!r}{meant}; they have {_few(known)}")
                notes.change(f"of the chosen classes is not in the labels: {name!r}")
        if not self.order:
            raise ValueError("labels: expected at least one class, found none")

    def of(self, entries: Iterable[LabelledPicture]) -> set[int]:
        """The classes that the labels and tags of one picture speak of."""
        used = {fold(name) for entry in entries for name in (*entry.tags, *(label.name for label in entry.labels))}
        return {self._ids[name] for name in used & self._ids.keys()}

    def find(self, name: str, notes: Notes, where: str) -> int | None:
        """The class's id; None, and a note, where it is left out."""
        class_id = self._ids.get(fold(name))
        if class_id is None:
            notes.leave_out(f"labels of the class {name!r}", where)
        elif self.order[class_id] != " ".join(name.split()):
            notes.change(f"labels {name!r} were taken as {self.order[class_id]!r}")
        return class_id


def _few(names: Mapping[str, str]) -> str:
    shown = list(names.values())[:_NUM_CLASSES_SAID]
    return ", ".join(shown) + ", ..." * (len(names) > len(shown))


@dataclass
class _Settled:
    """All that is said of one picture file, and its size in the pixel grid of the labels."""

    height: int
    width: int
    split: str | None
    upright: bool
    entries: list[LabelledPicture]


def _merged(export: Export, pictures: PictureFolder, notes: Notes) -> dict[Path, _Settled]:
    """The pictures that can be used, with all entries of each."""
    merged: dict[Path, _Settled] = {}
    for entry in export.pictures:
        found = pictures.find(entry.name)
        where, lost = posixpath.normpath(_name_of(entry)), len(entry.labels) + len(entry.tags)
        if len(found) != 1:
            what = "pictures whose names several files have" if found else f"pictures that are not in {pictures.root}"
            notes.leave_out(what, where, lost)
            continue
        (path,) = found
        if path in merged:
            settled = merged[path]
            if _name_of(settled.entries[0]) != _name_of(entry) or settled.split != entry.split:
                # Perhaps a namesake in another folder, which is missing here.
                notes.leave_out("second entries that would be of the same picture file", where, lost)
            else:
                settled.entries.append(entry)
            continue
        try:
            stored, upright, is_turned = sizes(path)
        except ValueError:
            notes.leave_out("pictures that cannot be read", where, lost)
            continue
        if entry.size not in (None, stored, upright):
            notes.leave_out("pictures of another size than their labels say", where, lost)
            continue
        height, width = entry.size or upright
        if entry.size is None and is_turned:
            notes.change("pictures with an EXIF orientation were taken as labelled upright, as the labels name no size")
        merged[path] = _Settled(height, width, entry.split, entry.size is None and is_turned, [entry])
    return merged


def _name_of(entry: LabelledPicture) -> str:
    return entry.name.replace("\\", "/")


def _drawn(merged: Mapping[Path, _Settled], val_share: float, seed: int, names: _Names) -> dict[Path, str]:
    """The split of each picture: the export's own, or drawn."""
    if not 0 <= val_share < 1:
        raise ValueError(f"val share: expected 0 or more and less than 1, got {val_share}")
    own = {path: settled.split or _TRAIN for path, settled in merged.items()}
    if not val_share:
        return own
    if set(own.values()) != {_TRAIN}:
        raise ValueError(f"val share: the labels name their own splits, {sorted(set(own.values()))}; leave it out")
    # Of the names alone, so that another order of the export draws the same.
    drawn = random.Random(seed).sample(sorted(own), max(1, round(val_share * len(own))))
    if len(drawn) == len(own):
        raise ValueError(f"val share: {val_share} of {len(own)} pictures leaves none to train on")
    return {**own, **dict.fromkeys(_with_all_classes(drawn, merged, names), _VAL)}


def _with_all_classes(drawn: Sequence[Path], merged: Mapping[Path, _Settled], names: _Names) -> list[Path]:
    """As many pictures as ``drawn``, some exchanged for others while that leaves fewer classes on one side alone."""
    classes = {path: names.of(settled.entries) for path, settled in merged.items()}
    total = Counter(c for found in classes.values() for c in found)
    val, left = list(drawn), [path for path in sorted(merged) if path not in set(drawn)]
    count = Counter(c for path in val for c in classes[path])

    def on_one_side(class_id: int, more: int = 0) -> bool:
        return total[class_id] > 1 and not 0 < count[class_id] + more < total[class_id]

    def first_of_each_kind(side: Sequence[Path]) -> list[int]:
        # Pictures of the same classes gain the same.
        first: dict[frozenset[int], int] = {}
        for k, path in enumerate(side):
            first.setdefault(frozenset(classes[path]), k)
        return list(first.values())

    while lacking := {c for c in total if on_one_side(c)}:
        exchanges = [
            (i, k)
            for i in first_of_each_kind(val)
            for k in first_of_each_kind(left)
            if (classes[val[i]] | classes[left[k]]) & lacking
        ]

        def gain(exchange: tuple[int, int]) -> int:
            gone, come = classes[val[exchange[0]]], classes[left[exchange[1]]]
            return sum(on_one_side(c) - on_one_side(c, (c in come) - (c in gone)) for c in gone ^ come)

        best = max(exchanges, key=gain, default=None)
        if best is None or gain(best) <= 0:
            break
        i, k = best
        count.subtract(classes[val[i]])
        count.update(classes[left[k]])
        val[i], left[k] = left[k], val[i]
    return val


def _add_picture(content: dict[str, Any], file_name: str, parts: _Settled, names: _Names, imported: Imported) -> None:
    """Adds an image and its annotations to a COCO file."""
    # Ids are unique over all splits.
    image_id = 1 + sum(len(other["images"]) for other in imported.splits.values())
    first = sum(len(other["annotations"]) for other in imported.splits.values())
    tags: set[str] = set()
    for entry in parts.entries:
        for label in entry.labels:
            class_id = names.find(label.name, imported.notes, file_name)
            if class_id is None:
                continue
            scale = (parts.width, parts.height) if entry.in_shares else (1, 1)
            place = _place(label, scale, parts, file_name, imported.notes)
            if place:
                first += 1
                about = {"id": first, "image_id": image_id, "category_id": class_id, **place}
                content["annotations"].append(about)
                kind = next(kind for kind, key in _KEYS.items() if key in place)
                imported.counts[names.order[class_id], kind] += 1
        found = {names.find(tag, imported.notes, file_name) for tag in entry.tags}
        tags |= {names.order[c] for c in found if c is not None}
    imported.counts.update((tag, "tag") for tag in tags)
    image = {"id": image_id, "file_name": file_name, "height": parts.height, "width": parts.width}
    content["images"].append({**image, **({"tags": sorted(tags)} if tags else {})})


def _place(label: Label, scale: tuple[int, int], parts: _Settled, file_name: str, notes: Notes) -> dict[str, Any]:
    """The fields of an annotation that say where it is; {} where nothing usable is left."""
    place: dict[str, Any] = {}
    if label.segmentation is not None:
        place = _mask(label.segmentation, scale, parts, file_name, notes)
    if label.box is not None:
        box = _clipped(label.box, scale, parts, file_name, notes)
        if box is not None:
            place["bbox"] = box
    if label.point is not None:
        x, y = label.point[0] * scale[0], label.point[1] * scale[1]
        if 0 <= x <= parts.width and 0 <= y <= parts.height:
            # Ours are SAM's: whole numbers are pixel centres.
            place["point"] = [round(x - 0.5, 2), round(y - 0.5, 2)]
        else:
            notes.leave_out("points outside of their pictures", file_name)
    if place and label.crowd:
        place["iscrowd"] = 1
    return place


def _mask(
    segmentation: Segmentation, scale: tuple[int, int], parts: _Settled, file_name: str, notes: Notes
) -> dict[str, Any]:
    """The mask and the box around it; {} where nothing usable is left."""
    if scale != (1, 1) and not isinstance(segmentation, Mapping):
        segmentation = [[v * scale[i % 2] for i, v in enumerate(polygon)] for polygon in segmentation]
    try:
        usable = usable_segmentation(segmentation, parts.height, parts.width)
        box = tight_box(usable, parts.height, parts.width) if usable else None
    except ValueError:
        notes.leave_out("malformed masks", file_name)
        return {}
    if usable is None:
        notes.leave_out("polygons of fewer than three corners", file_name)
        return {}
    if box is None:
        notes.leave_out("masks that are empty or outside of their pictures", file_name)
        return {}
    if isinstance(usable, list):
        usable = [[round(float(v), 2) for v in polygon] for polygon in usable]
    return {"segmentation": usable, "bbox": [round(v, 2) for v in box]}


def _clipped(box: Box, scale: tuple[int, int], parts: _Settled, file_name: str, notes: Notes) -> list[float] | None:
    """[x, y, width, height] of a box within the picture; None where nothing is left."""
    limits = (parts.width, parts.height)
    corners = [v * scale[i % 2] for i, v in enumerate(box)]
    x0, y0, x1, y1 = (min(max(v, 0.0), float(limits[i % 2])) for i, v in enumerate(corners))
    if corners[0] >= corners[2] or corners[1] >= corners[3]:
        notes.leave_out("boxes of no size", file_name)
    elif x0 >= x1 or y0 >= y1:
        notes.leave_out("boxes outside of their pictures", file_name)
    else:
        if max(abs(a - b) for a, b in zip(corners, (x0, y0, x1, y1))) > _SLACK:
            notes.change("boxes that reach beyond their pictures were clipped")
        return [round(v, 2) for v in (x0, y0, x1 - x0, y1 - y0)]
    return None
