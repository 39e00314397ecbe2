"""How good a part segmentation is, by every protocol in use, each under its own name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from wps_sam.evaluation.ground_truth import GroundTruth
from wps_sam.evaluation.oracles import BoxPromptOracle, FilledBoxOracle
from wps_sam.evaluation.part_detection import CocoAPEvaluator, ErrorBreakdownEvaluator
from wps_sam.evaluation.part_sem_seg import AuthorsEvaluator, ImagePartEvaluator, PooledPartEvaluator
from wps_sam.evaluation.report import format_results_table

from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

__all__ = [
    "PROTOCOLS",
    "AuthorsEvaluator",
    "BoxPromptOracle",
    "CocoAPEvaluator",
    "ErrorBreakdownEvaluator",
    "FilledBoxOracle",
    "GroundTruth",
    "ImagePartEvaluator",
    "PooledPartEvaluator",
    "build_evaluators",
    "format_results_table",
    "oracle_scores",
]

PROTOCOLS = ("d2_semseg", "pin41", "wps_image_part", "wps_authors", "coco_ap", "error_breakdown")


def build_evaluators(
    protocols: Sequence[str],
    dataset_name: str,
    output_dir: str | None = None,
    distributed: bool = True,
    *,
    wps_authors_null: Literal["drop", "zero"] = "drop",
) -> DatasetEvaluators:
    """The evaluators of several protocols, which read the data set once and share it.

    Args:
        protocols: names out of ``PROTOCOLS``.
        dataset_name: as registered in Detectron2's catalogs.
        output_dir: folder for predictions and other files that explain the numbers; None writes none.
        distributed: gather from all processes.
        wps_authors_null: what an image without prediction costs in wps_authors.

    Raises:
        ValueError: a protocol is unknown, or named twice; lists the valid names.
    """
    unknown = [p for p in protocols if p not in PROTOCOLS]
    if unknown:
        raise ValueError(f"unknown protocols {unknown}; expected some of {list(PROTOCOLS)}")
    if len(set(protocols)) != len(protocols):
        raise ValueError(f"protocols: each at most once, got {list(protocols)}")
    truth = GroundTruth(dataset_name)
    evaluators: list[DatasetEvaluator] = []
    pooled = [p for p in PooledPartEvaluator.PROTOCOLS if p in protocols]
    if pooled:
        evaluators.append(
            PooledPartEvaluator(dataset_name, distributed, output_dir, protocols=pooled, ground_truth=truth)
        )
    if "wps_image_part" in protocols:
        evaluators.append(ImagePartEvaluator(dataset_name, distributed, output_dir, ground_truth=truth))
    if "wps_authors" in protocols:
        evaluators.append(
            AuthorsEvaluator(dataset_name, distributed, output_dir, null=wps_authors_null, ground_truth=truth)
        )
    if "coco_ap" in protocols:
        evaluators.append(CocoAPEvaluator(dataset_name, distributed, output_dir, ground_truth=truth))
    if "error_breakdown" in protocols:
        evaluators.append(ErrorBreakdownEvaluator(dataset_name, distributed, output_dir, ground_truth=truth))
    return DatasetEvaluators(evaluators)


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
