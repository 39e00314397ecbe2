"""tools/weaken_labels.py: a data set as it would be with less labelling, which trains."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

from wps_sam.data import register_descriptions
from wps_sam.data.weaken import Weakening, weaken
from wps_sam.engine import build_train_loader
from wps_sam.structures import LabelKind

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode
from PIL import Image

run = runpy.run_path(str(Path(__file__).resolve().parents[2] / "tools" / "weaken_labels.py"))["main"]


def records(count=100):
    part = {"id": 1, "category_id": 1, "bbox": [10, 20, 40, 20], "bbox_mode": BoxMode.XYWH_ABS}
    of_image = {"height": 60, "width": 80, "annotations": [part, {**part, "iscrowd": 1}]}
    return [{"file_name": f"/data/images/{i}.png", "image_id": i + 7, **of_image} for i in range(count)]


def test_the_shares_are_kept_and_the_seed_decides():
    how = Weakening(box=0.1, point=0.33, tag=0.5)
    content = weaken(records(), ["a", "b"], how, "/data")
    boxes = [a["image_id"] for a in content["annotations"] if "bbox" in a]
    points = [a["image_id"] for a in content["annotations"] if "point" in a]
    tagged = [i["id"] for i in content["images"] if "tags" in i]
    assert (len(boxes), len(points), len(tagged)) == (10, 33, 50) and len(content["images"]) == 93
    assert not set(boxes) & set(points) and not (set(boxes) | set(points)) & set(tagged)
    assert all(i["tags"] == ["b"] for i in content["images"] if "tags" in i)
    assert content["images"][0]["file_name"].startswith("images/")
    assert weaken(records(), ["a", "b"], how, "/data") == content
    other = weaken(records(), ["a", "b"], Weakening(box=0.1, point=0.33, tag=0.5, seed=1), "/data")
    assert boxes != [a["image_id"] for a in other["annotations"] if "bbox" in a]


def test_pictures_keep_ids_that_are_numbers_and_none_is_lost_by_rounding():
    content = weaken(records(650), ["a", "b"], Weakening(box=0.1, point=0.33, tag=0.57), "/data")
    assert [i["id"] for i in content["images"]] == list(range(7, 657))
    assert {a["image_id"] for a in content["annotations"]} <= set(range(7, 657))
    named = [{**record, "image_id": record["file_name"]} for record in records(3)]
    assert [i["id"] for i in weaken(named, ["a", "b"], Weakening(box=1), "/data")["images"]] == [0, 1, 2]


def test_boxes_are_wrong_by_so_much_and_points_are_inside():
    exact = weaken(records(1), ["a", "b"], Weakening(box=1), "/")["annotations"]
    assert [a["bbox"] for a in exact] == [[10, 20, 40, 20]]
    many = records(1)
    many[0]["annotations"] = [{**many[0]["annotations"][0], "id": k} for k in range(500)]
    found = np.array([a["bbox"] for a in weaken(many, ["a", "b"], Weakening(box=1, jitter=0.2), "/")["annotations"]])
    sides = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1)
    wrong = np.abs(sides - [10, 20, 50, 40]).max(0)
    assert (wrong <= [8.01, 4.01, 8.01, 4.01]).all() and (wrong > [7, 3.5, 7, 3.5]).all()
    (point,) = weaken(records(1), ["a", "b"], Weakening(point=1), "/")["annotations"]
    assert point["point"] == [29.5, 29.5] and "bbox" not in point


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"box": 0.6, "point": 0.6}, "together at most 1"),
        ({"box": -0.1, "point": 0.6}, "shares of 0 or more"),
        ({}, "together at most 1, got"),
        ({"box": 1, "jitter": 0.5}, "less than 0.5, got 0.5"),
    ],
)
def test_shares_that_make_no_sense_are_refused(how, message):
    with pytest.raises(ValueError, match=message):
        Weakening(**how)


def test_what_it_writes_trains_with_labels_of_every_kind(tiny_parts, tiny_cfg, tmp_path, capsys):
    folder = tmp_path / "tagged"
    folder.mkdir()
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(folder / "t.png")
    (tmp_path / "tags.json").write_text(json.dumps({"t.png": ["Animal Head"]}))
    arguments = [
        "--description",
        str(tiny_parts.description),
        "--dataset",
        tiny_parts.split("train"),
        "--name",
        "weaker",
    ]
    arguments += ["--output", str(tmp_path / "out"), "--box", "0.34", "--point", "0.33", "--tag", "0.33"]
    more = ["--tags", str(tmp_path / "tags.json"), "--tagged-images", str(folder)]
    assert run([*arguments, *more]) == 0
    assert "7 pictures" in capsys.readouterr().out
    register_descriptions([str(tmp_path / "out" / "description.yaml")])
    try:
        found = DatasetCatalog.get("weaker_train")
        assert len(found) == 7 and sum("tags" in record for record in found) == 3
        opts = ("DATASETS.TRAIN", ("weaker_train",), "WEAK_LABELS.TYPE", "as_annotated", "SOLVER.IMS_PER_BATCH", 7)
        cfg = tiny_cfg("MODEL.PROMPTER.NAME", "DensePrompter", "MODEL.DENSE_PROMPTER.PART_WEIGHT", 1.0, *opts)
        batch = next(iter(build_train_loader(cfg)))
        kinds = {int(kind) for x in batch for kind in x["instances"].gt_kinds}
        assert kinds == {LabelKind.BOX, LabelKind.POINT} and {len(x["tags"]) > 0 for x in batch} == {True, False}
        # Nobody knows what the pixels of a picture with tags alone are.
        assert all((x["part_map"] == 65535).all() == bool(len(x["tags"])) for x in batch)
    finally:
        DatasetCatalog.remove("weaker_train")
    (tmp_path / "tags.json").write_text(json.dumps({"t.png": ["Wing"]}))
    assert run([*arguments, *more]) == 2
    assert "t.png: ['Wing'] are not among the classes" in capsys.readouterr().err
    for wrong in (["--box", "2"], ["--dataset", "nowhere"]):
        assert run([*arguments, *wrong]) == 2
    assert run([*arguments, "--tags", "x.json"]) == 2
