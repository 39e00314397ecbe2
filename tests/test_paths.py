"""Files that are named relative to the project's folder are found from any other."""

from __future__ import annotations

from pathlib import Path

from wps_sam.paths import PROJECT, find_config, find_file

import pytest


def test_a_file_of_ones_own_comes_before_the_projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "configs/quickstart.yaml"
    assert find_file(name) == find_config(name) == str(PROJECT / name)
    (tmp_path / "configs").mkdir()
    (tmp_path / name).write_text("mine")
    assert find_file(name) == find_config(name) == name


@pytest.mark.parametrize("name", ["", "shipped", "openai/clip-vit-base-patch16", "yet/to/be_written.json", "/nowhere"])
def test_what_is_nowhere_stays_as_it_is(name: str) -> None:
    assert find_file(name) == name


def test_a_missing_configuration_is_told_with_the_nearest_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = r"config configs/quikstart\.yaml: .* does not exist \(did you mean configs/quickstart\.yaml\?\)"
    with pytest.raises(ValueError, match=message):
        find_config("configs/quikstart.yaml")
