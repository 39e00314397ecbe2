"""The truth of one data set, looked up picture by picture for the evaluators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from wps_sam.masks import annotation_mask, read_object_map, read_part_map, valid_polygons
from wps_sam.vocabulary import PartVocabulary

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

Record = Mapping[str, Any]


class GroundTruth:
    """Records and metadata of a registered data set, every picture of it, those without annotations too.

    Nothing is decoded before it is asked for, and nothing decoded is kept, so the memory of a data set's
    evaluation does not grow with its pictures.

    Args:
        dataset_name: as registered in Detectron2's catalogs.
        training_family: ``family`` of the training set's metadata. Where it is another than this data set's, its
            division into seen and unseen classes says nothing about the model. None: the same.

    Raises:
        ValueError: two records share an image_id: results of one would be scored against the other.
    """

    def __init__(self, dataset_name: str, training_family: str | None = None) -> None:
        self.dataset_name = dataset_name
        self.training_family = training_family
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

    @property
    def vocabulary(self) -> PartVocabulary:
        """The classes and the objects they are parts of, of a data set whose objects have names."""
        return PartVocabulary.of(self.metadata)

    @property
    def unseen(self) -> list[int]:
        """The classes that training did not show, as far as this data set can know; see :func:`unseen_classes`."""
        same_family = self.training_family in (None, self.metadata.get("family"))
        return unseen_classes(self.metadata) if same_family else []

    @property
    def has_background(self) -> bool:
        """Whether the part maps tell background from pixels of which nothing is known."""
        return self.metadata.get("background_label") is not None

    @property
    def has_masks(self) -> bool:
        """Whether the pixels of its parts are known; where there are boxes alone, they are not."""
        annotated = [a for record in self.records for a in record.get("annotations", ())]
        has_maps = any(record.get("sem_seg_file_name") for record in self.records)
        return not annotated or has_maps or any("segmentation" in a for a in annotated)

    @property
    def is_object_conditioned(self) -> bool:
        """Whether a record is one object of a picture, whose mask and class the model is told."""
        return bool(self.records) and "category_id" in self.records[0]

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

    def object_map(self, record: Record) -> np.ndarray:
        """int64 [H, W] at original resolution: the object each pixel is of, or the metadata's ignore_label."""
        return read_object_map(record, self.metadata)

    def tested_objects(self, record: Record) -> Iterator[tuple[int, np.ndarray]]:
        """The objects of a picture one after another, as object-conditioned records would show them.

        Yields:
            (object id, object map int64 [H, W]): every object class of an object PNG, or every object annotation
            alone, so that of two that overlap both are tested whole.
        """
        if record["obj_sem_seg_file_name"] == "NA":
            for annotation in record["obj_annotations"]:
                yield annotation["category_id"], self.object_map({**record, "obj_annotations": [annotation]})
            return
        object_map = self.object_map(record)
        for object_id in np.unique(object_map).tolist():
            if object_id != self.metadata.ignore_label:
                yield object_id, object_map

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


def unseen_classes(metadata: Any) -> list[int]:
    """The classes that zero-shot training does not show, by a data set's metadata; [] where nobody divides them."""
    classes = range(len(metadata.thing_classes))
    seen = metadata.get("evaluation_set", {}).get("base", classes)
    return sorted(set(classes) - set(seen))


def has_mask(annotation: Record, rule: Literal["strict", "wps_sam"] = "strict") -> bool:
    """Whether an annotation carries a mask that ``rule`` lets pass; run-length encodings always do."""
    segmentation: Any | None = annotation.get("segmentation")
    # Loaders leave out broken polygons; where the first of them was one, they say so for the authors' rule.
    if segmentation is None or (rule == "wps_sam" and annotation.get("dropped_by_wps_sam", False)):
        return False
    return isinstance(segmentation, Mapping) or bool(valid_polygons(segmentation, rule))


def boxes_without_masks(record: Record) -> tuple[list[int], np.ndarray]:
    """The parts of a picture of which a box is known and no mask; none where a label PNG knows the pixels.

    Returns:
        Their M classes, and float64 [M, 4], x0, y0, x1, y1 in pixels, corners continuous.
    """
    known = [] if record.get("sem_seg_file_name") else record.get("annotations", ())
    found = [(a["category_id"], annotation_box(a)) for a in known if not has_mask(a)]
    with_box = [(category, box) for category, box in found if box is not None]
    return [c for c, _ in with_box], np.array([box for _, box in with_box], np.float64).reshape(-1, 4)


def annotation_box(annotation: Record) -> tuple[float, float, float, float] | None:
    """An annotation's box as (x0, y0, x1, y1) in pixels, x1 and y1 exclusive; None without one or without area."""
    if "bbox" not in annotation:
        return None
    x, y, width, height = annotation["bbox"]
    if not (width > 0 and height > 0):
        return None
    return float(x), float(y), float(x + width), float(y + height)
