"""The protocols of OV-PARTS, whose classes are parts of named objects ("dog's ear"), seen in training or not.

ov_oracle  mask and class of the object are given; only its own parts are to be told apart
pred_obj   the same objects, but the object of each pixel is predicted as well
pred_all   whole pictures, all classes and background at once

All of them count only pixels that have a part label, pooled over the data set.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from wps_sam.evaluation import metrics
from wps_sam.evaluation.evaluator import (
    PartEvaluator,
    Results,
    checked_sem_seg,
    encode_labels,
    percent,
    write_predictions,
)
from wps_sam.evaluation.ground_truth import GroundTruth, Record
from wps_sam.evaluation.protocols import (
    PartColumn,
    Protocol,
    register_protocols,
    single_objects,
    whole_pictures,
    without_background,
)
from wps_sam.masks import read_predicted_objects, restrict_to_object
from wps_sam.structures import input_size

import numpy as np
import torch
import torch.nn.functional as F

logger = logging.getLogger(__name__)

COMPAT = ("substring_names", "resized_labels")


class OpenVocabularyEvaluator(PartEvaluator):
    """One confusion matrix of N + 1 labels, whose row N holds the pixels that were predicted to be nothing.

    Metrics: mIoU, fwIoU, IoU of each class and, if some classes are unseen, mIoU-base (the seen ones), mIoU-unbase
    (the others) and hIoU, the harmonic mean of the two. The sum of IoU over the classes with ground truth is divided by
    the number of classes with ground truth or prediction, as OV-PARTS does; mIoU_gt, mIoU_gt-base and so on
    divide by those with ground truth, as PartCLIPSeg does. So do the means of two more scores of each class: mRecall,
    and mBoundaryIoU, the Boundary IoU of Cheng et al.; see :func:`wps_sam.evaluation.metrics.boundary_sums`.

    Arguments as in :class:`PartEvaluator`.
    """

    def reset(self) -> None:
        super().reset()
        num_classes = self.ground_truth.num_classes
        self._matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
        self._boundary_sums = np.zeros((3, num_classes), dtype=np.int64)

    def _count(self, pred: np.ndarray, target: np.ndarray) -> None:
        """Adds int [H, W] labels: 0..N-1 or N for nothing, against 0..N-1 or ignore_label."""
        ignore_label = self.ground_truth.metadata.ignore_label
        self._matrix += metrics.confusion_matrix(pred, target, len(self._matrix), ignore_label)
        self._boundary_sums += metrics.boundary_sums(pred, target, self.ground_truth.num_classes, ignore_label)

    def compute(self) -> Results:
        gathered = self.gather((self._matrix, self._boundary_sums))
        if gathered is None:
            return OrderedDict()
        matrix, boundary_sums = (sum(parts) for parts in zip(*gathered))
        of_class = {
            "IoU": metrics.open_vocabulary_iou(matrix),
            "Recall": metrics.open_vocabulary_recall(matrix),
            "BoundaryIoU": metrics.boundary_ious(boundary_sums),
        }
        scores = self._means(matrix)
        for name in ("Recall", "BoundaryIoU"):
            means = metrics.group_means(of_class[name], self.ground_truth.unseen)
            scores |= self._by_group(means, f"m{name}", f"h{name}")
        for name, values in of_class.items():
            scores |= {f"{name}-{part}": value for part, value in zip(self.ground_truth.class_names, values.tolist())}
        return OrderedDict({self.protocol: percent(scores)})

    def _means(self, matrix: np.ndarray) -> dict[str, float]:
        return {
            **self._named_means(matrix, "mIoU", "hIoU", count_absent_but_predicted=True),
            **self._named_means(matrix, "mIoU_gt", "hIoU_gt", count_absent_but_predicted=False),
        }

    def _named_means(
        self, matrix: np.ndarray, mean: str, harmonic: str, *, count_absent_but_predicted: bool
    ) -> dict[str, float]:
        means = metrics.open_vocabulary_means(
            matrix, self.ground_truth.unseen, count_absent_but_predicted=count_absent_but_predicted
        )
        return self._by_group(means, mean, harmonic) | {"fwIoU": means.frequency_weighted}

    def _by_group(
        self, means: metrics.GroupMeans | metrics.OpenVocabularyMeans, mean: str, harmonic: str
    ) -> dict[str, float]:
        """The means by their names; of the groups only where some classes are unseen."""
        if not self.ground_truth.unseen:
            return {mean: means.all}
        return {mean: means.all, f"{mean}-base": means.seen, f"{mean}-unbase": means.unseen, harmonic: means.harmonic}


def _columns(place: str) -> tuple[PartColumn, ...]:
    """Of the table of parts; ``place`` says under which protocol."""
    headings = {"IoU": "IoU", "Recall": "Recall", "BoundaryIoU": "Boundary IoU"}
    return tuple(PartColumn(f"{heading}, {place}", metric) for metric, heading in headings.items())


_GROUP_MEANS = ("mIoU", "mIoU_gt", "mRecall", "mBoundaryIoU")


@register_protocols(
    Protocol(
        name="ov_oracle",
        note="the object's mask and class are given; per class, pixels pooled; OV-PARTS' Oracle-Obj",
        fits=single_objects,
        options={"compat": "ov_compat"},
        columns=_columns("oracle"),
        group_means=_GROUP_MEANS,
    )
)
class OracleObjectEvaluator(OpenVocabularyEvaluator):
    """``ov_oracle``, OV-PARTS' Oracle-Obj: the best of the object's own classes at every pixel of its mask.

    Of data sets with one record an object. The model's output holds either the scores of the object's own classes, and
    says so with ``part_classes``, or those of all N classes, with or without a background; then the object's own
    are taken here. There is no background and no threshold. The object's pixels without part label count
    nowhere, nor does anything outside its mask.

    Given an ``output_dir``, writes the predictions inside the objects to sem_seg_predictions.json, the form that
    the OV-PARTS challenge asks for.

    Args:
        compat: what of the reference's code to repeat. "substring_names": an object's classes are those whose name
            contains the object's, as CATSeg and ZSSeg+ choose them ("armchair's seat" competes for a chair).
            "resized_labels": labels are resized to the network's input and back, both by nearest neighbour.
        dataset_name, distributed, output_dir, ground_truth: see :class:`PartEvaluator`.

    Source: OV-PARTS, ``GeneralizedSemSegEvaluator`` and the inference of its models.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        compat: Sequence[str] = (),
        ground_truth: GroundTruth | None = None,
    ) -> None:
        unknown = [name for name in compat if name not in COMPAT]
        if unknown:
            raise ValueError(f"compat: expected some of {COMPAT}, got {unknown}")
        self._compat = tuple(compat)
        if compat:
            logger.info("ov_oracle with the reference's %s", ", ".join(compat))
        super().__init__(dataset_name, distributed, output_dir, ground_truth=ground_truth)

    def reset(self) -> None:
        super().reset()
        self._predictions: list[dict[str, Any]] = []

    def process_image(
        self, position: int, record: Record, model_input: Mapping[str, Any], output: Mapping[str, Any]
    ) -> None:
        truth = self.ground_truth
        object_id, ignore_label = record["category_id"], truth.metadata.ignore_label
        object_map = truth.object_map(record)
        target = restrict_to_object(truth.part_map(record), object_map, object_id, ignore_label)
        if "resized_labels" in self._compat:
            size = input_size(model_input)
            object_map, target = _resize_and_back(object_map, size), _resize_and_back(target, size)
        pred = self._best_of_own(record, output, target.shape)
        self._count(pred, target)
        if self._output_dir:
            nothing = truth.num_classes
            inside = restrict_to_object(pred, object_map, object_id, nothing)
            self._predictions.extend(encode_labels(record, inside, range(nothing)))

    def _best_of_own(self, record: Record, output: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
        """int64 [H, W], at every pixel the best of the classes that compete for the record's object."""
        own, num_classes = self._own_classes(record), self.ground_truth.num_classes
        if "part_classes" in output:
            classes = output["part_classes"].tolist()
            if sorted(classes) != own:
                hint = (
                    "; compat substring_names needs a model that gives the scores of all classes"
                    if "substring_names" in self._compat
                    else ""
                )
                raise ValueError(
                    f"{record['file_name']}: expected part_classes {own} of object {record['category_id']}, "
                    f"got {classes}{hint}"
                )
            scores = checked_sem_seg(record, output, size, len(classes))
        else:
            classes = own
            scores = checked_sem_seg(record, output, size, num_classes, num_classes + 1)[own]
        return np.asarray(classes)[scores.argmax(dim=0).cpu().numpy()]

    def _own_classes(self, record: Record) -> list[int]:
        vocabulary = self.ground_truth.vocabulary
        object_id = record["category_id"]
        by_name = "substring_names" in self._compat
        own = vocabulary.parts_named_like(object_id) if by_name else vocabulary.parts_of(object_id)
        if not own:
            name = vocabulary.object_names[object_id]
            raise ValueError(f"{record['file_name']}: object {name!r} has no part classes to tell apart")
        return own

    def compute(self) -> Results:
        gathered = self.gather(self._predictions)
        if gathered is not None and self._output_dir:
            write_predictions(self._output_dir, [entry for entries in gathered for entry in entries])
        return super().compute()


def _resize_and_back(labels: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """int64 [H, W] resized to ``size`` (h, w) and back; the nearest pixel is the one above and left, as in torch."""
    there = F.interpolate(torch.from_numpy(labels)[None, None].double(), size, mode="nearest")
    return F.interpolate(there, labels.shape, mode="nearest")[0, 0].long().numpy()


@register_protocols(
    Protocol(
        name="pred_obj",
        note="the object has to be found too; OV-PARTS' Pred-Obj, which has no public code",
        fits=without_background,
        options={"object_predictions": "object_predictions"},
        columns=_columns("pred-obj"),
        group_means=_GROUP_MEANS,
    )
)
class PredictedObjectEvaluator(OpenVocabularyEvaluator):
    """``pred_obj``, OV-PARTS' Pred-Obj: the object has to be found too. Its authors published no code for it.

    Of data sets with one record a picture. Every object of the picture is tested inside its mask, where it has part
    labels; on ADE20K-Part-234 a pixel of two overlapping instances counts twice. A pixel's predicted object decides
    which classes compete there. A pixel of no predicted object, or of one without part classes, is a miss.

    Args:
        object_predictions: a folder of label PNGs {picture's name}.png that hold object ids, any other value for no
            object. "" takes the object of the model's own best class, or none where that is background; the best
            class of that object is then the same class.
        dataset_name, distributed, output_dir, ground_truth: see :class:`PartEvaluator`.

    Raises:
        ValueError: ``object_predictions`` is no folder.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        object_predictions: str = "",
        ground_truth: GroundTruth | None = None,
    ) -> None:
        if object_predictions and not os.path.isdir(object_predictions):
            raise ValueError(f"TEST.OBJECT_PREDICTIONS: {object_predictions} is no folder")
        self._object_predictions = object_predictions
        super().__init__(dataset_name, distributed, output_dir, ground_truth=ground_truth)

    def process_image(
        self, position: int, record: Record, model_input: Mapping[str, Any], output: Mapping[str, Any]
    ) -> None:
        truth = self.ground_truth
        part_map = truth.part_map(record)
        scores = checked_sem_seg(record, output, part_map.shape, truth.num_classes + 1)
        if self._object_predictions:
            pred = self._best_of_predicted_objects(record, scores)
        else:
            pred = scores.argmax(dim=0).cpu().numpy()
        for object_id, object_map in truth.tested_objects(record):
            self._count(pred, restrict_to_object(part_map, object_map, object_id, truth.metadata.ignore_label))

    def _best_of_predicted_objects(self, record: Record, scores: torch.Tensor) -> np.ndarray:
        """int64 [H, W]: the best class of the object that the folder's map has at the pixel, N where it has none.

        Raises:
            ValueError: names the PNG, which is missing, damaged or of another size than the picture.
        """
        predicted_objects = read_predicted_objects(self._object_predictions, record)
        vocabulary = self.ground_truth.vocabulary
        pred = np.full(predicted_objects.shape, len(vocabulary))
        for object_id in np.unique(predicted_objects).tolist():
            own = vocabulary.parts_of(object_id) if object_id < len(vocabulary.object_names) else []
            if own:
                here = predicted_objects == object_id
                best = scores[own].argmax(dim=0).cpu().numpy()
                pred[here] = np.asarray(own)[best[here]]
        return pred


@register_protocols(
    Protocol(
        name="pred_all",
        note="all classes and background at once; PartCLIPSeg's Pred-All",
        fits=whole_pictures,
        columns=_columns("pred-all"),
        group_means=_GROUP_MEANS,
    )
)
class AllPartsEvaluator(OpenVocabularyEvaluator):
    """``pred_all``, PartCLIPSeg's Pred-All: the best of all N classes and the model's own background, whole pictures.

    Only pixels with a part label are scored; background predicted there is a miss. Means are over the classes with
    ground truth, so mIoU is what the other two protocols call mIoU_gt. ADE20K-Part-234's test set takes in training
    images for the sake of their unseen objects: there only the pixels of the tested objects are scored.

    Arguments as in :class:`PartEvaluator`.

    Source: PartCLIPSeg. Its overall mIoU counts background as one more class with IoU 0; not repeated here.
    """

    def process_image(
        self, position: int, record: Record, model_input: Mapping[str, Any], output: Mapping[str, Any]
    ) -> None:
        truth = self.ground_truth
        part_map = truth.part_map(record)
        scores = checked_sem_seg(record, output, part_map.shape, truth.num_classes + 1)
        ignore_label = truth.metadata.ignore_label
        # Data sets that know background (label N) have no part there to be found.
        target = np.where(part_map == truth.num_classes, ignore_label, part_map)
        if record.get("obj_annotations"):
            target[truth.object_map(record) == ignore_label] = ignore_label
        self._count(scores.argmax(dim=0).cpu().numpy(), target)

    def _means(self, matrix: np.ndarray) -> dict[str, float]:
        return self._named_means(matrix, "mIoU", "hIoU", count_absent_but_predicted=False)
