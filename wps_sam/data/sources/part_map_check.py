"""Whether a data set's label PNGs number the parts as its json does."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from wps_sam.masks import read_label_png, segmentation_to_mask

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog


def check_part_map_ids(records: Sequence[Mapping[str, Any]], metadata: Any, max_images: int = 200) -> None:
    """Fails where the label PNGs number the parts in another order than the json.

    That PartImageNet's PNGs follow the json's ids is not proven: lists published for the PNGs swap the parts
    of three supercategories. So the annotations of some images are rasterised and compared with their PNGs.

    Args:
        records: of one data set. Without label maps there is nothing to check.
        metadata: of the data set, with thing_classes and label_map.
        max_images: images to look at, evenly spread; one more for every class that these leave out.

    Raises:
        ValueError: lists every class that covers more than twice as much of another's PNG value as that one itself.
    """
    usable = [record for record in records if "sem_seg_file_name" in record and record["annotations"]]
    num_classes = len(metadata.thing_classes)
    # PNG value -> its pixels in all, and those under the annotations of each class.
    present: Counter[int] = Counter()
    covered: list[Counter[int]] = [Counter() for _ in range(num_classes)]
    for record in _spread(usable, max_images):
        stored = read_label_png(record["sem_seg_file_name"], record)
        height, width = stored.shape
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
        # By far: along borders, maps and polygons differ by a pixel, which of a small part on a large one is much.
        if covered[found][value] > 2 * covered[class_id][value]:
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

    For data sets to evaluate on alone: learning from boxes must not depend on masks, however wrong they are.
    """
    if name not in _CHECKED:
        check_part_map_ids(DatasetCatalog.get(name), MetadataCatalog.get(name))
        _CHECKED.add(name)
