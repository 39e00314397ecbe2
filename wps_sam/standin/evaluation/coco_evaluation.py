"""COCO's average precision of boxes and masks, by pycocotools."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import logging
import os
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

from ..data import MetadataCatalog
from ..structures import BoxMode, Instances
from ..utils import comm
from ..utils.file_io import PathManager
from .evaluator import DatasetEvaluator

logger = logging.getLogger(__name__)


class COCOEvaluator(DatasetEvaluator):
    """AP of ``outputs["instances"]``: under "bbox" of ``pred_boxes`` and under "segm" of ``pred_masks``.

    AP (IoU 0.50 to 0.95), AP50, AP75, APs, APm, APl and, for several classes, AP-<name>, in percent, NaN where
    there is nothing to find. The truth is the metadata's ``json_file``. With
    ``output_dir``, predictions are written there as coco_instances_results.json.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: tuple[str, ...] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int = 100,
        use_fast_impl: bool = True,
    ) -> None:
        # use_fast_impl is Detectron2's: its compiled version of the same thing.
        self._tasks, self._distributed, self._output_dir = tasks, distributed, output_dir
        self._max_dets = [1, 10, max_dets_per_image]
        self._metadata = MetadataCatalog.get(dataset_name)
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
            self._coco = COCO(PathManager.get_local_path(self._metadata.json_file))
        # A test set without annotations is predicted, not evaluated.
        self._do_evaluation = "annotations" in self._coco.dataset
        self.reset()

    def reset(self) -> None:
        self._predictions: list[dict] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for record, output in zip(inputs, outputs):
            self._predictions += instances_to_coco_json(output["instances"].to("cpu"), record["image_id"])

    def evaluate(self, img_ids: list[int] | None = None) -> dict[str, Any]:
        """Returns {"bbox": {...}, "segm": {...}}; ``img_ids`` evaluates some images only."""
        found = self._predictions
        if self._distributed:
            comm.synchronize()
            found = list(itertools.chain(*comm.gather(found)))
            if not comm.is_main_process():
                return {}
        tasks = self._tasks or (("bbox", "segm") if any("segmentation" in one for one in found) else ("bbox",))
        own_ids = {v: k for k, v in (self._metadata.get("thing_dataset_id_to_contiguous_id") or {}).items()}
        if own_ids:
            found = [{**one, "category_id": own_ids[one["category_id"]]} for one in found]
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            with PathManager.open(os.path.join(self._output_dir, "coco_instances_results.json"), "w") as f:
                json.dump(found, f)
        return {task: self._evaluate_task(task, found, img_ids) for task in tasks if self._do_evaluation}

    def _evaluate_task(self, task: str, found: list[dict], img_ids: list[int] | None) -> dict[str, float]:
        if not found:
            logger.warning("No predictions from the model!")
            return dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl"), float("nan"))
        if task == "segm":
            # With a box, pycocotools would size predictions by it and not by their mask.
            found = [{key: value for key, value in one.items() if key != "bbox"} for one in found]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(self._coco, self._coco.loadRes(found), task)
            evaluation.params.maxDets = self._max_dets
            if img_ids is not None:
                evaluation.params.imgIds = img_ids
            evaluation.evaluate()
            evaluation.accumulate()
        # Axes: IoU thresholds, recall points, classes, areas (all, small, medium, large), detections an image.
        precision = evaluation.eval["precision"][..., -1]
        every, half, three_quarters = precision[..., 0], precision[0, ..., 0], precision[5, ..., 0]

        def mean(values: np.ndarray) -> float:
            counted = values[values > -1]
            return float(counted.mean() * 100) if counted.size else float("nan")

        results = {"AP": mean(every), "AP50": mean(half), "AP75": mean(three_quarters)}
        results.update((f"AP{size}", mean(precision[..., i])) for i, size in enumerate("sml", start=1))
        names = self._metadata.get("thing_classes") or []
        if len(names) > 1:
            if len(names) != precision.shape[2]:
                raise AssertionError(f"{len(names)} thing_classes, but {precision.shape[2]} in the annotations")
            results.update((f"AP-{name}", mean(every[:, :, k])) for k, name in enumerate(names))
        logger.info("Evaluation results for %s:\n%s", task, tabulate(results.items(), floatfmt=".3f"))
        return results


def instances_to_coco_json(instances: Instances, img_id: Any) -> list[dict]:
    """Predicted instances as COCO results: bbox XYWH, category_id contiguous, score, segmentation as RLE."""
    if len(instances) == 0:
        return []
    boxes = BoxMode.convert(instances.pred_boxes.tensor.numpy(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    scores, classes = instances.scores.tolist(), instances.pred_classes.tolist()
    found = [
        {"image_id": img_id, "category_id": classes[k], "bbox": boxes[k], "score": scores[k]}
        for k in range(len(instances))
    ]
    if instances.has("pred_masks"):
        for one, mask in zip(found, instances.pred_masks):
            rle = mask_util.encode(np.asfortranarray(mask.numpy(), dtype=np.uint8))
            one["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
    return found
