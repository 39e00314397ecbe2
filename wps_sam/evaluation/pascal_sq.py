"""The scores of Pascal-Part-58, 108 and 201: per class, over the images that hold it; background is a class."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from wps_sam.evaluation import metrics
from wps_sam.evaluation.evaluator import PartEvaluator, Results, checked_sem_seg, percent
from wps_sam.evaluation.ground_truth import Record
from wps_sam.evaluation.protocols import PartColumn, Protocol, register_protocols, with_background

import numpy as np


@register_protocols(
    Protocol(
        name="pascal_sq",
        note="per class, over the images that hold it; background is a class",
        fits=with_background,
        columns=(PartColumn("sq-IoU", "sqIoU", order=1),),
    )
)
class PascalSqEvaluator(PartEvaluator):
    """``pascal_sq``: the scores of Pascal-Part-58, 108 and 201, at original resolution, background a class like others.

    mIOU: per class, pixels pooled over the images that contain it. sqIOU: per class, the mean of these images' own
    IoU. mAvg and sqAvg: the same averaged by object category first. See :func:`metrics.sq_scores`.

    Args:
        dataset_name, distributed, output_dir, ground_truth: see :class:`PartEvaluator`.

    Source: BSANet, GMNet and FLOAT, as their papers define them.
    """

    def reset(self) -> None:
        super().reset()
        self._sums = np.zeros((4, self.ground_truth.num_classes + 1))

    def process_image(
        self, position: int, record: Record, model_input: Mapping[str, Any], output: Mapping[str, Any]
    ) -> None:
        num_labels = self.ground_truth.num_classes + 1
        scores = checked_sem_seg(record, output, (record["height"], record["width"]), num_labels)
        pred, target = scores.argmax(dim=0).cpu().numpy(), self.ground_truth.part_map(record)
        ignore_label = self.ground_truth.metadata.ignore_label
        self._sums += metrics.sq_sums(metrics.confusion_matrix(pred, target, num_labels, ignore_label))

    def compute(self) -> Results:
        gathered = self.gather(self._sums)
        if gathered is None:
            return OrderedDict()
        sums = sum(gathered)
        names = [*self.ground_truth.class_names, "background"]
        scores = metrics.sq_scores(sums, [*self.ground_truth.metadata.part_supercategories, "background"])
        pooled, by_image = metrics.sq_ious(sums)
        for name, iou, sq_iou in zip(names, pooled.tolist(), by_image.tolist()):
            scores[f"IoU-{name}"], scores[f"sqIoU-{name}"] = iou, sq_iou
        return OrderedDict({self.protocol: percent(scores)})
