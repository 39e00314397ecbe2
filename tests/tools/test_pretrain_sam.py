"""tools/pretrain_sam.py and tools/make_synthetic.py, called as from the command line."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

from wps_sam.modeling.sam import build_sam

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def _run(tool: str, *arguments: str) -> int:
    """The exit code; in this process, which saves starting another one."""
    return runpy.run_path(str(TOOLS / tool))["main"](list(arguments))


def test_pretrain_sam_trains_exports_and_resumes(tmp_path: Path) -> None:
    arguments = [
        "--output-dir",
        str(tmp_path),
        "--minutes",
        "0",
        "--batch-size",
        "1",
        "--prompts-per-image",
        "2",
    ]
    arguments += ["--loss-size", "64", "--val-pictures", "1", "--log-every", "1"]
    assert _run("pretrain_sam.py", *arguments, "--iterations", "1") == 0
    assert _run("pretrain_sam.py", *arguments, "--iterations", "2", "--resume") == 0
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    # Each run ends with a line of the validation.
    assert [line["iteration"] for line in lines] == [1, 1, 2, 2]
    assert lines[0]["loss"] > 0 and 0 <= lines[-1]["synthetic/box_iou"] <= 1
    build_sam("vit_tiny", str(tmp_path / "sam.safetensors"))


def test_pretrain_sam_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert _run("pretrain_sam.py", "--output-dir", str(tmp_path), "--resume") == 1
    assert "no checkpoint to resume from" in capsys.readouterr().err


def test_make_synthetic_writes_the_layout(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    sizes = ("--num-train", "2", "--num-val", "1", "--size", "64")
    assert _run("make_synthetic.py", "--root", str(tmp_path), *sizes) == 0
    assert len(list((tmp_path / "images" / "train").glob("*.JPEG"))) == 2
    assert (tmp_path / "annotations" / "val" / "val.json").is_file()
    assert _run("make_synthetic.py", "--root", str(tmp_path), "--num-train", "0") == 1
    assert "num_train" in capsys.readouterr().err
