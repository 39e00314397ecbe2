"""Semantic segmentation, pooled over the data set."""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

from ..data import DatasetCatalog, MetadataCatalog
from ..utils.comm import all_gather, is_main_process, synchronize
from ..utils.file_io import PathManager
from .evaluator import DatasetEvaluator


def load_image_into_numpy_array(filename: str, dtype: Any = np.int64) -> np.ndarray:
    """A label image as integers [H, W]."""
    with PathManager.open(filename, "rb") as f:
        return np.array(Image.open(f), dtype=dtype)


class SemSegEvaluator(DatasetEvaluator):
    """One confusion matrix of pixels over the whole data set; ``sem_seg`` [C, H, W] against label images.

    Results, in percent, under "sem_seg": mIoU and mACC (means over the classes that labels have), fwIoU, pACC,
    IoU-<name> and ACC-<name>. Pixels of ``ignore_label`` do not count. With ``output_dir``, predictions are
    written there as sem_seg_predictions.json.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        sem_seg_loading_fn: Callable[..., np.ndarray] = load_image_into_numpy_array,
    ) -> None:
        metadata = MetadataCatalog.get(dataset_name)
        self._class_names = metadata.stuff_classes
        self._num_classes = len(self._class_names)
        self._ignore_label = metadata.ignore_label
        self._distributed, self._output_dir = distributed, output_dir
        self._load = sem_seg_loading_fn
        self._label_file = {r["file_name"]: r["sem_seg_file_name"] for r in DatasetCatalog.get(dataset_name)}
        self.reset()

    def reset(self) -> None:
        # One row and column more: ignored pixels, dropped in evaluate().
        self._confusion = np.zeros((self._num_classes + 1,) * 2, dtype=np.int64)
        self._predictions: list[dict] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for record, output in zip(inputs, outputs):
            predicted = output["sem_seg"].argmax(dim=0).cpu().numpy().astype(np.int64)
            truth = self._load(self._label_file[record["file_name"]], dtype=np.int64)
            truth[truth == self._ignore_label] = self._num_classes
            pairs = (self._num_classes + 1) * predicted.reshape(-1) + truth.reshape(-1)
            counts = np.bincount(pairs, minlength=self._confusion.size)
            self._confusion += counts.reshape(self._confusion.shape)
            for label in np.unique(predicted).tolist():
                rle = mask_util.encode(np.asfortranarray(predicted == label, dtype=np.uint8))
                rle["counts"] = rle["counts"].decode("ascii")
                found = {"file_name": record["file_name"], "category_id": label, "segmentation": rle}
                self._predictions.append(found)

    def evaluate(self) -> dict[str, Any] | None:
        if self._distributed:
            synchronize()
            self._confusion = sum(all_gather(self._confusion))
            self._predictions = list(itertools.chain(*all_gather(self._predictions)))
            if not is_main_process():
                return None
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            with PathManager.open(os.path.join(self._output_dir, "sem_seg_predictions.json"), "w") as f:
                json.dump(self._predictions, f)
        matrix = self._confusion[:-1, :-1].astype(np.float64)
        right, predicted, truth = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
        union = predicted + truth - right
        accuracy = np.full(self._num_classes, np.nan)
        iou = np.full(self._num_classes, np.nan)
        occurs, counted = truth > 0, (truth > 0) & (union > 0)
        accuracy[occurs] = right[occurs] / truth[occurs]
        iou[counted] = right[counted] / union[counted]
        results = {
            "mIoU": 100 * iou[counted].sum() / max(counted.sum(), 1),
            "fwIoU": 100 * (iou[counted] * (truth / truth.sum())[counted]).sum(),
            **{f"IoU-{name}": 100 * value for name, value in zip(self._class_names, iou)},
            "mACC": 100 * accuracy[occurs].sum() / max(occurs.sum(), 1),
            "pACC": 100 * right.sum() / truth.sum(),
            **{f"ACC-{name}": 100 * value for name, value in zip(self._class_names, accuracy)},
        }
        logging.getLogger(__name__).info(results)
        return {"sem_seg": {name: float(value) for name, value in results.items()}}
