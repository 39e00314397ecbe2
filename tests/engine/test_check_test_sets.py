"""A data set to evaluate on is looked through before the training: what can't be measured on it is said."""

from __future__ import annotations

import json

from wps_sam.data import register_descriptions
from wps_sam.engine.check_test_sets import check_test_set

import numpy as np
import pytest
import yaml
from PIL import Image


@pytest.mark.parametrize("with_mask", [False, True])
def test_boxes_alone_measure_no_masks(tiny_cfg, tmp_path, log, with_mask):
    name = f"boxes_{'and_masks' if with_mask else 'alone'}"
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "a.png")
    label = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}
    mask = {"segmentation": [[5, 5, 25, 5, 25, 25, 5, 25]]} if with_mask else {}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 60}],
        "annotations": [{**label, **mask}],
        "categories": [{"id": 1, "name": "door"}],
    }
    (tmp_path / "val.json").write_text(json.dumps(content))
    splits = {"val": {"images": ".", "annotations": "val.json"}}
    description = {"name": name, "layout": "coco", "root": str(tmp_path), "splits": splits}
    (tmp_path / "set.yaml").write_text(yaml.safe_dump(description))
    register_descriptions([str(tmp_path / "set.yaml")])
    check_test_set(tiny_cfg("DATASETS.TEST", (f"{name}_val",), "MODEL.PROMPTER.NUM_CLASSES", 1), f"{name}_val")
    assert ("no annotation has a mask" in log.text) != with_mask
