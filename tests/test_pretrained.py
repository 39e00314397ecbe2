"""Folders of trained models: the same parts come out of what was saved, wherever the folder lies."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from wps_sam import PartPredictor
from wps_sam.cli import run_command
from wps_sam.prediction import PartPrediction

import huggingface_hub
import numpy as np
import pytest
import yaml
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

PHOTO = Path(__file__).resolve().parents[1] / "docs" / "photo.jpg"


def assert_identical(one: PartPrediction, other: PartPrediction) -> None:
    assert one.names == other.names and len(one) > 0
    for name in ("scores", "masks", "part_map", "boxes"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


@pytest.fixture(scope="module")
def photo(tiny_parts: Any) -> Path:
    return sorted((tiny_parts.root / "images" / "val").glob("*.JPEG"))[0]


@pytest.fixture
def run(tiny_model: Any, tmp_path: Path) -> Path:
    """OUTPUT_DIR of a training, moved since."""
    folder = tmp_path / "run"
    shutil.copytree(tiny_model.config_file.parent, folder)
    scores = {"d2_semseg": {"mIoU": 51.234, "IoU-Car Body": 60.0, "IoU-Animal Head": None}, "pin41": {"mIoU": 40.0}}
    (folder / "evaluation.json").write_text(json.dumps({"tiny_parts_val": scores}))
    return folder


def test_the_same_parts_bit_for_bit(run: Path, photo: Path, tmp_path: Path) -> None:
    of_run = PartPredictor.from_pretrained(run)
    of_run.save_pretrained(tmp_path / "saved", license="apache-2.0")
    (tmp_path / "saved").rename(tmp_path / "moved")
    again = PartPredictor.from_pretrained(str(tmp_path / "moved"))
    assert_identical(of_run(photo), again(photo))
    assert again.class_names == of_run.class_names
    # And what was read can be saved again, in its own folder, too.
    for folder in (tmp_path / "moved", tmp_path / "again"):
        again.save_pretrained(folder, license="apache-2.0")
    files = {p.name: p.read_bytes() for p in (tmp_path / "moved").iterdir() if not p.name.startswith(".")}
    copies = {p.name: p.read_bytes() for p in (tmp_path / "again").iterdir() if not p.name.startswith(".")}
    assert set(files) == {"config.yaml", "model.safetensors", "README.md", "evaluation.json"}
    assert all(files[name] == copies[name] for name in ("config.yaml", "evaluation.json"))


def test_the_shipped_model_survives_with_its_semantic_network(tmp_path: Path) -> None:
    shipped = PartPredictor()
    shipped.save_pretrained(tmp_path / "saved")
    config = yaml.safe_load((tmp_path / "saved" / "config.yaml").read_text())
    # What ships with the package is named, not copied.
    assert config["MODEL"]["SAM"]["WEIGHTS"] == config["MODEL"]["SEMANTIC"]["WEIGHTS"] == "shipped"
    assert_identical(shipped(PHOTO), PartPredictor.from_pretrained(tmp_path / "saved")(PHOTO))


def test_weights_of_others_are_copied(tiny_model: Any, photo: Path, tmp_path: Path) -> None:
    from wps_sam.encoders.build_sam import build_sam

    # The random SAM that the model was made on, as a file of this machine.
    sam = tmp_path / "somewhere" / "model.safetensors"
    sam.parent.mkdir()
    save_file({key: value.contiguous() for key, value in build_sam("vit_tiny").state_dict().items()}, sam)
    before = PartPredictor(tiny_model.config_file, tiny_model.safetensors, opts=["MODEL.SAM.WEIGHTS", str(sam)])
    before.save_pretrained(tmp_path / "saved")
    expected = before(photo)
    shutil.rmtree(sam.parent)
    saved = tmp_path / "saved"
    assert yaml.safe_load((saved / "config.yaml").read_text())["MODEL"]["SAM"]["WEIGHTS"] == "sam/model.safetensors"
    assert_identical(expected, PartPredictor.from_pretrained(saved)(photo))


def test_the_configuration_says_what_decides_a_prediction_and_nothing_of_the_machine(run: Path, tmp_path: Path) -> None:
    PartPredictor.from_pretrained(run).save_pretrained(tmp_path / "saved")
    text = (tmp_path / "saved" / "config.yaml").read_text()
    config = yaml.safe_load(text)
    assert set(config) == {"VERSION", "MODEL", "DATASETS"} and str(tmp_path) not in text
    assert config["MODEL"]["DEVICE"] == "auto" and config["DATASETS"] == {"TRAIN": ["tiny_parts_train"]}
    # Whole, so that another default in a later version changes nothing; of other prompters, nothing.
    assert config["MODEL"]["INFERENCE"]["NAMING"] == 0.5 and config["MODEL"]["DETR_PROMPTER"]["NUM_QUERIES"] == 6
    assert not {"DENSE_PROMPTER", "FCOS_PROMPTER", "ROI_HEADS", "WEIGHTS"} & set(config["MODEL"])


def test_the_model_card(run: Path, tmp_path: Path) -> None:
    predictor = PartPredictor.from_pretrained(run)
    predictor.save_pretrained(tmp_path / "my_parts", license="apache-2.0")
    card = (tmp_path / "my_parts" / "README.md").read_text()
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "apache-2.0" and yaml.safe_load(head)["library_name"] == "wps_sam"
    for line in (
        "# my_parts",
        "3 kinds of parts in pictures: Animal Head, Animal Body, Car Body.",
        "| method | DETRPrompter on vit_tiny |",
        "| trained on | tiny_parts_train |",
        "## Evaluation on tiny_parts_val",
        "| d2_semseg | mIoU | 51.23 |",
        "| Animal Head | \N{EN DASH} |",
    ):
        assert line in body
    # Where there are boxes alone, the parts have these.
    scores = {"coco_ap": {"box_AP": 41.5, "box_AP-Animal Head": 37.25}}
    (run / "evaluation.json").write_text(json.dumps({"tiny_parts_val": scores}))
    predictor.save_pretrained(tmp_path / "unsaid")
    card = (tmp_path / "unsaid" / "README.md").read_text()
    assert "| part | box_AP (coco_ap) |\n|---|---|\n| Animal Head | 37.25 |" in card
    assert "license:" not in card and "| licence | not stated" in card
    # Of names that were never trained, seen and unseen scores apart.
    scores = {"ov_oracle": {"mIoU-base": 30.25, "mIoU-unbase": 4.5, "harmonic": 7.75, "IoU-Car Body": 1.5}}
    (run / "evaluation.json").write_text(json.dumps({"tiny_parts_val": scores}))
    predictor.save_pretrained(tmp_path / "by_name")
    card = (tmp_path / "by_name" / "README.md").read_text()
    assert all(f"| ov_oracle | {m} |" in card for m in ("mIoU-base", "mIoU-unbase", "harmonic"))
    assert "| ov_oracle | IoU-Car Body |" not in card


def test_scores_of_other_weights_are_not_taken_over(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "model_final.pth", run / "model_best.pth")
    PartPredictor(run / "config.yaml", run / "model_best.pth").save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "evaluation.json").exists()
    assert "Evaluation" not in (tmp_path / "saved" / "README.md").read_text()


def test_files_of_others_are_not_written_over(run: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ValueError, match=r"README\.md: exists, and was not made by a tool of this project"):
        PartPredictor.from_pretrained(run).save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", r"\./nowhere: no such folder$"),
        ("/nowhere/at/all", "/nowhere/at/all: no such folder$"),
        ("empty", "empty: holds no config.yaml; expected the folder of a trained model, or OUTPUT_DIR of a run"),
        ("stopped", r"stopped: holds no model\.safetensors, and no checkpoint of a finished run"),
        ("code", r"code/config\.yaml: no valid YAML: .*python/object"),
        ("base", r"base/config\.yaml: expected keys and values without _BASE_"),
    ],
)
def test_what_is_no_model_is_told(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    contents = {
        "stopped": "VERSION: 2",
        "code": "A: !!python/object/apply:os.system [ls]",
        "base": "_BASE_: /etc/x.yaml",
    }
    for folder in ("empty", *contents):
        Path(folder).mkdir()
    for folder, text in contents.items():
        Path(folder, "config.yaml").write_text(text)
    for folder in ("code", "base"):
        Path(folder, "model.safetensors").touch()
    with pytest.raises(ValueError, match=message):
        PartPredictor.from_pretrained(name)


def test_the_hub_is_asked_only_when_told_to(
    run: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_run = PartPredictor.from_pretrained(run)
    of_run.save_pretrained(tmp_path / "saved")
    asked = []

    def snapshot_download(name: str, *, revision: str | None, local_files_only: bool) -> str:
        asked.append((name, revision, local_files_only))
        if local_files_only:
            raise LocalEntryNotFoundError("not there")
        return os.fspath(tmp_path / "saved")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(ValueError, match=r"me/parts: no such folder, and not in the cache .*; download=True .* asks"):
        PartPredictor.from_pretrained("me/parts")
    got = PartPredictor.from_pretrained("me/parts", download=True, revision="v1")
    assert asked == [("me/parts", None, True), ("me/parts", "v1", False)]
    assert_identical(of_run(photo), got(photo))


def test_the_real_cache_of_the_hub_is_read(
    run: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its layout: models--OWNER--NAME/refs/main names a commit, snapshots/COMMIT holds the files."""
    of_run = PartPredictor.from_pretrained(run)
    cache = tmp_path / "hub" / "models--me--parts"
    of_run.save_pretrained(cache / "snapshots" / ("0" * 40))
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert_identical(of_run(photo), PartPredictor.from_pretrained("me/parts")(photo))
    with pytest.raises(ValueError, match="me/others: no such folder, and not in the cache of the hub here"):
        PartPredictor.from_pretrained("me/others")


def test_subcommands_take_and_make_such_folders(
    run: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "saved"
    assert run_command("convert", ["--from", "run", str(run), str(saved), "--license", "mit"]) == 0
    assert "license: mit" in (saved / "README.md").read_text()
    # Full precision, unlike --from training, whose file ships.
    assert load_file(saved / "model.safetensors")["prompter.class_head.bias"].dtype.itemsize == 4
    out = ["--output", str(tmp_path / "parts")]
    assert run_command("predict", [str(photo), "--model", str(saved), *out]) == 0
    assert (tmp_path / "parts" / f"{photo.stem}.json").is_file()
    capsys.readouterr()
    assert run_command("predict", [str(photo), "--model", str(saved), "--weights", str(photo), *out]) == 2
    assert "--model stands for --config-file and --weights" in capsys.readouterr().err
