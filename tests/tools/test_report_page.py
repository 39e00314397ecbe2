"""wps-sam report: a run's page says what its files say, and what its predictions take for what."""

from __future__ import annotations

import json
import math
import runpy
import sys
from pathlib import Path

from wps_sam.data import register_descriptions
from wps_sam.evaluation.evaluator import encode_labels
from wps_sam.evaluation.ground_truth import GroundTruth
from wps_sam.report import RunFolder
from wps_sam.report.judged import judge, judge_boxes, predicted_map, read_instances, read_predictions
from wps_sam.report.page import _best_middle_worst

import numpy as np
import pytest

run = runpy.run_path(str(Path(__file__).resolve().parents[2] / "tools" / "report.py"))["main"]


@pytest.fixture
def truth(tiny_parts):
    register_descriptions([str(tiny_parts.description)])
    return GroundTruth("tiny_parts_val")


@pytest.fixture
def write_run(tiny_cfg, truth, tmp_path):
    """A run's folder as a training leaves it, that takes class 0 for class 1 in the first picture, else is right."""

    def write(name="my_run", first=1):
        cfg = tiny_cfg("OUTPUT_DIR", str(tmp_path / name))
        folder = tmp_path / name / "inference" / "tiny_parts_val"
        folder.mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text(cfg.dump())
        entries = []
        for i, record in enumerate(truth.records):
            part_map = truth.part_map(record)
            if i == 0:
                part_map = np.where(part_map == 0, first, part_map)
            entries += encode_labels(record, part_map, range(truth.num_classes))
        (folder / "sem_seg_predictions.json").write_text(json.dumps(entries))
        lines = [{"iteration": 19, "total_loss": 3.0, "time": 0.5}, {"iteration": 39, "total_loss": 2.0, "time": 1.5}]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / name / "metrics.json").write_text(text + '{"iteration": 59, "total_l')
        scores = {"d2_semseg": {"mIoU": 81.25, "OSI": None, "IoU-<b>": 7.0}, "oracle_filled_box": {"mIoU": 60.5}}
        (tmp_path / name / "evaluation.json").write_text(json.dumps({"tiny_parts_val": scores}))
        (tmp_path / name / "model_final.pth").write_bytes(b"weights")
        return tmp_path / name

    return write


def test_a_page_says_what_the_run_was_and_escapes_names(write_run, capsys):
    folder = write_run()
    assert run([str(folder), "--pictures", "1"]) == 0
    html = (folder / "report.html").read_text()
    # SHA-256 of b"weights", by sha256sum.
    for expected in ("81.2", "60.5", "9a129038d9a00aed", "DETRPrompter on vit_tiny", "1.00", "Worst pictures"):
        assert expected in html, expected
    assert "<b>" not in html and "&lt;b&gt;" in html and "<script" not in html and "http" not in html
    assert html.count("data:image/jpeg") == 3  # a best, a middling and a worst one of four


def test_two_runs_stand_beside_each_other(write_run, tmp_path):
    one, two = write_run("one"), write_run("two")
    assert run([str(one), str(two), "--output", str(tmp_path / "both.html"), "--pictures", "0"]) == 0
    html = (tmp_path / "both.html").read_text()
    assert "<th>one</th><th>two</th>" in html and "jpeg" not in html and not (one / "report.html").exists()


def test_a_swapped_class_is_found_where_it_was_swapped(write_run, truth):
    folder = write_run()
    predictions = read_predictions(folder / "inference" / "tiny_parts_val" / "sem_seg_predictions.json")
    judged = judge(truth, predictions)
    maps = [truth.part_map(record) for record in truth.records]
    swapped, of_class = (maps[0] == 0).sum(), sum((part_map == 0).sum() for part_map in maps)
    assert judged.confusion[1, 0] == swapped > 0 and judged.confusion[0, 1] == 0
    names = truth.class_names
    assert judged.mistaken() == [(names[0], names[1], pytest.approx(swapped / of_class))]
    worst, score = judged.pictures[0]
    assert worst is truth.records[0] and score < 1 and all(s == 1 for _, s in judged.pictures[1:])
    assert sum(count for _, count, _ in judged.by_size) == sum(len(np.unique(m[m < len(names)])) for m in maps)
    assert all(math.isnan(value) or value <= 1 for _, _, value in judged.by_size)
    assert (predicted_map(truth.records[1], predictions[truth.records[1]["file_name"]], len(names)) == maps[1]).all()


def test_no_picture_is_shown_twice(write_run, truth):
    folder = write_run()
    path = folder / "inference" / "tiny_parts_val" / "sem_seg_predictions.json"
    for count in range(6):
        groups = _best_middle_worst(judge(truth, read_predictions(path)).pictures, count)
        shown = [record["image_id"] for _, chosen in groups for record, _ in chosen]
        assert len(set(shown)) == len(shown) == min(3 * count, 4)


def test_of_boxes_alone_there_is_box_ap_and_pictures_with_boxes(write_run, truth, monkeypatch):
    folder = write_run()
    predicted = folder / "inference" / "tiny_parts_val" / "sem_seg_predictions.json"
    found = []
    for k, record in enumerate(truth.records, start=1):
        # In the first picture the upper half of each box is found, in the others all of it: by hand 0.5, and 1.
        for a in record["annotations"]:
            x, y, width, height = a["bbox"]
            box = [x, y, width, height / 2 if k == 1 else height]
            about = {"image_id": k, "category_id": a["category_id"], "bbox": box, "score": 0.9}
            found.append({**about, "segmentation": a.pop("segmentation")})
        record.pop("sem_seg_file_name", None)
    monkeypatch.setattr(sys.modules["wps_sam.report.page"], "GroundTruth", lambda name: truth)
    results = predicted.parent / "coco_ap_box" / "coco_instances_results.json"
    results.parent.mkdir()
    predicted.unlink()
    results.write_text(json.dumps(found))
    scores = {"coco_ap": {"box_AP": 41.5, "box_AP-Animal Head": 37.25}}
    (folder / "evaluation.json").write_text(json.dumps({"tiny_parts_val": scores}))

    scored = judge_boxes(truth, read_instances(results, truth))
    assert [score for _, score in scored] == pytest.approx([0.5, 1, 1, 1]) and scored[0][0] is truth.records[0]
    assert judge_boxes(truth, {})[0][1] == 0
    assert run([str(folder), "--pictures", "1"]) == 0
    html = (folder / "report.html").read_text()
    for expected in ("41.5", "Box AP by part", "37.2", "only boxes are known", "mean IoU of its boxes 50.0"):
        assert expected in html, expected
    assert html.count("data:image/jpeg") == 3 and "What is taken" not in html
    results.write_text(json.dumps([{key: e[key] for key in e if key != "segmentation"} for e in found]))
    assert run([str(folder), "--pictures", "1"]) == 0
    assert "evaluate once more" in (folder / "report.html").read_text()
    results.write_text(json.dumps([{**found[0], "image_id": 5}]))
    with pytest.raises(ValueError, match="image_id: expected 1 to 4, got 5"):
        read_instances(results, truth)


def test_what_is_no_run_is_told(write_run, tmp_path, capsys):
    folder = write_run()
    (folder / "evaluation.json").write_text("{")
    assert run([str(folder)]) == 2 and "evaluation.json: no valid JSON" in capsys.readouterr().err
    (folder / "evaluation.json").unlink()
    assert run([str(folder)]) == 2 and "evaluation.json: is missing; expected OUTPUT_DIR" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"config\.yaml: is missing; expected OUTPUT_DIR of a training"):
        RunFolder.read(tmp_path)
    with pytest.raises(ValueError, match="evaluate the run by d2_semseg first"):
        read_predictions(tmp_path / "none.json")
