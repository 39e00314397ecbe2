"""Fixtures of the data tests."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from part_layouts import ood, seg  # noqa: F401  (fixtures)


@pytest.fixture(scope="session")
def specs() -> dict[str, Any]:
    """The published class lists, where they are at hand."""
    folder = os.environ.get("WPS_SAM_SPECS") or Path(__file__).resolve().parents[3] / "shared" / "specs"
    path = Path(folder) / "classes.json"
    if not path.is_file():
        pytest.skip(f"no class lists at {path}; $WPS_SAM_SPECS names their folder")
    return json.loads(path.read_text())
