"""Fixtures: the small data set of ``small_coco``, written to disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_coco import SmallSet, coco


@pytest.fixture
def small(tmp_path: Path) -> SmallSet:
    made = SmallSet(tmp_path / "data")
    (made.root / "images").mkdir(parents=True)
    for name in "ab":
        pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(made.root / "images" / f"{name}.png")
    for split in ("train", "val"):
        made.write(coco(), split)
    return made


@pytest.fixture
def changed(small: SmallSet) -> Callable[..., list[dict[str, Any]]]:
    """Loads the training set after a change of its json."""

    def load(change: Callable[[dict[str, Any]], Any], **keys: Any) -> list[dict[str, Any]]:
        content = coco()
        change(content)
        small.write(content)
        return small.load(**keys)

    return load
