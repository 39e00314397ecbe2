"""The truth of one data set, looked up picture by picture for the evaluators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from wps_sam.masks import read_part_map, segmentation_to_mask, valid_polygons

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

Record = Mapping[str, Any]


class GroundTruth:
    """Records and metadata of a registered data set, every picture of it, those without annotations too.

    Nothing is decoded before it is asked for, and nothing decoded is kept, so the memory of a data set's
    evaluation does not grow with its pictures.

    Args:
        dataset_name: as registered in Detectron2's catalogs.

    Raises:
        ValueError: two records share an image_id: results of one would be scored against the other.
    """

    def __init__(self, dataset_name: str) -> None:
        self.dataset_name = dataset_name
        self.records: list[Record] = DatasetCatalog.get(dataset_name)
        self.metadata: Any = MetadataCatalog.get(dataset_name)
        self.class_names: list[str] = list(self.metadata.thing_classes)
        self._position: dict[Any, int] = {}
        for position, record in enumerate(self.records):
            other = self._position.setdefault(record["image_id"], position)
            if other != position:
                raise ValueError(
                    f"{dataset_name}: image_id {record['image_id']!r} belongs to both "
                    f"{self.records[other]['file_name']} and {record['file_name']}"
                )

    @property
    def num_classes(self) -> int:
        """C, the part classes 0..C-1; background is label C."""
        return len(self.class_names)

    def position(self, model_input: Mapping[str, Any]) -> int:
        """Where in ``records`` the picture of a model input lies.

        Args:
            model_input: one entry of a batch, with image_id and file_name.

        Raises:
            ValueError: names the file, which is not of this data set or goes by another image_id there.
        """
        file_name, image_id = model_input["file_name"], model_input["image_id"]
        position = self._position.get(image_id)
        if position is None:
            raise ValueError(f"{file_name}: image_id {image_id!r} is not in the data set {self.dataset_name}")
        expected = self.records[position]["file_name"]
        if file_name != expected:
            raise ValueError(
                f"{file_name}: image_id {image_id!r} belongs to {expected} in the data set {self.dataset_name}"
            )
        return position

    def part_map(self, record: Record) -> np.ndarray:
        """int64 [H, W] at original resolution: 0..C-1, C for background, or the metadata's ignore_label."""
        return read_part_map(record, self.metadata)

    def class_masks(
        self, record: Record, rule: Literal["strict", "wps_sam"] = "strict"
    ) -> Iterator[tuple[int, np.ndarray]]:
        """The union of the annotated masks of each class, one class at a time, in ascending order.

        Args:
            record: of this data set.
            rule: which annotations have a usable mask; see :func:`wps_sam.masks.valid_polygons`.

        Yields:
            (class, bool [H, W]) at original resolution. Where no annotation of the record carries a
            segmentation but a label PNG exists, the PNG's. With the rule "strict" no yielded mask is empty.
        """
        if record.get("sem_seg_file_name") and not any("segmentation" in a for a in record["annotations"]):
            part_map = self.part_map(record)
            for label in np.unique(part_map).tolist():
                if label < self.num_classes:
                    yield label, part_map == label
            return
        by_class: dict[int, list[Record]] = {}
        for annotation in record["annotations"]:
            if has_mask(annotation, rule):
                by_class.setdefault(annotation["category_id"], []).append(annotation)
        for category in sorted(by_class):
            union = np.zeros((record["height"], record["width"]), dtype=bool)
            for annotation in by_class[category]:
                union |= annotation_mask(record, annotation)
            # Slivers between pixel centres cover none: no prediction could ever find them.
            if rule == "wps_sam" or union.any():
                yield category, union


def has_mask(annotation: Record, rule: Literal["strict", "wps_sam"] = "strict") -> bool:
    """Whether an annotation carries a mask that ``rule`` lets pass; run-length encodings always do."""
    segmentation: Any | None = annotation.get("segmentation")
    # Loaders leave out broken polygons; where the first of them was one, they say so for the authors' rule.
    if segmentation is None or (rule == "wps_sam" and annotation.get("dropped_by_wps_sam", False)):
        return False
    return isinstance(segmentation, Mapping) or bool(valid_polygons(segmentation, rule))


def annotation_mask(record: Record, annotation: Record) -> np.ndarray:
    """bool [H, W]: one annotation's mask at original resolution.

    Raises:
        ValueError: names the file and the annotation whose mask cannot be read.
    """
    try:
        return segmentation_to_mask(annotation["segmentation"], record["height"], record["width"])
    except ValueError as error:
        raise ValueError(f"{record['file_name']}: annotation {annotation['id']}: {error}") from error


def annotation_box(annotation: Record) -> tuple[float, float, float, float] | None:
    """An annotation's stored box as (x0, y0, x1, y1) in pixels, x1 and y1 exclusive; None if it has no area."""
    x, y, width, height = annotation["bbox"]
    if not (width > 0 and height > 0):
        return None
    return float(x), float(y), float(x + width), float(y + height)
