"""demo.py, visualize_data.py and visualize_predictions.py from the command line to their files."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import wps_sam  # noqa: F401

import numpy as np
import pytest
from PIL import Image

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def run(tool: str, *arguments: Any) -> Any:
    return runpy.run_path(str(TOOLS / tool))["main"]([str(argument) for argument in arguments])


def sizes(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p.relative_to(folder)): Image.open(p).size for p in sorted(folder.rglob("*.png"))}


def test_demo_takes_files_and_folders(
    tiny_model: Any, tiny_parts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    (photos / "deep").mkdir(parents=True)
    for name in ("one.jpg", "deep/two.png", "one.png"):
        Image.fromarray(np.full((48, 64, 3), 128, np.uint8)).save(photos / name)
    (photos / "._one.jpg").write_bytes(b"litter")
    (photos / "notes.txt").write_text("no picture")
    single = tiny_parts.root / "images" / "val" / "n00000000_0.JPEG"
    command = ["demo.py", photos, single, "--output", tmp_path / "out", "--config-file", tiny_model.config_file]
    command += ["--weights", tiny_model.safetensors, "--confidence", 0.1, "--opts", "MODEL.INFERENCE.MAX_PARTS", 2]
    assert run(*command) == 0
    # Two pictures side by side; of two pictures of one name the second keeps its ending.
    made = sizes(tmp_path / "out")
    assert set(made) == {"deep/two.png", "one.png", "one.png.png", "n00000000_0.png"}
    assert min(width for width, _ in made.values()) > 2 * 640
    content = json.loads((tmp_path / "out" / "n00000000_0.json").read_text())
    assert content["file_name"] == str(single) and 0 < len(content["parts"]) <= 2
    assert {part["name"] for part in content["parts"]} <= set(tiny_parts.classes)
    assert all(part["mask"]["size"] == [64, 64] and len(part["box"]) == 4 for part in content["parts"])
    assert "one.jpg: " in capsys.readouterr().out
    assert run(*command, "MODEL.DEVICE", "cpu", "--resume") == 0
    assert "4 of 4 were there already" in capsys.readouterr().out
    assert run(*command, "MODEL.INFERENCE.MERGE", "authors", "--resume") == 2
    assert 'made with MODEL.INFERENCE.MERGE "semantic", and now "authors"' in capsys.readouterr().err


def test_demo_goes_on_after_a_bad_picture_and_says_so(
    tiny_model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    Image.new("L", (30, 20)).save(tmp_path / "good.jpg")
    common = ("--output", tmp_path / "out", "--config-file", tiny_model.config_file)
    assert run("demo.py", tmp_path / "bad.jpg", tmp_path / "good.jpg", *common) == 1
    assert "bad.jpg" in capsys.readouterr().err
    assert set(sizes(tmp_path / "out")) == {"good.png"}
    (tmp_path / "empty").mkdir()
    assert run("demo.py", tmp_path / "empty", *common) == 2
    assert "empty: no picture in this folder" in capsys.readouterr().err
    assert run("demo.py", tmp_path / "good.jpg", *common, "--parts", "Animal Hed") == 2
    assert "(did you mean Animal Head?)" in capsys.readouterr().err
    assert run("demo.py", tmp_path / "g*.jpg", *common, "--parts", "Car Body", "--save", "labels") == 0
    assert set(np.unique(Image.open(tmp_path / "out" / "good.labels.png"))) <= {2, 255}


@pytest.mark.parametrize("label", ["box", "point"])
def test_visualize_data_draws_what_the_loader_feeds(tiny_model: Any, tmp_path: Path, label: str) -> None:
    run(
        *("visualize_data.py", "--config-file", tiny_model.config_file, "--output", tmp_path, "--num-images", 3),
        *("WEAK_LABELS.TYPE", label, "INPUT.RANDOM_FLIP", "horizontal"),
    )
    made = sizes(tmp_path)
    assert [name[:4] for name in made] == ["0000", "0001", "0002"]
    assert all(width >= 256 for width, _ in made.values())


def test_visualize_predictions_puts_three_panels_side_by_side(tiny_model: Any, tmp_path: Path) -> None:
    run("visualize_predictions.py", "--config-file", tiny_model.config_file, "--output", tmp_path, "--num-images", 2)
    made = sizes(tmp_path / "tiny_parts_val")
    # Spread over the four: the first and the third.
    assert set(made) == {"n00000000_0.png", "n00000000_2.png"}
    assert all(width > 3 * 640 for width, _ in made.values())
