"""datasets/prepare_ov_parts.py: derived files, a 16-shot list of one's own, and a clear word for a wrong layout."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

from wps_sam.data.sources.ov_parts import OVSet, load_pascal_part_116

import pytest
from ov_layouts import write_ade20k_part_234, write_pascal_part_116

SCRIPT = Path(__file__).resolve().parents[2] / "datasets" / "prepare_ov_parts.py"


def test_draws_a_list_that_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_pascal_part_116(tmp_path)
    (folder / "train_16shot.json").unlink()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    main = runpy.run_path(str(SCRIPT))["main"]
    assert main(["pascal", "--draw-16-shot", "1"]) == 0
    # Fewer than 16 images of each object: all that show parts, those of unseen objects too.
    assert len(load_pascal_part_116(str(tmp_path), OVSet("train", "image", "all", few_shot=True))) == 7


def test_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(SCRIPT))["main"]
    folder = write_ade20k_part_234(tmp_path)
    assert main(["ade", "--root", str(tmp_path), "--draw-16-shot", "1"]) == 1
    assert "train_16shot.json: exists already" in capsys.readouterr().err
    shutil.rmtree(folder / "images")
    assert main(["ade", "--root", str(tmp_path)]) == 1
    assert "images/training: expected a folder" in capsys.readouterr().err
