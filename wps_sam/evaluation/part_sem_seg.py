"""Part segmentation scores, one class a way of averaging. Their numbers do not compare with each other.

d2_semseg       per class, pixels pooled over the data set, means over the parts; the headline
pin41           the same matrix with background as one more class
wps_image_part  per image and true part class, the IoU of two masks, plain mean over all such pairs
wps_authors     the same pairs with the authors' row-wise score, only to stand beside their figures
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from wps_sam.evaluation import metrics
from wps_sam.evaluation.evaluator import (
    PartEvaluator,
    Results,
    checked_instances,
    checked_sem_seg,
    encode_labels,
    percent,
    write_predictions,
)
from wps_sam.evaluation.ground_truth import GroundTruth, Record
from wps_sam.evaluation.protocols import PartColumn, Protocol, register_protocols, with_background
from wps_sam.structures import Frame

import numpy as np
import torch
import torch.nn.functional as F

logger = logging.getLogger(__name__)


@register_protocols(
    Protocol(
        name="d2_semseg",
        note="per class, pixels pooled over the data set; the headline",
        fits=with_background,
        options={"protocols": "protocols"},
        columns=(
            PartColumn("IoU", "IoU"),
            PartColumn("ACC", "ACC"),
            PartColumn("OSI", "OSI"),
            PartColumn("USI", "USI"),
        ),
        group_means=("mIoU",),
    ),
    Protocol(
        name="pin41",
        note="the same with background as a class",
        fits=with_background,
        options={"protocols": "protocols"},
    ),
)
class PooledPartEvaluator(PartEvaluator):
    """``d2_semseg`` and ``pin41``: one confusion matrix over the data set, at original resolution.

    The matrix has C + 1 labels, background last. d2_semseg averages over the C parts that occur; background is
    then no class of the mean but still a row and a column, so a part predicted on background is a false
    positive. It also gives IoU, accuracy, OSI (share of the prediction outside the truth) and USI (share of the truth
    not covered) of every part, the last two also as means over the parts that occur, and mIoU of every supercategory,
    and, where some classes are unseen in training, mIoU-base (the seen ones), mIoU-unbase and hIoU, their harmonic
    mean. pin41 averages over all
    C + 1 labels that occur or are predicted, and gives the mean without background as mIoU_parts.

    Given an ``output_dir``, writes every predicted part map to sem_seg_predictions.json, one entry
    {file_name, category_id, segmentation: run-length encoding} for each label and image, background included.

    Args:
        protocols: which of "d2_semseg" and "pin41" to report; both by default.
        dataset_name, distributed, output_dir, ground_truth: see :class:`PartEvaluator`.

    Source: protocols of Detectron2's main branch and of Compositor's PartImageNet baselines.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        protocols: Sequence[str] | None = None,
        ground_truth: GroundTruth | None = None,
    ) -> None:
        self._protocols = self.PROTOCOLS if protocols is None else tuple(protocols)
        if not self._protocols or not set(self._protocols) <= set(self.PROTOCOLS):
            raise ValueError(f"protocols: expected some of {self.PROTOCOLS}, got {list(self._protocols)}")
        super().__init__(dataset_name, distributed, output_dir, ground_truth=ground_truth)

    def reset(self) -> None:
        super().reset()
        num_labels = self.ground_truth.num_classes + 1
        self._matrix = np.zeros((num_labels, num_labels), dtype=np.int64)
        self._predictions: list[dict[str, Any]] = []

    def process_image(
        self, position: int, record: Record, model_input: Mapping[str, Any], output: Mapping[str, Any]
    ) -> None:
        num_labels = self.ground_truth.num_classes + 1
        scores = checked_sem_seg(record, output, (record["height"], record["width"]), num_labels)
        pred = scores.argmax(dim=0).cpu().numpy()
        target = self.ground_truth.part_map(record)
        ignore_label = self.ground_truth.metadata.ignore_label
        self._matrix += metrics.confusion_matrix(pred, target, num_labels, ignore_label)
        if self._output_dir:
            self._predictions.extend(encode_labels(record, pred, range(num_labels)))

    def compute(self) -> Results:
        gathered = self.gather((self._matrix, self._predictions))
        if gathered is None:
            return OrderedDict()
        matrix = sum(state[0] for state in gathered)
        if self._output_dir:
            write_predictions(self._output_dir, [entry for state in gathered for entry in state[1]])
        report = {"d2_semseg": self._d2_semseg, "pin41": self._pin41}
        return OrderedDict((protocol, percent(report[protocol](matrix))) for protocol in self._protocols)

    def _d2_semseg(self, matrix: np.ndarray) -> dict[str, float]:
        names = self.ground_truth.class_names
        parts = range(len(names))
        scores = metrics.pooled_scores_d2(matrix, parts)
        if unseen := self.ground_truth.unseen:
            groups = {"base": sorted(set(parts) - set(unseen)), "unbase": unseen}
            means = {name: metrics.pooled_scores_d2(matrix, group)["mIoU"] for name, group in groups.items()}
            scores.update({f"mIoU-{name}": mean for name, mean in means.items()})
            scores["hIoU"] = metrics.harmonic_mean(means["base"], means["unbase"])
        supercategories = self.ground_truth.metadata.get("part_supercategories", [])
        for supercategory in dict.fromkeys(supercategories):
            members = [c for c in parts if supercategories[c] == supercategory]
            scores[f"mIoU-{supercategory}"] = metrics.pooled_scores_d2(matrix, members)["mIoU"]
        iou, accuracy = metrics.pooled_iou(matrix), metrics.pooled_accuracy(matrix)
        for c, name in enumerate(names):
            # As in the mean: without ground truth there is no score, not a 0.
            scores[f"IoU-{name}"] = float(iou[c]) if np.isfinite(accuracy[c]) else float("nan")
            scores[f"ACC-{name}"] = float(accuracy[c])
        # Why an IoU is low: too much was called so, or too little.
        for index, shares in (("OSI", metrics.pooled_outside(matrix)), ("USI", 1 - accuracy)):
            of_parts = np.where(np.isfinite(accuracy), shares, np.nan)[: len(names)]
            known = of_parts[np.isfinite(of_parts)]
            scores[index] = float(known.mean()) if len(known) else float("nan")
            scores.update({f"{index}-{name}": float(share) for name, share in zip(names, of_parts)})
        return scores

    def _pin41(self, matrix: np.ndarray) -> dict[str, float]:
        background = self.ground_truth.num_classes
        scores = metrics.pooled_scores_pin41(matrix)
        scores["mIoU_parts"] = metrics.pooled_scores_pin41(matrix, range(background))["mIoU"]
        scores["IoU-background"] = float(metrics.pooled_iou(matrix)[background])
        return scores


@dataclass
class _PairSums:
    """Sums over (image, true part class) pairs, and what is logged beside the scores."""

    iou: float = 0.0
    accuracy: float = 0.0
    f1: float = 0.0
    matched: int = 0
    missed: int = 0
    images: int = 0
    null_images: int = 0
    extra_classes: int = 0

    def add(self, other: _PairSums) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


class _PairEvaluator(PartEvaluator):
    """Plain mean over all pairs of an image and a part class that it truly holds: not per class, not per image.

    A pair whose class no prediction of the image names scores 0. A predicted class that the image does not
    have costs nothing; such classes are counted and logged.
    """

    def reset(self) -> None:
        super().reset()
        self._sums = _PairSums()

    @abstractmethod
    def _true_masks(self, record: Record) -> Iterator[tuple[int, np.ndarray]]:
        """(class, bool [H, W]) of every true class, one at a time."""

    @abstractmethod
    def _score_pair(
        self, record: Record, output: Mapping[str, Any], of_class: torch.Tensor, target: np.ndarray
    ) -> tuple[float, float, float]:
        """IoU, accuracy, F1 of the predictions chosen by ``of_class`` bool [K] against ``target``."""

    def _drops_null_images(self) -> bool:
        return False

    def process_image(
        self, position: int, record: Record, model_input: Mapping[str, Any], output: Mapping[str, Any]
    ) -> None:
        classes = checked_instances(record, output, self.ground_truth.num_classes).pred_classes
        found = set(classes.tolist())
        self._sums.images += 1
        self._sums.null_images += not found
        if not found and self._drops_null_images():
            return
        for category, target in self._true_masks(record):
            if category in found:
                iou, accuracy, f1 = self._score_pair(record, output, classes == category, target)
                self._sums.add(_PairSums(iou, accuracy, f1, matched=1))
                found.remove(category)
            else:
                self._sums.missed += 1
        self._sums.extra_classes += len(found)

    def compute(self) -> Results:
        gathered = self.gather(self._sums)
        if gathered is None:
            return OrderedDict()
        total = _PairSums()
        for sums in gathered:
            total.add(sums)
        pairs = total.matched + total.missed
        logger.info(
            "%s: %d pairs of an image and a part class matched, %d missed; %d of %d images without any "
            "prediction; %.2f classes per image predicted but not there",
            self.protocol,
            total.matched,
            total.missed,
            total.null_images,
            total.images,
            total.extra_classes / max(total.images, 1),
        )
        scores = {"mIoU": total.iou, "mACC": total.accuracy, "mF1": total.f1}
        means = {name: value / pairs if pairs else float("nan") for name, value in scores.items()}
        return OrderedDict({self.protocol: percent(means)})


@register_protocols(Protocol(name="wps_image_part", note="mean over (image, part class) pairs", fits=with_background))
class ImagePartEvaluator(_PairEvaluator):
    """``wps_image_part``: what WPS-SAM's paper describes, done right, at original resolution.

    For every image and part class annotated in it: IoU = TP / (TP + FP + FN), accuracy = TP / (TP + FN) and F1
    of the union of the class's predicted masks against the union of its annotated ones; 0 where the class is
    not predicted, images without any prediction included.
    """

    def _true_masks(self, record: Record) -> Iterator[tuple[int, np.ndarray]]:
        return self.ground_truth.class_masks(record)

    def _score_pair(
        self, record: Record, output: Mapping[str, Any], of_class: torch.Tensor, target: np.ndarray
    ) -> tuple[float, float, float]:
        masks = output["instances"].pred_masks
        pred = torch.zeros_like(masks[0])
        for query in of_class.nonzero()[:, 0].tolist():
            pred |= masks[query]
        pred = pred.cpu()
        return (metrics.binary_iou(pred, target), metrics.binary_recall(pred, target), metrics.binary_f1(pred, target))


@register_protocols(
    Protocol(
        name="wps_authors",
        note="row-wise score of the authors' code, no IoU; only to compare with their 68.93 / 79.53",
        fits=with_background,
        options={"null": "wps_authors_null"},
    )
)
class AuthorsEvaluator(_PairEvaluator):
    """``wps_authors``: the number of the WPS-SAM authors' released code. Not an IoU; only for comparison.

    Everything happens in the padded S x S square of the network. Truth of a class: the union of its
    annotations whose first polygon has more than 4 numbers, resized bilinearly, 0.5 or more, placed in the square.
    Prediction of a class: its queries' logits upsampled bilinearly to S, sigmoid, SUMMED, 0.5 or more. A pair
    scores :func:`metrics.row_mean_iou`, :func:`metrics.pixel_accuracy`, :func:`metrics.row_mean_f1`. In the
    authors' code an image without any kept query shifts the labels of its batch; here every image is scored
    against its own, as theirs does with batch size 1.

    Args:
        null: what an image without any prediction costs: "drop" leaves it out, as the authors' code does with
            batch size 1; "zero" scores 0 for each of its part classes.
        dataset_name, distributed, output_dir, ground_truth: see :class:`PartEvaluator`.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        null: Literal["drop", "zero"] = "drop",
        ground_truth: GroundTruth | None = None,
    ) -> None:
        if null not in ("drop", "zero"):
            raise ValueError(f"null: expected 'drop' or 'zero', got {null!r}")
        self._null = null
        super().__init__(dataset_name, distributed, output_dir, ground_truth=ground_truth)

    def _drops_null_images(self) -> bool:
        return self._null == "drop"

    def _true_masks(self, record: Record) -> Iterator[tuple[int, np.ndarray]]:
        return self.ground_truth.class_masks(record, rule="wps_sam")

    def _score_pair(
        self, record: Record, output: Mapping[str, Any], of_class: torch.Tensor, target: np.ndarray
    ) -> tuple[float, float, float]:
        frame, logits = _checked_frame(record, output), output["instances"].mask_logits
        pred = _sum_of_probabilities(logits, of_class, frame.size) >= 0.5
        square = _place_in_square(torch.from_numpy(target).to(pred.device), frame)
        return (
            metrics.row_mean_iou(pred, square),
            metrics.pixel_accuracy(pred, square),
            metrics.row_mean_f1(pred, square),
        )


def _checked_frame(record: Record, output: Mapping[str, Any]) -> Frame:
    file_name, instances = record["file_name"], output["instances"]
    if "frame" not in output or not instances.has("mask_logits"):
        raise ValueError(
            f"{file_name}: wps_authors needs the model's output 'frame' and instances.mask_logits, "
            f"got {sorted(output)} and {sorted(instances.get_fields())}"
        )
    frame: Frame = output["frame"]
    scale = max(frame.height, frame.width) / max(record["height"], record["width"])
    # One pixel of rounding to either side is the resizer's business, more is another picture; a stretched one has lost
    # its shape.
    if not frame.stretched and (
        abs(frame.height - scale * record["height"]) > 1 or abs(frame.width - scale * record["width"]) > 1
    ):
        raise ValueError(
            f"{file_name}: is ({record['height']}, {record['width']}) pixels high and wide, which does not fit "
            f"its frame of ({frame.height}, {frame.width})"
        )
    logits = instances.mask_logits
    if logits.ndim != 3 or logits.shape[1] != logits.shape[2] or len(logits) != len(instances):
        raise ValueError(f"{file_name}: expected mask_logits [{len(instances)}, S/4, S/4], got {list(logits.shape)}")
    return frame


def _sum_of_probabilities(logits: torch.Tensor, of_class: torch.Tensor, size: int) -> torch.Tensor:
    """float [S, S] from logits [K, S/4, S/4]; one query at a time, as a stack of squares is 4 MB a query."""
    total = torch.zeros((size, size), dtype=torch.float32, device=logits.device)
    for query in of_class.nonzero()[:, 0].tolist():
        small = logits[query][None, None].float()
        total += F.interpolate(small, (size, size), mode="bilinear", align_corners=False)[0, 0].sigmoid()
    return total


def _place_in_square(mask: torch.Tensor, frame: Frame) -> torch.Tensor:
    """bool [H, W] at original resolution to bool [S, S]; the padding is False."""
    resized = F.interpolate(
        mask[None, None].float(), (frame.height, frame.width), mode="bilinear", align_corners=False
    )[0, 0]
    square = torch.zeros((frame.size, frame.size), dtype=torch.bool, device=mask.device)
    frame.crop(square)[:] = resized >= 0.5
    return square
