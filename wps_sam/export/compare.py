"""How far an exported model says what the model says that it was made of."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..evaluation.ground_truth import GroundTruth
from ..evaluation.metrics import confusion_matrix, pooled_scores_d2
from ..masks import read_picture
from ..onnx_runtime import OnnxPartPredictor
from ..prediction import PartPrediction
from ..predictor import PartPredictor


@dataclass(frozen=True)
class Comparison:
    """Of some pictures of a data set. ``agreement``: the share, 0 to 1, of their pixels of which both part maps say the
    same, and ``least`` that of the picture where it is smallest; ``miou`` as of the protocol d2_semseg, 0 to 1, and
    ``seconds`` a picture, of the model and of its export."""

    pictures: int
    agreement: float
    least: float
    miou: tuple[float, float]
    seconds: tuple[float, float]

    def __str__(self) -> str:
        return (
            f"{self.pictures} pictures: {self.agreement:.3%} of the pixels agree, in the worst picture "
            f"{self.least:.3%}; mIoU {self.miou[0]:.2%} of the model, {self.miou[1]:.2%} of the export; "
            f"{self.seconds[0]:.2f} and {self.seconds[1]:.2f} seconds a picture"
        )


def compare(predictor: PartPredictor, path: Path, dataset_name: str, num_pictures: int) -> Comparison:
    """Shows pictures of a registered data set, spread over it, to both, with as many threads for one as for the other.

    Raises:
        ValueError: the data set's classes are not the model's, or its records are single objects.
    """
    import onnxruntime

    truth = GroundTruth(dataset_name)
    if tuple(truth.class_names) != predictor.class_names or truth.is_object_conditioned:
        raise ValueError(f"data set {dataset_name}: expected whole pictures with the classes that the model knows")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    exported = OnnxPartPredictor(path, confidence=predictor.confidence, options=options)
    count = min(num_pictures, len(truth.records))
    num_labels = truth.num_classes + 1
    matrices = np.zeros((2, num_labels, num_labels), dtype=np.int64)
    seconds = np.zeros(2)
    both: tuple[Callable[[Any], PartPrediction], ...] = (predictor, exported)
    shares, areas = [], []
    for record in [truth.records[i * len(truth.records) // count] for i in range(count)]:
        picture, target = read_picture(record), truth.part_map(record)
        maps = []
        for i, find in enumerate(both):
            found, took = _timed(find, picture)
            maps.append(found.part_map)
            matrices[i] += confusion_matrix(found.part_map, target, num_labels, truth.metadata.ignore_label)
            seconds[i] += took
        shares.append(float((maps[0] == maps[1]).mean()))
        areas.append(maps[0].size)
    miou = [pooled_scores_d2(matrix, range(truth.num_classes))["mIoU"] for matrix in matrices]
    return Comparison(
        pictures=count,
        agreement=float(np.average(shares, weights=areas)),
        least=min(shares),
        miou=(miou[0], miou[1]),
        seconds=(seconds[0] / count, seconds[1] / count),
    )


def _timed(find: Callable[[Any], PartPrediction], picture: np.ndarray) -> tuple[PartPrediction, float]:
    start = time.perf_counter()
    found = find(picture)
    return found, time.perf_counter() - start
