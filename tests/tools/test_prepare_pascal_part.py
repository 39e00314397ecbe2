"""datasets/prepare_pascal_part.py: from the downloads to a data set, and a clear word for what it cannot do."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
from pascal_layout import write_voc

SCRIPT = Path(__file__).resolve().parents[2] / "datasets" / "prepare_pascal_part.py"


def test_writes_the_variants_below_the_root_of_all_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_voc(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    main = runpy.run_path(str(SCRIPT))["main"]
    assert main(["--variants", "58", "116"]) == 0
    for variant in ("58", "116"):
        folder = tmp_path / "PascalPart" / variant / "annotations" / "train"
        coco = json.loads((folder / "train.json").read_text())
        assert coco["annotations"]
        assert all((folder / Path(image["file_name"]).with_suffix(".png")).is_file() for image in coco["images"])
    assert not (tmp_path / "PascalPart" / "201").exists()


def test_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(SCRIPT))["main"]
    assert main(["--voc", str(tmp_path), "--annotations", str(tmp_path), "--output", str(tmp_path)]) == 1
    assert "list of pictures" in capsys.readouterr().err
