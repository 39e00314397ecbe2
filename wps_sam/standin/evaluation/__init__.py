"""Evaluators."""
# ruff: noqa: F401  (the public names)

from .coco_evaluation import COCOEvaluator
from .evaluator import DatasetEvaluator, DatasetEvaluators, inference_context, inference_on_dataset
from .sem_seg_evaluation import SemSegEvaluator
from .testing import print_csv_format, verify_results
