"""tools/pretrain_sam.py and tools/make_synthetic.py, called as from the command line."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path

from wps_sam.encoders.build_sam import build_sam
from wps_sam.pretraining import Pretrainer, PretrainSettings, read_settings

import pytest
import yaml
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"
CONFIG_FILES = sorted((ROOT / "configs" / "pretrain_sam").glob("*.yaml"))


def _run(tool: str, *arguments: str) -> int:
    """The exit code; in this process, which saves starting another one."""
    return runpy.run_path(str(TOOLS / tool))["main"](list(arguments))


TOY = """
minutes: 0
batch_size: 1
prompts_per_image: 2
crop_size: 128
loss_size: 64
synthetic_count: 2
synthetic_sizes: [128, 128]
val_pictures: 1
log_every: 1
"""


def test_pretrain_sam_trains_exports_and_resumes(tmp_path: Path) -> None:
    config = tmp_path / "toy.yaml"
    config.write_text(TOY)
    arguments = ["--config-file", str(config), "--output-dir", str(tmp_path / "out")]
    assert _run("pretrain_sam.py", *arguments, "iterations=1") == 0
    assert _run("pretrain_sam.py", *arguments, "--resume", "iterations=2", "learning_rate=1e-5") == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2]
    assert lines[0]["loss"] > 0 and all(0 <= line["synthetic/box"] <= 1 for line in lines)
    assert lines[1]["lr"] < 1e-5
    assert list((tmp_path / "out").glob("events.out.tfevents*"))
    weights = str(tmp_path / "out" / "sam.safetensors")
    build_sam("vit_tiny", weights)
    with safe_open(weights, "pt") as file:
        assert float(file.metadata()["synthetic/box"]) == pytest.approx(lines[1]["synthetic/box"], abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume"], "no checkpoint to resume from"),
        (["--config-file", "nowhere.yaml"], "config nowhere.yaml: the file does not exist"),
        (["batch_size"], "expected NAME=VALUE, got 'batch_size'"),
        (["batch_size=two"], "batch_size: expected a int, got 'two'"),
        (["sources={nowhere_train: 1}", "iterations=1"], "nowhere_train"),
    ],
)
def test_pretrain_sam_says_what_is_wrong(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert _run("pretrain_sam.py", "--output-dir", str(tmp_path), *arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("file", CONFIG_FILES, ids=lambda path: path.stem)
def test_every_configuration_is_read_and_builds_its_sam(file: Path, tmp_path: Path) -> None:
    settings = read_settings(PretrainSettings, yaml.safe_load(file.read_text()))
    # A small teacher with the decoder of large ones.
    Pretrainer(replace(settings, weights="", teacher=settings.teacher and "mobile_sam"), str(tmp_path))


def test_make_synthetic_writes_the_layout(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    sizes = ("--num-train", "2", "--num-val", "1", "--size", "64")
    assert _run("make_synthetic.py", "--root", str(tmp_path), *sizes) == 0
    assert len(list((tmp_path / "images" / "train").glob("*.JPEG"))) == 2
    assert (tmp_path / "annotations" / "val" / "val.json").is_file()
    assert _run("make_synthetic.py", "--root", str(tmp_path), "--num-train", "0") == 2
    assert "num_train" in capsys.readouterr().err
