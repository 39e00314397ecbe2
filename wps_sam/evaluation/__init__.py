"""How good a part segmentation is, by every protocol in use, each under its own name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from wps_sam.evaluation.evaluator import PartEvaluator
from wps_sam.evaluation.ground_truth import GroundTruth, unseen_classes
from wps_sam.evaluation.open_vocabulary import (
    AllPartsEvaluator,
    OracleObjectEvaluator,
    PredictedObjectEvaluator,
)
from wps_sam.evaluation.oracles import BoxPromptOracle, FilledBoxOracle
from wps_sam.evaluation.part_detection import CocoAPEvaluator, ErrorBreakdownEvaluator
from wps_sam.evaluation.part_sem_seg import (
    AuthorsEvaluator,
    ImagePartEvaluator,
    PascalSqEvaluator,
    PooledPartEvaluator,
)
from wps_sam.evaluation.report import format_results_table

from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

__all__ = [
    "PART_PROTOCOLS",
    "PROTOCOLS",
    "AllPartsEvaluator",
    "AuthorsEvaluator",
    "BoxPromptOracle",
    "CocoAPEvaluator",
    "ErrorBreakdownEvaluator",
    "FilledBoxOracle",
    "GroundTruth",
    "ImagePartEvaluator",
    "OracleObjectEvaluator",
    "PascalSqEvaluator",
    "PooledPartEvaluator",
    "PredictedObjectEvaluator",
    "build_evaluators",
    "format_results_table",
    "oracle_scores",
    "unseen_classes",
]

# Of data sets whose part maps know a background, one record a picture.
PART_PROTOCOLS = (
    *("d2_semseg", "pin41", "wps_image_part", "wps_authors", "coco_ap", "error_breakdown", "pascal_sq"),
)
PROTOCOLS = (*PART_PROTOCOLS, "ov_oracle", "pred_obj", "pred_all")
# What "auto" stands for where the metadata does not say.
_DEFAULT_PROTOCOLS = ("d2_semseg", "pin41", "wps_image_part", "wps_authors", "coco_ap")


def build_evaluators(
    protocols: Sequence[str],
    dataset_name: str,
    output_dir: str | None = None,
    distributed: bool = True,
    *,
    wps_authors_null: Literal["drop", "zero"] = "drop",
    ov_compat: Sequence[str] = (),
    object_predictions: str = "",
    training_family: str | None = None,
) -> DatasetEvaluators:
    """The evaluators of several protocols, which read the data set once and share it.

    Args:
        protocols: names out of ``PROTOCOLS``, or "auto": those of the data set's metadata.
        dataset_name: as registered in Detectron2's catalogs.
        output_dir: folder for predictions and other files that explain the numbers; None writes none.
        distributed: gather from all processes.
        wps_authors_null: what an image without prediction costs in wps_authors.
        ov_compat: see :class:`OracleObjectEvaluator`.
        object_predictions: see :class:`PredictedObjectEvaluator`.
        training_family: see :class:`GroundTruth`.

    Raises:
        ValueError: a protocol is unknown, named twice, or does not fit the data set; lists the names that are valid.
    """
    unknown = [p for p in protocols if p not in (*PROTOCOLS, "auto")]
    if unknown:
        raise ValueError(f"unknown protocols {unknown}; expected some of {list(PROTOCOLS)} or 'auto'")
    if len(set(protocols)) != len(protocols):
        raise ValueError(f"protocols: each at most once, got {list(protocols)}")
    truth = GroundTruth(dataset_name, training_family)
    fitting = _fitting_protocols(truth)
    asked = [p for p in protocols if p != "auto"]
    if "auto" in protocols:
        asked += truth.metadata.get("protocols", _DEFAULT_PROTOCOLS)
    unfit = [p for p in asked if p not in fitting]
    if unfit:
        raise ValueError(f"{dataset_name}: protocols {unfit} do not fit this data set; {list(fitting)} do")
    evaluators: list[DatasetEvaluator] = []
    shared: dict[str, Any] = {"ground_truth": truth}
    pooled = [p for p in PooledPartEvaluator.PROTOCOLS if p in asked]
    if pooled:
        evaluators.append(
            PooledPartEvaluator(dataset_name, distributed, output_dir, protocols=pooled, **shared)
        )
    singles: dict[str, tuple[type[PartEvaluator], dict[str, Any]]] = {
        "wps_image_part": (ImagePartEvaluator, shared),
        "wps_authors": (AuthorsEvaluator, shared | {"null": wps_authors_null}),
        "coco_ap": (CocoAPEvaluator, shared),
        "error_breakdown": (ErrorBreakdownEvaluator, shared),
        "pascal_sq": (PascalSqEvaluator, shared),
        "ov_oracle": (OracleObjectEvaluator, shared | {"compat": ov_compat}),
        "pred_obj": (PredictedObjectEvaluator, shared | {"object_predictions": object_predictions}),
        "pred_all": (AllPartsEvaluator, shared),
    }
    for protocol, (evaluator, options) in singles.items():
        if protocol in asked:
            evaluators.append(evaluator(dataset_name, distributed, output_dir, **options))
    return DatasetEvaluators(evaluators)


def _fitting_protocols(truth: GroundTruth) -> tuple[str, ...]:
    """The protocols whose questions the data set can answer."""
    if truth.is_object_conditioned:
        return ("ov_oracle",)
    return (*PART_PROTOCOLS, "pred_all") if truth.has_background else ("pred_obj", "pred_all")


def oracle_scores(results: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """One row for an oracle from the protocols it is scored with, d2_semseg and wps_image_part.

    Args:
        results: of an evaluation of the oracle, {"d2_semseg": {...}, "wps_image_part": {...}}.

    Returns:
        d2_semseg's metrics under their own names, wps_image_part's as ``image_part_mIoU`` and so on.
    """
    scores = dict(results.get("d2_semseg", {}))
    scores.update({f"image_part_{name}": v for name, v in results.get("wps_image_part", {}).items()})
    return scores
