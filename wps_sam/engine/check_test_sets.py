"""Faults of a data set to evaluate on, found before a training and not after its last iteration."""

from __future__ import annotations

import logging

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from ..data.sources.part_map_check import check_part_maps_once
from ..evaluation import GroundTruth
from ..masks import annotation_mask, check_picture
from .evaluate import build_evaluator
from .loader import open_test_features

logger = logging.getLogger(__name__)


def check_test_set(cfg: CfgNode, dataset_name: str) -> None:
    """Reads all that evaluation will: labels whole, pictures by their headers, stored features by their manifest.

    Several processes share the records.

    Raises:
        ValueError: names the file that is missing, damaged or does not fit, and what is wrong.
    """
    truth = GroundTruth(dataset_name)
    logger.info("%s: checking the labels and pictures of %d records", dataset_name, len(truth.records))
    if MetadataCatalog.get(dataset_name).evaluator_type == "part_seg":
        check_part_maps_once(dataset_name)
    for record in truth.records[comm.get_rank() :: comm.get_world_size()]:
        check_picture(record)
        truth.part_map(record)
        for annotation in record.get("annotations", ()):
            if "segmentation" in annotation:
                annotation_mask(record, annotation)
        if "obj_sem_seg_file_name" in record:
            truth.object_map(record)
    build_evaluator(cfg, dataset_name)
    open_test_features(cfg, dataset_name)
