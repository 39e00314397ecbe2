"""What a configuration leaves to the data, filled in before anything is checked."""

from __future__ import annotations

from wps_sam.data import register_descriptions
from wps_sam.engine.evaluate import warn_of_weak_masks
from wps_sam.engine.fill_in import fill_in_classes, fill_in_length

import pytest
from detectron2.data import DatasetCatalog


@pytest.fixture
def cfg(tiny_cfg, tiny_parts):
    register_descriptions([str(tiny_parts.description)])
    return tiny_cfg()


def test_the_number_of_classes_is_the_data_sets(cfg):
    known = cfg.MODEL.PROMPTER.NUM_CLASSES
    cfg.MODEL.PROMPTER.NUM_CLASSES = 0
    fill_in_classes(cfg, ["no_such_set", "tiny_parts_train"])
    assert cfg.MODEL.PROMPTER.NUM_CLASSES == known
    cfg.MODEL.PROMPTER.NUM_CLASSES = known + 1
    fill_in_classes(cfg, ["tiny_parts_train"])
    assert cfg.MODEL.PROMPTER.NUM_CLASSES == known + 1  # is checked, and refused, afterwards


def test_a_model_by_name_has_as_many_as_it_is_trained_on(cfg):
    """So that the background of the part maps it learns from is none of its classes, whatever the number says."""
    known = cfg.MODEL.PROMPTER.NUM_CLASSES
    cfg.MODEL.PROMPTER.CLASSIFIER, cfg.MODEL.PROMPTER.NUM_CLASSES = "text", known + 1
    fill_in_classes(cfg, ["tiny_parts_train"])
    assert cfg.MODEL.PROMPTER.NUM_CLASSES == known


def test_epochs_become_steps_and_periods_follow(cfg, log):
    """tiny_parts_train's pictures with labels, seen 50 times in batches of 2."""
    pictures = sum(bool(record["annotations"]) for record in DatasetCatalog.get("tiny_parts_train"))
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_EPOCHS = 2, 50
    fill_in_length(cfg)
    steps = -(-50 * pictures // 2)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS) == (steps, steps // 20)
    assert cfg.SOLVER.CHECKPOINT_PERIOD == cfg.TEST.EVAL_PERIOD == -(-steps // 5)
    assert "seen 50.0 times" in log.text and "WARNING" not in log.text


def test_few_epochs_are_warned_of(cfg, log):
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH, before = 1, 2, cfg.SOLVER.WARMUP_ITERS
    fill_in_length(cfg)
    assert cfg.SOLVER.MAX_ITER == 1 and cfg.SOLVER.WARMUP_ITERS == before
    assert "which is little: set SOLVER.MAX_EPOCHS 8" in log.text
    cfg.SOLVER.MAX_EPOCHS, cfg.DATASETS.TRAIN = 3, ()
    with pytest.raises(ValueError, match="MAX_EPOCHS is 3, but DATASETS.TRAIN has no picture with labels"):
        fill_in_length(cfg)


@pytest.mark.parametrize(("asked", "filled", "said"), [(55.3, 65.8, True), (65.8, 55.3, False)])
def test_a_segmenter_that_is_worse_than_filled_boxes_is_told(log, asked, filled, said):
    warn_of_weak_masks({"oracle_box_prompt": {"mIoU": asked}, "oracle_filled_box": {"mIoU": filled}}, "cars_val")
    assert ("cars_val: SAM's masks of the true boxes have 55.3 mIoU" in log.text) == said
