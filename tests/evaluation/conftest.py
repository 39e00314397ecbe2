from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from evaluation_scenes import Scene
from open_vocabulary_scenes import OVScene


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """An empty data set with three part classes; a test adds pictures and registers it."""
    made = Scene(f"scene_{uuid.uuid4().hex}", tmp_path)
    yield made
    made.remove()


@pytest.fixture
def ov_scene(tmp_path: Path) -> Iterator[OVScene]:
    """An empty data set of four objects with five part classes, two of them unseen; a test adds pictures."""
    made = OVScene(f"ov_scene_{uuid.uuid4().hex}", tmp_path)
    yield made
    made.remove()
