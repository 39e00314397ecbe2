"""What a data set holds and what in it looks odd: worth a look before training, and no error."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wps_sam.data.imports.labels import split_of
from wps_sam.data.imports.pictures import sizes
from wps_sam.data.sources.descriptions import sided_pairs
from wps_sam.data.weak_labels import label_kind, usable_box
from wps_sam.masks import record_size
from wps_sam.structures import LabelKind

import numpy as np
import xxhash
from detectron2.data import DatasetCatalog, MetadataCatalog

Record = Mapping[str, Any]

# Of a class with fewer labels little can be learned.
FEW_LABELS = 10
# SAM's features have so many cells along the longer side of a picture.
NUM_CELLS = 64
# Share of a picture from which on a box says no more than a tag.
FULL = 0.95
_NUM_EXAMPLES = 5


@dataclass(frozen=True)
class Oddity:
    """Something that is worth a look: how often, what, perhaps what to do, and where, at most five times."""

    count: int
    what: str
    examples: tuple[str, ...] = ()


@dataclass
class Findings:
    """What one data set holds.

    Args:
        name: of the registered data set.
        classes: C names.
        records: of the data set.
        labels: int [C, 4], by class and :class:`LabelKind`: the most that each annotation has; and tags.
        pictures: int [C], pictures that show the class, or have it as a tag.
        box_sizes: of each class, the sides of its boxes: roots of their share of the picture's area, 0..1.
        num_empty: pictures without annotation or tag.
        oddities: of pictures, labels and classes.
        digests: file names of pictures by their content.
    """

    name: str
    classes: list[str]
    records: list[Record]
    labels: np.ndarray
    pictures: np.ndarray
    box_sizes: list[list[float]]
    num_empty: int = 0
    oddities: list[Oddity] = field(default_factory=list)
    digests: dict[str, list[str]] = field(default_factory=dict)


class _Seen:
    """Where something odd was seen, by what it is."""

    def __init__(self) -> None:
        self._where: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, what: str, where: str) -> None:
        self._where[what].append(where)

    def oddities(self) -> Iterator[Oddity]:
        for what, where in self._where.items():
            yield Oddity(len(where), what, tuple(dict.fromkeys(where))[:_NUM_EXAMPLES])


def check_datasets(names: Sequence[str]) -> list[Findings]:
    """The findings in registered data sets; the first one's oddities say which of its pictures are in the others, too.

    Every picture file is read once, and none is decoded.

    Raises:
        ValueError: a data set cannot be read, see :mod:`wps_sam.data.sources.coco`.
    """
    found = [_check(name) for name in names]
    for k, first in enumerate(found):
        for other in found[k + 1 :]:
            seen = _Seen()
            for digest in first.digests.keys() & other.digests.keys():
                what = f"pictures are in {other.name} as well, where they can tell nothing of what was learned"
                seen.add(what, f"{first.digests[digest][0]} is {other.digests[digest][0]}")
            first.oddities[:0] = seen.oddities()
    return found


def _check(name: str) -> Findings:
    records, metadata = DatasetCatalog.get(name), MetadataCatalog.get(name)
    classes = list(metadata.thing_classes)
    count = len(classes)
    labels, pictures = np.zeros((count, len(LabelKind)), int), np.zeros(count, int)
    found = Findings(name, classes, records, labels, pictures, [[] for _ in classes])
    seen = _Seen()
    digests: defaultdict[str, list[str]] = defaultdict(list)
    for record in records:
        where = Path(record["file_name"]).name
        _look_at_file(record, where, digests, seen)
        shown = {*record.get("tags", ()), *(a["category_id"] for a in record["annotations"])}
        for c in shown:
            pictures[c] += 1
        for c in record.get("tags", ()):
            labels[c, LabelKind.TAG] += 1
        found.num_empty += not shown
        _look_at_labels(record, where, found, seen)
    found.digests = dict(digests)
    found.oddities = [
        *seen.oddities(),
        *_doubles(digests),
        *_odd_classes(found, metadata.get("flip_map")),
    ]
    return found


def _look_at_file(record: Record, where: str, digests: dict[str, list[str]], seen: _Seen) -> None:
    try:
        stored, upright, _ = sizes(Path(record["file_name"]))
    except ValueError as error:
        seen.add("pictures cannot be read", f"{where}: {error}")
        return
    expected = {"stored": (stored,), "upright": (upright,)}.get(record.get("exif", ""), (stored, upright))
    size = record_size(record)
    if size not in expected:
        seen.add(
            "pictures have another size than their labels say, and stop the training",
            f"{where}: {stored[1]} x {stored[0]}, not {size[1]} x {size[0]}",
        )
    digests[xxhash.xxh3_64_hexdigest(Path(record["file_name"]).read_bytes())].append(where)


def _look_at_labels(record: Record, where: str, found: Findings, seen: _Seen) -> None:
    height, width = record_size(record)
    boxes: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for annotation in record["annotations"]:
        class_id = annotation["category_id"]
        if annotation.get("iscrowd"):
            seen.add("annotations are crowds, which training leaves out", where)
            continue
        found.labels[class_id, label_kind(annotation, height, width, "as_annotated")] += 1
        box = usable_box(annotation, height, width)
        if box is None:
            continue
        box_width, box_height = box[2] - box[0], box[3] - box[1]
        share = box_width * box_height / (height * width)
        found.box_sizes[class_id].append(share**0.5)
        # To the pixel: tools round.
        boxes[tuple(round(v) for v in box)].append(class_id)
        if max(box_width, box_height) < max(height, width) / NUM_CELLS:
            seen.add(f"boxes are smaller than one of SAM's cells, a {NUM_CELLS}th of the picture's longer side", where)
        if share >= FULL:
            seen.add("boxes fill their pictures, and say no more than a tag", where)
    for class_ids in boxes.values():
        for class_id, times in Counter(class_ids).items():
            if times > 1:
                seen.add("boxes are there twice", f"{where}: {found.classes[class_id]}")
        if len(set(class_ids)) > 1:
            names = " and ".join(sorted({found.classes[c] for c in class_ids}))
            seen.add("boxes have two classes at once", f"{where}: {names}")


def _doubles(digests: Mapping[str, Sequence[str]]) -> Iterator[Oddity]:
    doubles = [names for names in digests.values() if len(names) > 1]
    if doubles:
        examples = tuple(" is ".join(names[:2]) for names in doubles[:_NUM_EXAMPLES])
        yield Oddity(len(doubles), "pictures are there more than once, byte by byte", examples)


def _odd_classes(found: Findings, flip_map: Sequence[int] | None) -> Iterator[Oddity]:
    totals = found.labels.sum(axis=1)
    # To measure by, a few are enough.
    few = (0 < totals) & (totals < FEW_LABELS) & (split_of(found.name) in (None, "train"))
    for what, odd in [
        ("classes have no label", totals == 0),
        (f"classes have fewer than {FEW_LABELS} labels, and will hardly be learned", few),
    ]:
        names = [f"{found.classes[c]} ({totals[c]})" for c in np.flatnonzero(odd)]
        if names:
            yield Oddity(len(names), what, tuple(names))
    always = [found.classes[c] for c in np.flatnonzero(found.pictures == len(found.records))]
    # Boxes and points teach them all the same.
    if always and len(found.records) > 1 and found.labels[:, LabelKind.TAG].any():
        yield Oddity(len(always), "classes are in every picture: tags can't teach them", tuple(always))
    yield from _odd_sides(found.classes, flip_map)


def _odd_sides(classes: Sequence[str], flip_map: Sequence[int] | None) -> Iterator[Oddity]:
    """Classes that tell left from right, which a mirrored picture would teach wrongly."""
    named, alone = sided_pairs(classes)
    exchanged = {(c, k) for c, k in enumerate(flip_map or ())}
    pairs = [p for p in named if (classes.index(p[0]), classes.index(p[1])) not in exchanged]
    if pairs:
        yield Oddity(
            len(pairs),
            "pairs of classes tell left from right, but the description's flip_pairs do not exchange them: leave "
            "INPUT.RANDOM_FLIP at none, or take flip_pairs out",
            tuple(map(" and ".join, pairs)),
        )
    if alone:
        what = "classes are of one side, and there is none of the other: leave INPUT.RANDOM_FLIP at none"
        yield Oddity(len(alone), what, tuple(alone))
