"""What a configuration leaves to the data: the number of classes, and the length."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..config import is_open_vocabulary
from .loader import num_parts, num_tags

logger = logging.getLogger(__name__)

# Fewer passes over the pictures than this teach a prompter little.
FEW_EPOCHS = 4


def fill_in_classes(cfg: CfgNode, dataset_names: Sequence[str]) -> None:
    """MODEL.PROMPTER.NUM_CLASSES 0, or any where classes are told by name, of the first data set that is registered."""
    known = [name for name in dataset_names if name in DatasetCatalog.list()]
    if known and (cfg.MODEL.PROMPTER.NUM_CLASSES == 0 or is_open_vocabulary(cfg)):
        cfg.MODEL.PROMPTER.NUM_CLASSES = len(MetadataCatalog.get(known[0]).thing_classes)


def fill_in_length(cfg: CfgNode) -> None:
    """SOLVER.MAX_EPOCHS, and with it warm-up and periods; says how many passes the steps are otherwise.

    Raises:
        ValueError: MAX_EPOCHS is set, and no picture of DATASETS.TRAIN has anything to learn from.
    """
    records = [record for name in cfg.DATASETS.TRAIN for record in DatasetCatalog.get(name)]
    pictures = sum(_teaches(cfg, record) for record in records)
    solver = cfg.SOLVER
    if solver.MAX_EPOCHS:
        if not pictures:
            raise ValueError(
                f"SOLVER.MAX_EPOCHS is {solver.MAX_EPOCHS}, but {', '.join(cfg.DATASETS.TRAIN) or 'DATASETS.TRAIN'} "
                "has no picture with labels"
            )
        solver.MAX_ITER = math.ceil(solver.MAX_EPOCHS * pictures / solver.IMS_PER_BATCH)
        solver.WARMUP_ITERS = solver.MAX_ITER // 20
        solver.CHECKPOINT_PERIOD = cfg.TEST.EVAL_PERIOD = max(1, math.ceil(solver.MAX_ITER / 5))
    epochs = solver.MAX_ITER * solver.IMS_PER_BATCH / max(pictures, 1)
    level = logging.WARNING if pictures and epochs < FEW_EPOCHS else logging.INFO
    logger.log(
        level,
        "%d steps of %d pictures: each of the %d with labels is seen %.1f times%s",
        *(solver.MAX_ITER, solver.IMS_PER_BATCH, pictures, epochs),
        f", which is little: set SOLVER.MAX_EPOCHS {2 * FEW_EPOCHS} or more" if level == logging.WARNING else "",
    )


def _teaches(cfg: CfgNode, record: Mapping[str, Any]) -> bool:
    return "annotations" not in record or bool(num_parts(record) or num_tags(cfg, record))
