"""Labels that a trained model makes where only tags are known."""

from __future__ import annotations

import json

from wps_sam.cli import main
from wps_sam.data import register_descriptions
from wps_sam.data.weaken import Weakening, weaken
from wps_sam.engine import build_train_loader
from wps_sam.engine.pseudo_labels import boxes_of, tagged_map
from wps_sam.structures import LabelKind

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog


def test_only_tagged_classes_and_background_compete():
    # Three classes and background; the likeliest of each pixel is class 0, which is not in the picture.
    scores = torch.tensor([[9.0, 9.0, 9.0], [5.0, 1.0, 1.0], [1.0, 5.0, 1.0], [0.0, 0.0, 5.0]])[:, None]
    assert tagged_map(scores, [1, 2]).tolist() == [[1, 2, 3]]
    assert tagged_map(scores, [2]).tolist() == [[2, 2, 3]]
    assert scores.argmax(0).tolist() == [[0, 0, 0]], "without the tags it would be another map"


def test_every_connected_piece_has_a_box_and_crumbs_have_none():
    part_map = np.full((20, 30), 3)
    part_map[2:12, 4:14] = 1
    part_map[15:18, 20:25] = 1
    part_map[0, 29] = 1
    # Corner to corner is connected.
    part_map[17, 2] = part_map[18, 3] = 2
    found = boxes_of(part_map, [0, 1, 2])
    assert found == [
        {"category_id": 1, "bbox": [4, 2, 10, 10]},
        {"category_id": 1, "bbox": [20, 15, 5, 3]},
        {"category_id": 2, "bbox": [2, 17, 2, 2]},
    ]
    assert boxes_of(np.full((4, 4), 3), [0]) == []


@pytest.fixture
def mixed(tiny_parts, tmp_path):
    """The tiny data set with boxes, points, masks or tags; its description."""
    register_descriptions([str(tiny_parts.description)])
    records = DatasetCatalog.get(tiny_parts.split("train"))
    names = MetadataCatalog.get(tiny_parts.split("train")).thing_classes
    root = tiny_parts.root / "images" / "train"
    content = weaken(records, names, Weakening(box=0.34, point=0.33, tag=0.33), str(root))
    (tmp_path / "mixed.json").write_text(json.dumps(content))
    description = tmp_path / "mixed.yaml"
    splits = f"{{train: {{images: ., annotations: {tmp_path / 'mixed.json'}}}}}"
    description.write_text(f"name: mixed\nlayout: coco\nroot: {root}\nsplits: {splits}\n")
    yield description
    for name in ("mixed_train", "pseudo_train"):
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)


def test_tagged_pictures_get_boxes_and_the_others_keep_their_labels(mixed, tiny_model, tiny_cfg, tmp_path, capsys):
    arguments = ["pseudo", "--config-file", str(tiny_model.config_file), "--dataset", "mixed_train", "--name", "pseudo"]
    arguments += ["--output", str(tmp_path / "out"), "MODEL.WEIGHTS", str(tiny_model.weights)]
    assert main([*arguments, "DATASETS.DESCRIPTIONS", f"['{mixed}']", "DATASETS.TEST", "()"]) == 0
    assert "6 pictures, 2 of them labelled by the model" in capsys.readouterr().out
    register_descriptions([str(tmp_path / "out" / "description.yaml")])
    before, after = DatasetCatalog.get("mixed_train"), DatasetCatalog.get("pseudo_train")
    assert [r["file_name"] for r in before] == [r["file_name"] for r in after]
    for old, new in zip(before, after):
        assert old.get("tags") == new.get("tags")
        if old["annotations"]:
            kept = [[(a["category_id"], a.get("bbox"), a.get("point")) for a in r["annotations"]] for r in (old, new)]
            assert kept[0] == kept[1]
        else:
            assert new["annotations"] and {a["category_id"] for a in new["annotations"]} <= set(old["tags"])
    opts = ("DATASETS.TRAIN", ("pseudo_train",), "WEAK_LABELS.TYPE", "as_annotated", "SOLVER.IMS_PER_BATCH", 6)
    batch = next(iter(build_train_loader(tiny_cfg(*opts))))
    assert {int(kind) for x in batch for kind in x["instances"].gt_kinds} == {LabelKind.BOX, LabelKind.POINT}
    for dataset, message in (("mixd_train", "not registered (did you mean"), ("mixed_train", "MODEL.WEIGHTS is empty")):
        wrong = [dataset if word == "mixed_train" else word for word in arguments[:-2]]
        sets = ["DATASETS.DESCRIPTIONS", f"['{mixed}']", "DATASETS.TEST", "()", "OUTPUT_DIR", str(tmp_path / "none")]
        assert main([*wrong, *sets]) == 2
        assert message in capsys.readouterr().err
