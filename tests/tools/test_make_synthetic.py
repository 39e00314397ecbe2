"""tools/make_synthetic.py: from a clean folder to a data set, and a clear word for what it cannot do."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "make_synthetic.py"


def test_writes_a_data_set(tmp_path: Path) -> None:
    main = runpy.run_path(str(TOOL))["main"]
    root = tmp_path / "parts"
    assert main(["--root", str(root), "--num-train", "2", "--num-val", "1", "--size", "64"]) == 0
    assert len(list((root / "images" / "train").glob("*.JPEG"))) == 2
    coco = json.loads((root / "annotations" / "val" / "val.json").read_text())
    assert len(coco["images"]) == 1 and coco["annotations"]


def test_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(TOOL))["main"]
    assert main(["--root", str(tmp_path), "--num-train", "0"]) == 2
    assert "num_train: expected 1.." in capsys.readouterr().err
