"""Faults of a data set to evaluate on, found before a training and not after its last iteration."""

from __future__ import annotations

import logging

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from ..data.feature_store import distinct_pictures
from ..data.sources.part_map_check import check_part_maps_once
from ..evaluation import GroundTruth
from ..masks import annotation_mask, read_picture
from .evaluate import build_evaluator
from .loader import contents, open_test_features
from .provenance import hash_data

logger = logging.getLogger(__name__)


def check_test_set(cfg: CfgNode, dataset_name: str) -> str:
    """Reads all that evaluation will: labels and pictures whole, stored features by their manifest.

    Several processes share the records.

    Returns:
        The hash of the data set, see :func:`wps_sam.engine.provenance.hash_data`.

    Raises:
        ValueError: names the file that is missing, damaged or does not fit, and what is wrong.
    """
    truth = GroundTruth(dataset_name)
    logger.info("%s: checking the labels and pictures of %d records", dataset_name, len(truth.records))
    if MetadataCatalog.get(dataset_name).evaluator_type == "part_seg":
        check_part_maps_once(dataset_name)
    mine = truth.records[comm.get_rank() :: comm.get_world_size()]
    for record in distinct_pictures(mine):
        # A file that is cut off has a header like any other.
        read_picture(record)
        truth.part_map(record)
    for record in mine:
        for annotation in record.get("annotations", ()):
            # Of pictures without a label map the masks were painted just now.
            if "segmentation" in annotation and record.get("sem_seg_file_name"):
                annotation_mask(record, annotation)
        if "obj_sem_seg_file_name" in record:
            truth.object_map(record)
    build_evaluator(cfg, dataset_name)
    return hash_data(truth.records, contents(open_test_features(cfg, dataset_name)))
