"""A data set to evaluate on is looked through before the training: what can't be measured on it is said."""

from __future__ import annotations

import json
from pathlib import Path

from wps_sam.data import register_descriptions
from wps_sam.engine import evaluate
from wps_sam.engine.check_test_sets import check_test_set

import numpy as np
import pytest
import torch
import yaml
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import nn


def write_doors(tmp_path, with_mask, name):
    """The registered name of a data set of one picture with one box, and its mask."""
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
    return f"{name}_val"


class FindsDoors(nn.Module):
    """Finds the left half of every picture."""

    def forward(self, inputs):
        outputs = []
        for x in inputs:
            found = Instances((x["height"], x["width"]))
            found.pred_masks = torch.zeros(1, x["height"], x["width"], dtype=torch.bool)
            found.pred_masks[:, 5:25, 5:25] = True
            found.pred_boxes = Boxes(torch.tensor([[5.0, 5.0, 25.0, 25.0]]))
            found.pred_classes, found.scores = torch.tensor([0]), torch.tensor([0.9])
            sem_seg = torch.stack([found.pred_masks[0], ~found.pred_masks[0]]).float()
            outputs.append({"instances": found, "sem_seg": sem_seg})
        return outputs

    def prompt_boxes(self, inputs, boxes):
        return [torch.ones(len(b), x["height"], x["width"]) for x, b in zip(inputs, boxes)]


@pytest.mark.parametrize("with_mask", [False, True])
def test_boxes_alone_are_measured_by_boxes_alone(tiny_cfg, tmp_path, log, with_mask):
    """Against maps that are background everywhere pin41 would read 100, whatever is found."""
    name = write_doors(tmp_path, with_mask, f"boxes_{'and_masks' if with_mask else 'alone'}")
    cfg = tiny_cfg("DATASETS.TEST", (name,), "MODEL.PROMPTER.NUM_CLASSES", 1, "TEST.ORACLES", True)
    cfg.TEST.PROTOCOLS = ["d2_semseg", "pin41", "coco_ap"]
    check_test_set(cfg, name)
    told = f"{name}: no annotation has a mask: of its scores there are those of boxes, such as box_AP, and not"
    assert (told in log.text) != with_mask
    Path(cfg.OUTPUT_DIR).mkdir(exist_ok=True)
    scores = evaluate(cfg, FindsDoors())[name]
    assert scores["coco_ap"]["box_AP"] == pytest.approx(100)
    if with_mask:
        assert scores["coco_ap"]["AP"] == pytest.approx(100) and {"d2_semseg", "pin41", "oracle_box_prompt"} < set(
            scores
        )
    else:
        # No score of masks stands there as a hole, and by part there is box AP.
        assert set(scores) == {"coco_ap"} and all(name.startswith("box_AP") for name in scores["coco_ap"])
        assert scores["coco_ap"]["box_AP-door"] == pytest.approx(100)
        report = log.text.split("coco_ap  box_AP 100.00")[-1]
        assert report != log.text and "box AP" in report and "nan" not in report


def test_protocols_that_all_need_masks_are_refused_without(tiny_cfg, tmp_path):
    name = write_doors(tmp_path, False, "boxes_unasked")
    cfg = tiny_cfg("DATASETS.TEST", (name,), "MODEL.PROMPTER.NUM_CLASSES", 1, "TEST.PROTOCOLS", ["pin41"])
    with pytest.raises(ValueError, match=r"has a mask, as protocols \['pin41'\] need; \['coco_ap'\] do not"):
        check_test_set(cfg, name)
