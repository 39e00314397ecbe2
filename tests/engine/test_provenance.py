"""What numbers were made by stands beside them, and what is otherwise now is told."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from pathlib import Path

from wps_sam import engine
from wps_sam.checkpointer import SafeCheckpointer
from wps_sam.data import register_descriptions
from wps_sam.engine import provenance
from wps_sam.engine.provenance import differences, hash_data, hash_weights, made_by

import pytest
import torch
from detectron2.data import DatasetCatalog
from toy_parts import ToyParts


def record(folder: Path, **more) -> dict:
    folder.mkdir(exist_ok=True)
    (folder / "a.jpg").write_bytes(b"pixels")
    return {"file_name": str(folder / "a.jpg"), "annotations": [{"bbox": [1, 2, 3, 4], "counts": b"7"}], **more}


def test_a_data_set_is_known_by_content_wherever_it_lies(tmp_path):
    here, there = [record(tmp_path / "here")], [record(tmp_path / "there")]
    same = hash_data(here)
    assert hash_data(there) == same
    # Its size and its time stay.
    Path(there[0]["file_name"]).write_bytes(b"pixelS")
    assert hash_data(there) != same
    # Who has just read it says so.
    assert hash_data(there, {there[0]["file_name"]: provenance._hash_file(here[0]["file_name"])}) == same
    changed = copy.deepcopy(here)
    changed[0]["annotations"][0]["bbox"][3] = 5
    assert (
        len(
            {hash_data(records) for records in (here, changed, [*here, *here], [record(tmp_path / "here", tags=["a"])])}
        )
        == 4
    )
    Path(here[0]["file_name"]).unlink()
    assert hash_data(here) != same


def test_the_code_is_known_by_its_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)
    source, seen = tmp_path / "a.py", set()
    for text in ("x = 1", "x = 2"):
        source.write_text(text)
        seen.add(provenance.code.__wrapped__()["sha256"])
    source.rename(tmp_path / "b.py")
    seen.add(provenance.code.__wrapped__()["sha256"])
    assert len(seen) == 3
    assert made_by({"a": "1"})["versions"]["torch"] == torch.__version__


def test_an_edit_that_is_not_committed_is_told():
    revision = "0123456789abcdef"
    then, now = (
        {"code": {"sha256": found, "revision": revision + suffix}, "versions": {}, "data": {}}
        for found, suffix in (("1", ""), ("2", "-dirty"))
    )
    assert differences(then, now) == ["code of the revision 0123456789ab, now 0123456789ab-dirty"]


def test_differences_are_named():
    then = {
        "code": {"sha256": "1", "revision": "abc"},
        "versions": {"torch": "2.4", "numpy": "1", "timm": "3"},
        "data": {"a": "1", "b": "2"},
    }
    assert differences(then, then) == []
    now = {
        "code": {"sha256": "2", "revision": ""},
        "versions": {"torch": "2.12", "numpy": "1"},
        "data": {"a": "7"},
    }
    assert differences(then, now) == [
        "code of the revision abc, now unknown",
        "torch 2.4, now 2.12",
        "timm 3, now not installed",
        "data set a 1, now 7",
    ]


def test_evaluations_and_checkpoints_say_it_and_another_data_set_or_code_is_told(
    toy_cfg, write_tiny_parts, tmp_path, log, monkeypatch
):
    parts = write_tiny_parts(tmp_path / "data", name="known_parts", num_train=2, num_val=2)
    register_descriptions([str(parts.description)])
    sets = ("DATASETS.TRAIN", (parts.split("train"),), "DATASETS.TEST", (parts.split("val"),))
    cfg = toy_cfg(*sets, "TEST.PROTOCOLS", ["d2_semseg"], "SOLVER.MAX_ITER", 1)
    trainer = engine.Trainer(cfg)
    trainer.resume_or_load(False)
    trainer.train()
    output = Path(cfg.OUTPUT_DIR)
    said = json.loads((output / "provenance.json").read_text())
    assert said["evaluation_sha256"] == hashlib.sha256((output / "evaluation.json").read_bytes()).hexdigest()
    assert said["weights_sha256"] == hash_weights(trainer.model)
    assert said["code"] == provenance.code() and list(said["data"]) == [parts.split("val")]
    kept = SafeCheckpointer.read(str(output / "model_final.pth"))["trainer"]["made_by"]
    assert kept["data"] == {name: hash_data(DatasetCatalog.get(name)) for name in (sets[1][0], sets[3][0])}

    engine.evaluate_only(cfg)
    assert json.loads((output / "provenance.json").read_text()) == said
    assert "otherwise" not in log.text
    # A picture is exchanged for one of the same name.
    first, second = sorted((parts.root / "images" / "val").iterdir())
    shutil.copy(second, first)
    monkeypatch.setattr(provenance, "code", lambda: {"sha256": "0", "revision": "0" * 40})
    engine.evaluate_only(cfg)
    was = provenance._short(said["code"]["revision"])
    assert f"These weights were made otherwise, and scores may differ: code of the revision {was}, now 0000" in log.text
    assert "; data set known_parts_val" in log.text and "known_parts_train" not in log.text.split("otherwise")[1]


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_other_weights_have_another_hash(toy_cfg, name):
    model = ToyParts(toy_cfg())
    before = hash_weights(model)
    assert hash_weights(copy.deepcopy(model)) == before
    getattr(model.head, name).data[0] += 1e-6
    assert hash_weights(model) != before
