"""COCO's average precision of boxes and masks, by pycocotools."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import logging
import os
from collections import OrderedDict
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
from ..utils.logger import create_small_table
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
        max_dets_per_image: int | None = None,
        use_fast_impl: bool = True,
    ) -> None:
        # use_fast_impl is Detectron2's: its compiled version of the same thing.
        if tasks is not None and not set(tasks) <= {"bbox", "segm"}:
            raise ValueError(f"tasks={tasks}: expected bbox and segm")
        self._tasks, self._distributed, self._output_dir = tasks, distributed, output_dir
        self._max_dets = [1, 10, 100 if max_dets_per_image is None else max_dets_per_image]
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
            if "instances" in output:
                instances = output["instances"].to("cpu")
                self._predictions.append(
                    {
                        "image_id": record["image_id"],
                        "instances": instances_to_coco_json(instances, record["image_id"]),
                    }
                )

    def evaluate(self, img_ids: list[int] | None = None) -> dict[str, Any] | None:
        """Returns {"bbox": {...}, "segm": {...}}; ``img_ids`` evaluates some images only."""
        predictions = self._predictions
        if self._distributed:
            comm.synchronize()
            predictions = list(itertools.chain(*comm.gather(predictions)))
            if not comm.is_main_process():
                return {}
        if not predictions:
            logger.warning("COCOEvaluator did not receive valid predictions.")
            return {}
        found = list(itertools.chain(*(prediction["instances"] for prediction in predictions)))
        tasks = self._tasks or (
            ("bbox", "segm") if any("segmentation" in one for one in found) else ("bbox",)
        )
        self._to_own_categories(found)
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            with PathManager.open(os.path.join(self._output_dir, "coco_instances_results.json"), "w") as f:
                json.dump(found, f)
        results: dict[str, Any] = OrderedDict()
        if self._do_evaluation:
            for task in sorted(tasks):
                results[task] = self._evaluate_task(task, found, img_ids)
        return results

    def _to_own_categories(self, found: list[dict]) -> None:
        """Contiguous classes to the data set's own ids, in place."""
        id_map = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if id_map is None:
            return
        own_ids = {v: k for k, v in id_map.items()}
        for one in found:
            if one["category_id"] not in own_ids:
                raise AssertionError(
                    f"a prediction has class {one['category_id']}, but the data set only has {len(own_ids)} classes"
                )
            one["category_id"] = own_ids[one["category_id"]]

    def _evaluate_task(self, task: str, found: list[dict], img_ids: list[int] | None) -> dict[str, float]:
        metrics = ("AP", "AP50", "AP75", "APs", "APm", "APl")
        if not found:
            logger.warning("No predictions from the model!")
            return dict.fromkeys(metrics, float("nan"))
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

        def mean(values: np.ndarray) -> float:
            counted = values[values > -1]
            return float(counted.mean() * 100) if counted.size else float("nan")

        every = precision[..., 0]
        at = {
            threshold: int(np.argmin(np.abs(evaluation.params.iouThrs - threshold)))
            for threshold in (0.5, 0.75)
        }
        values = [
            every,
            every[at[0.5]],
            every[at[0.75]],
            precision[..., 1],
            precision[..., 2],
            precision[..., 3],
        ]
        results = {name: mean(value) for name, value in zip(metrics, values)}
        logger.info("Evaluation results for %s:\n%s", task, create_small_table(results))
        names = self._metadata.get("thing_classes")
        if names is not None and len(names) > 1:
            if len(names) != precision.shape[2]:
                raise AssertionError(
                    f"{len(names)} thing_classes, but the annotations have {precision.shape[2]}"
                )
            per_class = [(f"AP-{name}", mean(every[:, :, k])) for k, name in enumerate(names)]
            logger.info("Per-category %s AP:\n%s", task, tabulate(per_class, tablefmt="pipe", floatfmt=".3f"))
            results.update(per_class)
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
