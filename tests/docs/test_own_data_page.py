"""docs/own_data.md can be followed: its commands run one after the other, on twenty generated pictures."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

from wps_sam.cli import main
from wps_sam.data.synthetic import write_dataset

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
# What the test adds to the last command of a block, so that it takes seconds, stands on the page above the block.
BLOCK = re.compile(r"(?:^<!-- the test adds: ([^\n]*) -->\n)?^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks() -> Iterator[tuple[str, str]]:
    """Language and text of every fenced block, as the test runs it."""
    for added, language, text in BLOCK.findall(PAGE):
        if added:
            assert language == "sh"
            text = f"{text.rstrip()} {added}\n"
        yield language, text


def commands(text: str) -> list[list[str]]:
    return [shlex.split(line) for line in text.replace("\\\n", " ").splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a reader would stand: twenty photos and their boxes, of which there is no mask."""
    write_dataset(tmp_path / "generated", num_train=20, num_val=1, size=96)
    labels = json.loads((tmp_path / "generated" / "annotations" / "train" / "train.json").read_text())
    names = {category["id"]: category["name"] for category in labels["categories"]}
    files = {image["id"]: f"{number:04d}.jpg" for number, image in enumerate(labels["images"], start=1)}
    (tmp_path / "photos").mkdir()
    for image in labels["images"]:
        (found,) = (tmp_path / "generated" / "images" / "train").rglob(image["file_name"])
        shutil.copy(found, tmp_path / "photos" / files[image["id"]])
    (tmp_path / "new_photos").mkdir()
    shutil.copy(tmp_path / "photos" / "0001.jpg", tmp_path / "new_photos")
    with (tmp_path / "boxes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(next(text for language, text in blocks() if language == "csv").split()[0].split(","))
        for entry in labels["annotations"]:
            writer.writerow([files[entry["image_id"]], names[entry["category_id"]], *entry["bbox"]])
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("my_parts_train", "my_parts_val"):
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def test_the_page_can_be_followed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done: list[str] = []
    for language, text in blocks():
        if language == "python":
            exec(text, {})
        elif language == "sh":
            for command in commands(text):
                assert command[0] == "wps-sam"
                code = main(command[1:])
                told = capsys.readouterr()
                assert code == 0, (command, told.err[-2000:])
                done.append(command[1])
    assert done == ["import", "check", "cache", "train", "view", "compare", "report", "predict", "convert"]
    # The files that the page speaks of.
    made = folder / "output"
    for name in (
        "my_parts_labels/data.html",
        "my_parts/config.yaml",
        "my_parts/report.html",
        "my_parts_found/0001.png",
    ):
        assert (made / name).is_file(), name
    assert list((made / "my_parts" / "data").glob("*.png"))
    assert len(list((made / "my_parts" / "predictions").rglob("*.png"))) == 4
    scores = json.loads((made / "my_parts" / "evaluation.json").read_text())["my_parts_val"]
    # What the page says of boxes alone.
    assert list(scores) == ["coco_ap"] and all(name.startswith("box_AP") for name in scores["coco_ap"])
    assert "Box AP by part" in (made / "my_parts" / "report.html").read_text()
