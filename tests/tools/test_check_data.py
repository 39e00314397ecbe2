"""wps-sam check from a description to its page."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

run = runpy.run_path(str(Path(__file__).resolve().parents[2] / "tools" / "check_data.py"))["main"]


def test_the_page_of_a_description(tiny_parts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(tiny_parts.description), "--output", str(tmp_path / "page.html"), "--num-images", "2"]
    assert run([*arguments, "--label-type", "mask"]) == 0
    told = capsys.readouterr().out
    assert "tiny_parts_train: 6 pictures, 9 labels" in told and "tiny_parts_val: 4 pictures, 6 labels" in told
    assert "  3 classes have fewer than 10 labels, and will hardly be learned: Animal Head (3)" in told
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/jpeg") == 4 and "<td>Car Body" not in page and "Car Body</td>" in page


def test_what_is_wrong_is_said(tiny_parts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["nowhere.yaml", "--output", str(tmp_path / "page.html")]) == 2
    assert "nowhere.yaml: the file does not exist" in capsys.readouterr().err
    (tmp_path / "mine.html").write_text("mine")
    assert run([str(tiny_parts.description), "--output", str(tmp_path / "mine.html")]) == 2
    assert "mine.html: exists, and was not made by a tool of this project" in capsys.readouterr().err
