"""Predictions of a run against the truth, picture by picture: which parts are taken for which, and where it fails."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wps_sam.evaluation.ground_truth import GroundTruth, boxes_without_masks
from wps_sam.evaluation.metrics import confusion_matrix, pooled_iou
from wps_sam.masks import record_size, segmentation_to_mask

import numpy as np
from pycocotools import mask as coco_mask

# Share of the picture's pixels that a part has, up to which it counts as small, middling, large.
SIZES = (("small, under 1% of the picture", 0.01), ("middling, 1 to 5%", 0.05), ("large, over 5%", 1.0))


@dataclass(frozen=True)
class Judged:
    """A data set as a run sees it.

    Attributes:
        class_names: the C part classes.
        confusion: int64 [C+1, C+1], pixels by predicted (rows) and true label, background last.
        pictures: (record, score 0..1) of each picture that has parts, the worst first; the score is the mean IoU over
            the classes that are in it.
        by_size: of each entry of SIZES (name, number of masks of a class in a picture, mean of their IoU).
    """

    class_names: list[str]
    confusion: np.ndarray
    pictures: list[tuple[Mapping[str, Any], float]]
    by_size: list[tuple[str, int, float]]

    @property
    def shares(self) -> np.ndarray:
        """float [C+1, C+1]: of the pixels of each true label (rows), the share that is called each."""
        return self.confusion.T / np.maximum(self.confusion.sum(0), 1)[:, None]

    def mistaken(self, count: int = 10) -> list[tuple[str, str, float]]:
        """The commonest confusions: true name, predicted name ("background" for none), share of the true pixels."""
        names = [*self.class_names, "background"]
        share = self.shares
        np.fill_diagonal(share, 0)
        share[-1] = 0
        order = np.argsort(-share, axis=None)[:count]
        return [(names[i // len(names)], names[i % len(names)], float(share.flat[i])) for i in order if share.flat[i]]


def read_predictions(path: str | Path) -> dict[str, list[Mapping[str, Any]]]:
    """sem_seg_predictions.json by the picture's file name.

    Raises:
        ValueError: it is missing, or no JSON.
    """
    by_file: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for entry in _entries(path, "d2_semseg"):
        by_file[entry["file_name"]].append(entry)
    return dict(by_file)


def read_instances(path: str | Path, truth: GroundTruth) -> dict[str, list[Mapping[str, Any]]]:
    """coco_instances_results.json of coco_ap by the picture's file name; the surest part of each picture last.

    Raises:
        ValueError: it is missing, no JSON, or of another data set.
    """
    by_file: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for entry in sorted(_entries(path, "coco_ap"), key=lambda entry: entry["score"]):
        # There, a picture is its place in the data set.
        if not 1 <= entry["image_id"] <= len(truth.records):
            raise ValueError(f"{path}: image_id: expected 1 to {len(truth.records)}, got {entry['image_id']}")
        by_file[truth.records[entry["image_id"] - 1]["file_name"]].append(entry)
    return dict(by_file)


def _entries(path: str | Path, protocol: str) -> list[Mapping[str, Any]]:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: is missing; evaluate the run by {protocol} first") from error
    except ValueError as error:
        raise ValueError(f"{path}: no valid JSON: {error}") from error


def predicted_map(record: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], num_classes: int) -> np.ndarray:
    """int64 [H, W]: the predicted class of each pixel, ``num_classes`` for background."""
    height, width = record_size(record)
    part_map = np.full((height, width), num_classes, dtype=np.int64)
    for entry in entries:
        part_map[segmentation_to_mask(entry["segmentation"], height, width)] = entry["category_id"]
    return part_map


def judge(truth: GroundTruth, predictions: Mapping[str, Sequence[Mapping[str, Any]]]) -> Judged:
    """Of all pictures of ``truth``; one without predictions has background everywhere."""
    count = truth.num_classes
    total = np.zeros((count + 1, count + 1), dtype=np.int64)
    pictures = []
    ious: list[list[float]] = [[] for _ in SIZES]
    for record in truth.records:
        true = truth.part_map(record)
        found = predicted_map(record, predictions.get(record["file_name"], ()), count)
        matrix = confusion_matrix(found, true, count + 1, truth.metadata.ignore_label)
        total += matrix
        present = [c for c in range(count) if matrix[:, c].any()]
        if not present:
            continue
        of_classes = pooled_iou(matrix)
        pictures.append((record, float(np.mean(of_classes[present]))))
        for c in present:
            share = matrix[:, c].sum() / true.size
            ious[next(k for k, (_, limit) in enumerate(SIZES) if share <= limit)].append(float(of_classes[c]))
    pictures.sort(key=lambda pair: pair[1])
    by_size = [(name, len(v), float(np.mean(v)) if v else float("nan")) for (name, _), v in zip(SIZES, ious)]
    return Judged(truth.class_names, total, pictures, by_size)


def judge_boxes(
    truth: GroundTruth, predictions: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[tuple[Mapping[str, Any], float]]:
    """The pictures of a data set of which boxes alone are known, as ``Judged.pictures``.

    The score is the mean over the true boxes of the IoU with the nearest box that was found under their name.

    Args:
        truth: pictures without boxes are left out.
        predictions: of :func:`read_instances`.
    """
    pictures = []
    for record in truth.records:
        classes, boxes = boxes_without_masks(record)
        found = predictions.get(record["file_name"], ())
        best = []
        for category, (x0, y0, x1, y1) in zip(classes, boxes.tolist()):
            named = [entry["bbox"] for entry in found if entry["category_id"] == category]
            iou = coco_mask.iou(named, [[x0, y0, x1 - x0, y1 - y0]], [0]) if named else np.zeros(1)
            best.append(float(np.max(iou)))
        if best:
            pictures.append((record, float(np.mean(best))))
    return sorted(pictures, key=lambda pair: pair[1])
