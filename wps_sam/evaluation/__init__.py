"""How good a part segmentation is, by every protocol in use, each under its own name.

``protocols.py`` is the registry; an evaluator, its name and what a report says of it stand together in one file.
"""

from __future__ import annotations

from wps_sam.evaluation.evaluator import PartEvaluator
from wps_sam.evaluation.ground_truth import GroundTruth, unseen_classes
from wps_sam.evaluation.protocols import (
    DEFAULT_PROTOCOLS,
    PROTOCOLS,
    PartColumn,
    Protocol,
    build_evaluators,
    check_protocols,
    register_protocols,
)
from wps_sam.evaluation.report import format_results_table

# Importing these files registers their protocols; the order here is the order of the results.
# isort: split
from wps_sam.evaluation.part_sem_seg import AuthorsEvaluator, ImagePartEvaluator, PooledPartEvaluator

# isort: split
from wps_sam.evaluation.part_detection import CocoAPEvaluator, ErrorBreakdownEvaluator

# isort: split
from wps_sam.evaluation.pascal_sq import PascalSqEvaluator

# isort: split
from wps_sam.evaluation.open_vocabulary import AllPartsEvaluator, OracleObjectEvaluator, PredictedObjectEvaluator

# isort: split
from wps_sam.evaluation.oracles import (
    BoxPromptOracle,
    FilledBoxOracle,
    PointPromptOracle,
    TrueBoxesOracle,
    TrueNamesOracle,
    oracle_scores,
)

__all__ = [
    "DEFAULT_PROTOCOLS",
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
    "PartColumn",
    "PartEvaluator",
    "PascalSqEvaluator",
    "PointPromptOracle",
    "PooledPartEvaluator",
    "PredictedObjectEvaluator",
    "Protocol",
    "TrueBoxesOracle",
    "TrueNamesOracle",
    "build_evaluators",
    "check_protocols",
    "format_results_table",
    "oracle_scores",
    "register_protocols",
    "unseen_classes",
]
