"""docs/annotate.md and docs/app.md: the command line takes every command; those ahead of Label Studio run."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

from wps_sam.cli import main, parse
from wps_sam.data.imports import Notes, read_labels

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


def commands(page: str) -> list[list[str]]:
    """The words after ``wps-sam`` of every such line in a block, without what a shell does with its output."""
    blocks = re.findall(r"^```\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line.partition("wps-sam ")[2] for block in blocks for line in block.splitlines() if "wps-sam " in line]
    return [shlex.split(line.partition(" > ")[0]) for line in lines]


@pytest.mark.parametrize("page", ["annotate.md", "app.md"])
def test_commands_are_understood(page: str) -> None:
    found = [words for words in commands(page) if words]
    assert len(found) >= (7 if page == "annotate.md" else 0)
    for name, *arguments in found:
        parse(name, arguments)


def test_predictions_are_made_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    shutil.copy(DOCS / "photo.jpg", tmp_path / "docs")
    print_labels, precompute = (words for words in commands("annotate.md")[:2])
    assert main(print_labels) == 0
    (tmp_path / "labels.xml").write_text(capsys.readouterr().out)
    (task,) = re.findall(r"^echo '(.*)' > tasks.json$", (DOCS / "annotate.md").read_text(), re.MULTILINE)
    (tmp_path / "tasks.json").write_text(task)
    assert main(precompute) == 0
    assert capsys.readouterr().out == "with_predictions.json: 1 of 1 tasks have a prediction\n"
    (done,) = json.loads((tmp_path / "with_predictions.json").read_text())
    (prediction,) = done["predictions"]
    assert prediction["result"] and {region["type"] for region in prediction["result"]} == {"brushlabels"}
    export = [{"data": done["data"], "annotations": [prediction]}]
    (tmp_path / "export.json").write_text(json.dumps(export))
    (picture,) = read_labels(tmp_path / "export.json", "label_studio", Notes()).pictures
    assert (
        picture.name == "photo.jpg" and picture.size == (534, 390) and len(picture.labels) == len(prediction["result"])
    )
