"""How well label maps, and maps at their thresholds, fit the truth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from ..evaluation.metrics import confusion_matrix, pooled_iou
from .cams import threshold_labels

# Powers of the curve of a map's scores.
POWERS = (0.5, *map(float, range(1, 11)))
# Thresholds of the curve of WeakTr's maps, which are 0..1 already; published ones stop where they first fall.
THRESHOLDS = tuple(round(0.4 + 0.01 * k, 2) for k in range(20))


def scores_of(matrix: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Percentages of a confusion matrix [C+1, C+1], M[predicted, true], background last."""
    iou = pooled_iou(matrix)
    hits = np.diag(matrix).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = hits / matrix.sum(1), hits / matrix.sum(0)
    return {
        "mIoU": _percent(np.nanmean(iou[:-1])),
        "mIoU_with_background": _percent(np.nanmean(iou)),
        "IoU": {name: _percent(v) for name, v in zip([*classes, "background"], iou)},
        "precision": {name: _percent(v) for name, v in zip(classes, precision)},
        "recall": {name: _percent(v) for name, v in zip(classes, recall)},
    }


def _percent(value: float) -> float | None:
    return None if np.isnan(value) else round(100 * float(value), 2)


def threshold_score(pictures: Iterable[tuple[Tensor, np.ndarray, np.ndarray]], num_classes: int) -> float:
    """By which SemPLeS chooses among epochs, on the truth: mIoU with background, in percent, at the first of
    :data:`THRESHOLDS` that the next one does not improve.

    Args:
        pictures: maps float [T, H, W] in 0..1, the class ids [T] that they are of, and the truth int64 [H, W], -1 where
            nobody knows.
        num_classes: C, without background.
    """
    matrices = np.zeros((len(THRESHOLDS), num_classes + 1, num_classes + 1), np.int64)
    for maps, classes, truth in pictures:
        ids = np.append(classes, num_classes)
        for matrix, threshold in zip(matrices, THRESHOLDS):
            labels = ids[threshold_labels(maps, threshold).numpy()]
            matrix += confusion_matrix(labels, truth, num_classes + 1, ignore_label=-1)
    curve = [float(np.nanmean(pooled_iou(matrix))) for matrix in matrices]
    return 100 * next((now for now, following in pairwise(curve) if following <= now), curve[-1])
