"""The documentation builds without a warning, and what is built asks no network for anything."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("material", reason="the extra docs is not installed")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


def test_nothing_is_loaded_from_the_network(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|iframe)[^>]+src="?(?:https?:)?//[^">]+', text), page
        assert not re.findall(r'<link[^>]+rel="?(?:stylesheet|preconnect)"?[^>]+href="?(?:https?:)?//', text), page
    for style in site.rglob("*.css"):
        assert not re.findall(r"url\(.?(?:https?:)?//|@import", style.read_text(encoding="utf-8")), style


def test_pages_hold_what_the_build_adds(site: Path) -> None:
    configuration = (site / "configuration.html").read_text(encoding="utf-8")
    assert "SCORE_THRESHOLD" in configuration and "the tables of the keys" not in configuration
    zoo = (site / "model_zoo.html").read_text(encoding="utf-8")
    # A file of the repository is there beside the pages, a document is the page made of it, a folder a name alone.
    assert 'href="files/configs/quickstart.yaml"' in zoo and (site / "files/configs/quickstart.yaml").is_file()
    assert 'href="data_sets.html#evaluation-protocols"' in zoo
    assert not (site / "hooks.py").exists()
