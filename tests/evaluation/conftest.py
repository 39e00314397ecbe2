from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from evaluation_scenes import Scene


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """An empty data set with three part classes; a test adds pictures and registers it."""
    made = Scene(f"scene_{uuid.uuid4().hex}", tmp_path)
    yield made
    made.remove()
