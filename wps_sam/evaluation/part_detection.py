"""Parts as detected objects: COCO's average precision, and where what is missing was lost."""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
import uuid
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any, Literal

from wps_sam.evaluation.evaluator import PartEvaluator, Results, checked_instances, checked_sem_seg
from wps_sam.evaluation.ground_truth import GroundTruth, Record, annotation_box, has_mask
from wps_sam.evaluation.protocols import PartColumn, Protocol, register_protocols, with_background
from wps_sam.masks import annotation_mask, mask_to_rle

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from pycocotools import mask as coco_mask

logger = logging.getLogger(__name__)

# Class and run-length encoded mask.
_Instance = tuple[int, dict[str, Any]]


@register_protocols(
    Protocol(
        name="coco_ap",
        note="parts as detected instances",
        fits=with_background,
        needs_masks=False,
        columns=(PartColumn("mask AP", "AP", order=2), PartColumn("box AP", "box_AP", order=2)),
        group_means=("AP",),
    )
)
class CocoAPEvaluator(PartEvaluator):
    """``coco_ap``: COCO mask AP, AP50, AP75 (and box_AP, box_AP50, box_AP75) of part instances.

    AP is the mean over classes with ground truth of the area under the precision-recall curve, IoU 0.50 to 0.95
    in steps of 0.05, 101 recall points, at most 100 parts an image; AP-<name> and box_AP-<name> are those of one
    class. One annotation is one instance; crowd annotations neither reward nor punish. Without predictions AP is 0,
    without ground truth NaN. Where some classes are unseen in training (VLPart's "novel"), AP-base and AP-unbase are
    the mean mask APs of the others and of these. Computed by Detectron2's COCOEvaluator.

    What COCO's code would misread is cleaned first: an annotation without usable mask takes no part in mask
    AP, one without box or box area none in box AP, and both are counted in the log. Of a data set without masks there
    is box AP alone, and its results hold the predicted masks, too, for drawings. ``output_dir`` gets the cleaned
    truth (coco_ap_ground_truth_{mask,box}.json) and the results; image ids in them are places in the data set, from 1,
    because COCO's code sorts ids and cannot sort names among numbers.

    Source: protocols of VLPart and COCO (mask AP of parts).
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        ground_truth: GroundTruth | None = None,
    ) -> None:
        self._evaluators: dict[str, COCOEvaluator] = {}
        self._true_classes: dict[str, Counter[int]] = {}
        super().__init__(dataset_name, distributed, output_dir, ground_truth=ground_truth)
        for kind, truth in _coco_jsons(self.ground_truth).items():
            self._true_classes[kind] = Counter(a["category_id"] for a in truth["annotations"] if not a["iscrowd"])
            if output_dir and comm.is_main_process():
                PathManager.mkdirs(output_dir)
                with PathManager.open(os.path.join(output_dir, f"coco_ap_ground_truth_{kind}.json"), "w") as f:
                    json.dump(truth, f)
            # Two, because an annotation may have a mask that counts and no such box, or the reverse.
            self._evaluators[kind] = _coco_evaluator(
                truth,
                "segm" if kind == "mask" else "bbox",
                self.ground_truth.class_names,
                distributed,
                os.path.join(output_dir, f"coco_ap_{kind}") if output_dir else None,
            )
        self.reset()

    def reset(self) -> None:
        super().reset()
        for evaluator in self._evaluators.values():
            evaluator.reset()

    def process_image(
        self, position: int, record: Record, model_input: Mapping[str, Any], output: Mapping[str, Any]
    ) -> None:
        found = checked_instances(record, output, self.ground_truth.num_classes).to("cpu")
        boxes = Instances(
            found.image_size, pred_boxes=found.pred_boxes, scores=found.scores, pred_classes=found.pred_classes
        )
        masks = Instances(found.image_size, pred_masks=found.pred_masks, **boxes.get_fields())
        inputs = [{"image_id": position + 1}]
        if "mask" in self._evaluators:
            self._evaluators["mask"].process(inputs, [{"instances": masks}])
        self._evaluators["box"].process(inputs, [{"instances": boxes if "mask" in self._evaluators else masks}])

    def compute(self) -> Results:
        results = {kind: evaluator.evaluate() for kind, evaluator in self._evaluators.items()}
        if self._distributed and not comm.is_main_process():
            return OrderedDict()
        scores: dict[str, float] = {}
        by_class: dict[str, float] = {}
        names = self.ground_truth.class_names
        for kind, result in results.items():
            task, prefix = ("segm", "") if kind == "mask" else ("bbox", "box_")
            truth, found = self._true_classes[kind], (result or {}).get(task, {})
            for name in ("AP", "AP50", "AP75"):
                scores[prefix + name] = _ap(found.get(name, math.nan), bool(truth))
            for category, name in enumerate(names):
                # With a single class Detectron2 gives no AP per class: it is the AP.
                value = found.get(f"AP-{name}", found.get("AP", math.nan) if len(names) == 1 else math.nan)
                by_class[f"{prefix}AP-{name}"] = _ap(value, truth[category] > 0)
        scores |= by_class
        unseen = self.ground_truth.unseen
        if unseen and "mask" in results:
            seen = sorted(set(range(len(names))) - set(unseen))
            for group, members in (("base", seen), ("unbase", unseen)):
                # A class that the data set lacks has no AP, and must not make the mean of the others one.
                known = [v for v in (scores[f"AP-{names[c]}"] for c in members) if not math.isnan(v)]
                scores[f"AP-{group}"] = sum(known) / len(known) if known else math.nan
        return OrderedDict({self.protocol: scores})


def _ap(value: float, has_truth: bool) -> float:
    """Detectron2 says NaN both where nothing is to be found and where nothing was: the latter is a 0."""
    return 0.0 if has_truth and math.isnan(value) else value


def _coco_jsons(ground_truth: GroundTruth) -> dict[str, dict[str, Any]]:
    """COCO's format with only what its code reads rightly, for box AP ("box") and, of masks, mask AP ("mask").

    Category ids stay 0..C-1, image ids count from 1. Both take the area, which decides nothing but size
    classes, from the mask where there is one, as COCO does.
    """
    annotations: dict[str, list[dict[str, Any]]] = {"mask": [], "box": []}
    without: Counter[str] = Counter()
    for image_id, record in enumerate(ground_truth.records, start=1):
        for annotation in record["annotations"]:
            mask = annotation_mask(record, annotation) if has_mask(annotation) else None
            if mask is not None and not mask.any():
                mask = None
            entry: dict[str, Any] = {
                "image_id": image_id,
                "category_id": annotation["category_id"],
                "iscrowd": int(annotation.get("iscrowd", 0)),
            }
            if "bbox" in annotation:
                entry["bbox"] = [float(v) for v in annotation["bbox"]]
            # Ids from 1: COCO's code keeps matches in an array of ids where 0 means "no match".
            if mask is None:
                without["mask"] += 1
            else:
                entry["area"] = int(mask.sum())
                encoded = {"id": len(annotations["mask"]) + 1, "segmentation": mask_to_rle(mask)}
                annotations["mask"].append(entry | encoded)
            if annotation_box(annotation) is None:
                without["box"] += 1
            else:
                entry.setdefault("area", entry["bbox"][2] * entry["bbox"][3])
                annotations["box"].append(entry | {"id": len(annotations["box"]) + 1})
    if not ground_truth.has_masks:
        del annotations["mask"], without["mask"]
    for kind, count in without.items():
        logger.warning(
            "%s: %d annotations have no usable %s and take no part in %s AP",
            ground_truth.dataset_name,
            count,
            kind,
            kind,
        )
    images = [
        {"id": i, "file_name": r["file_name"], "height": r["height"], "width": r["width"]}
        for i, r in enumerate(ground_truth.records, start=1)
    ]
    categories = [{"id": c, "name": name} for c, name in enumerate(ground_truth.class_names)]
    return {
        kind: {
            "info": {"description": f"{ground_truth.dataset_name}, cleaned for {kind} AP"},
            "images": images,
            "annotations": of_kind,
            "categories": categories,
        }
        for kind, of_kind in annotations.items()
    }


def _coco_evaluator(
    truth: Mapping[str, Any],
    task: Literal["segm", "bbox"],
    class_names: list[str],
    distributed: bool,
    output_dir: str | None,
) -> COCOEvaluator:
    # The evaluator takes its truth from a file named in a catalog. A private file and a private entry for
    # each process: a shared file could be read half written, and an entry can't be pointed at a second file.
    name = f"coco_ap_{uuid.uuid4().hex}"
    with tempfile.TemporaryDirectory() as folder:
        json_file = os.path.join(folder, "ground_truth.json")
        with open(json_file, "w") as f:
            json.dump(truth, f)
        MetadataCatalog.get(name).set(json_file=json_file, thing_classes=class_names)
        # The official COCO code: the fast one is not built everywhere, and differs in the last digits.
        evaluator = COCOEvaluator(
            name, tasks=(task,), distributed=distributed, output_dir=output_dir, use_fast_impl=False
        )
    MetadataCatalog.pop(name)
    return evaluator


@register_protocols(
    Protocol(name="error_breakdown", note="share of true part pieces that ended so", fits=with_background)
)
class ErrorBreakdownEvaluator(PartEvaluator):
    """``error_breakdown``: for every true part instance, in percent of all, whether and how it was lost.

    An instance is one annotation with a mask, crowds left out. First predictions are matched with instances: the surest
    first, each with the instance of its class and image that has the largest mask IoU among those not matched yet, if
    that is at least 0.5. What the predicted part map says of the pixels under the others' masks decides how they were
    lost, so that the four sum to 100:

    found       matched: right class, right place, right mask
    wrong_mask  most of its pixels have its class: found, but badly cut out
    wrong_name  most of them have another class: its place is known, its name is not
    not_found   most of them are background

    Of equally many the first line counts. The same question asked of every pixel of a true part, in percent of all:
    pixels_right, pixels_wrong_name and pixels_not_found; and foreground_IoU, of parts of any class against background.
    false_positives_per_image (a count, not percent) is the mean number of unmatched predictions, those that lie on a
    crowd of their class left out.
    """

    OUTCOMES = ("found", "wrong_mask", "wrong_name", "not_found")

    def reset(self) -> None:
        super().reset()
        self._counts: Counter[str] = Counter()

    def process_image(
        self, position: int, record: Record, model_input: Mapping[str, Any], output: Mapping[str, Any]
    ) -> None:
        predictions = checked_instances(record, output, self.ground_truth.num_classes).to("cpu")
        instances: list[_Instance] = []
        crowds: list[_Instance] = []
        for annotation in record["annotations"]:
            mask = annotation_mask(record, annotation) if has_mask(annotation) else None
            if mask is None or not mask.any():
                continue
            instance = (annotation["category_id"], mask_to_rle(mask))
            (crowds if annotation.get("iscrowd", 0) else instances).append(instance)
        # Surest first; of equals the first given.
        order = torch.argsort(predictions.scores, descending=True, stable=True).tolist()
        classes = np.array([int(predictions.pred_classes[k]) for k in order], dtype=np.int64)
        encoded = [mask_to_rle(predictions.pred_masks[k].numpy()) for k in order]

        matches = _match(classes, encoded, instances)
        unmatched = np.array([k not in matches for k in range(len(order))], dtype=bool)
        self._counts["images"] += 1
        self._counts["found"] += len(matches)
        background = self.ground_truth.num_classes
        scores = checked_sem_seg(record, output, (record["height"], record["width"]), background + 1)
        predicted = scores.argmax(dim=0).cpu().numpy()
        for i, (category, encoded_mask) in enumerate(instances):
            if i not in matches.values():
                labels = predicted[coco_mask.decode(encoded_mask).astype(bool)]
                self._counts[_how_lost(labels, category, background)] += 1
        self._count_pixels(predicted, self.ground_truth.part_map(record))
        in_crowd = (_mask_iou(classes, encoded, crowds, crowd=True) >= 0.5).any(axis=1)
        self._counts["false_positives"] += int((unmatched & ~in_crowd).sum())

    def _count_pixels(self, predicted: np.ndarray, target: np.ndarray) -> None:
        background = self.ground_truth.num_classes
        is_part, is_background, found = target < background, target == background, predicted != background
        self._counts["pixels_right"] += int((is_part & (predicted == target)).sum())
        self._counts["pixels_wrong_name"] += int((is_part & found & (predicted != target)).sum())
        self._counts["pixels_not_found"] += int((is_part & ~found).sum())
        self._counts["pixels_on_background"] += int((is_background & found).sum())

    def compute(self) -> Results:
        gathered = self.gather(self._counts)
        if gathered is None:
            return OrderedDict()
        counts: Counter[str] = sum(gathered, Counter())
        total = sum(counts[outcome] for outcome in self.OUTCOMES)
        scores = {o: 100.0 * counts[o] / total if total else math.nan for o in self.OUTCOMES}
        right, wrong, missed = (counts[f"pixels_{name}"] for name in ("right", "wrong_name", "not_found"))
        pixels = right + wrong + missed
        for name, count in (("right", right), ("wrong_name", wrong), ("not_found", missed)):
            scores[f"pixels_{name}"] = 100.0 * count / pixels if pixels else math.nan
        union = pixels + counts["pixels_on_background"]
        scores["foreground_IoU"] = 100.0 * (right + wrong) / union if union else math.nan
        images = counts["images"]
        scores["false_positives_per_image"] = counts["false_positives"] / images if images else math.nan
        return OrderedDict({self.protocol: scores})


def _how_lost(labels: np.ndarray, category: int, background: int) -> str:
    """What the part map says of a lost instance of ``category``: ``labels`` int [n] are those under its mask."""
    own, none = int((labels == category).sum()), int((labels == background).sum())
    counts = {"wrong_mask": own, "wrong_name": len(labels) - own - none, "not_found": none}
    return max(counts, key=counts.__getitem__)


def _mask_iou(
    classes: np.ndarray, encoded: list[dict[str, Any]], instances: list[_Instance], crowd: bool = False
) -> np.ndarray:
    """float [K, M]: mask IoU of predictions and true instances of the same class, 0 between classes.

    For crowds, the share of the prediction that lies inside.
    """
    if not encoded or not instances:
        return np.zeros((len(encoded), len(instances)))
    iou = coco_mask.iou(encoded, [mask for _, mask in instances], [int(crowd)] * len(instances))
    return np.asarray(iou) * (classes[:, None] == np.array([category for category, _ in instances]))


def _match(classes: np.ndarray, encoded: list[dict[str, Any]], instances: list[_Instance]) -> dict[int, int]:
    """Prediction to true instance, one to one, predictions in the order given."""
    iou = _mask_iou(classes, encoded, instances)
    matches: dict[int, int] = {}
    for k in range(len(encoded)):
        left = np.array([0.0 if i in matches.values() else iou[k, i] for i in range(len(instances))])
        if len(left) and left.max() >= 0.5:
            matches[k] = int(left.argmax())
    return matches
