"""An installation from a wheel works away from the clone: with its weights, configurations and descriptions."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of a copy: building leaves folders behind, and data sets below datasets/ may be large."""
    for module in ("pip", "setuptools"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed, without which no wheel can be built")
    source = tmp_path_factory.mktemp("source")
    for folder in ("wps_sam", "configs"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "datasets" / "embeddings", source / "datasets" / "embeddings")
    files = ("setup.py", "pyproject.toml", "README.md", "LICENSE")
    for file in [*(ROOT / name for name in files), *(p for p in (ROOT / "datasets").iterdir() if p.is_file())]:
        shutil.copy(file, source / file.relative_to(ROOT))
    made = run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", "made", ".", cwd=source)
    assert made.returncode == 0, made.stderr
    (path,) = (source / "made").glob("wps_sam-*.whl")
    return path


def test_everything_that_is_read_is_inside(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("configs", "datasets"):
        wanted = [p for p in (ROOT / folder).rglob("*.yaml") if folder == "configs" or p.parent.name == folder]
        assert {f"wps_sam/{p.relative_to(ROOT).as_posix()}" for p in wanted} <= inside
    assert "wps_sam/datasets/embeddings/ccp_parts.safetensors" in inside
    weights = (p for p in (ROOT / "wps_sam" / "weights").rglob("*") if p.is_file())
    assert {p.relative_to(ROOT).as_posix() for p in weights} <= inside


def test_an_installation_predicts_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    installed, folder = tmp_path / "installed", tmp_path / "empty"
    folder.mkdir()
    done = run(*PIP, "install", "--no-deps", "--no-index", "--target", str(installed), str(wheel), cwd=folder)
    assert done.returncode == 0, done.stderr
    shutil.copy(ROOT / "docs" / "photo.jpg", folder)
    script, where = str(installed / "bin" / "wps-sam"), {"PYTHONPATH": str(installed)}
    done = run(sys.executable, script, "predict", "photo.jpg", "--output", "parts", cwd=folder, **where)
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "parts" / "photo.json").read_text())
    assert {"hair", "skin"} <= {part["name"] for part in found["parts"]}
    # A configuration of the project is found by its name in the clone, and so is the description that it names.
    names = ["configs/quickstart.yaml", "datasets/synthetic_parts.yaml"]
    program = f"from wps_sam.paths import find_file\nprint(*map(find_file, {names}), sep='\\n')"
    done = run(sys.executable, "-c", program, cwd=folder, **where)
    assert done.stdout.split() == [str(installed / "wps_sam" / name) for name in names]
