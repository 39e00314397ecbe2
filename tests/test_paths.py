"""Files that are named relative to the project's folder are found from any other."""

from __future__ import annotations

from pathlib import Path

from wps_sam import paths
from wps_sam.config import read_config
from wps_sam.paths import PROJECT, find_config, find_file, output_dir_of

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


def test_the_output_folder_is_that_which_detectron2_reads(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    texts = {"base.yaml": "OUTPUT_DIR: there", "sub/a.yaml": "_BASE_: ../base.yaml", "b.yaml": "_BASE_: sub/a.yaml"}
    texts |= {
        "own.yaml": "_BASE_: base.yaml\nOUTPUT_DIR: here",
        "none.yaml": "SEED: 1",
        "round.yaml": "_BASE_: round.yaml",
    }
    texts |= {"lost.yaml": "_BASE_: nowhere.yaml", "broken.yaml": "a: [", "list.yaml": "- a"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    expected = {"base": "there", "sub/a": "there", "b": "there", "own": "here"}
    for name in texts:
        found = output_dir_of(tmp_path / name)
        wanted = expected.get(name.removesuffix(".yaml"))
        assert found == (None if wanted is None else Path(wanted)), name
        if wanted is not None:
            assert str(found) == read_config(tmp_path / name).OUTPUT_DIR
    assert output_dir_of(tmp_path / "own.yaml", ["SEED", "1", "OUTPUT_DIR", "elsewhere"]) == Path("elsewhere")


def test_files_of_the_package_are_found_where_it_is_installed(tmp_path, monkeypatch):
    """There the project's folder is the package itself."""
    package = tmp_path / "site-packages" / "wps_sam"
    (package / "weights").mkdir(parents=True)
    (package / "weights" / "a.safetensors").touch()
    monkeypatch.setattr(paths, "PACKAGE", package)
    monkeypatch.setattr(paths, "PROJECT", package)
    monkeypatch.chdir(tmp_path)
    assert find_file("wps_sam/weights/a.safetensors") == str(package / "weights" / "a.safetensors")
    assert find_file("weights/a.safetensors") == str(package / "weights" / "a.safetensors")
    (package.parent / "other").touch()
    for name in ("other", "wps_sam/weights/b.safetensors", ""):
        assert find_file(name) == name
