"""wps_sam/data_page.py: a page that stands alone, with what was found."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

from wps_sam.data.check import Findings, Oddity
from wps_sam.data_page import data_page
from wps_sam.visualization import part_colors

import numpy as np
import pytest
from detectron2.structures import BoxMode
from PIL import Image


@pytest.fixture
def findings(tmp_path: Path) -> Findings:
    """Four pictures, the last with nothing on it and the third damaged."""
    box = {"id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "bbox_mode": BoxMode.XYWH_ABS}
    records: list[dict[str, Any]] = []
    for k in range(4):
        path = tmp_path / f"<{k}>.png"
        Image.new("RGB", (80, 60), (40, 40, 40)).save(path)
        size = {"file_name": str(path), "image_id": k, "height": 60, "width": 80}
        records.append({**size, "annotations": [box] if k < 3 else []})
    records[0]["tags"] = [0]
    (tmp_path / "<2>.png").write_bytes(b"no picture")
    labels = np.array([[1, 0, 0, 0], [0, 0, 3, 0]])
    sizes: list[list[float]] = [[], [0.3, 0.3, 0.3]]
    odd = [Oddity(2, "things are <odd>", ("here & there",))]
    return Findings("my_train", ["a<b", "wheel"], records, labels, np.array([1, 3]), sizes, 1, odd)


def test_the_page_stands_alone_and_says_what_was_found(findings: Findings) -> None:
    page = data_page([findings, findings])
    assert "<script" not in page and not re.search(r'(?:src|href)="(?!data:)', page)
    assert page.count("<h2>my_train</h2>") == 2
    assert "4 pictures, 1 of them without labels; 4 labels of 2 classes" in page
    assert "<b>2</b> things are &lt;odd&gt;:" in page and "here &amp; there" in page
    assert "a<b" not in page and "a&lt;b</td>" in page
    # Boxes, pictures, their share, and the middle of the sizes.
    assert re.search(r"wheel</td>.*?<td>3</td>.*?<td>3</td><td>75%</td><td>30%</td>", page)
    assert "<td>20 to 40%</td><td>3</td>" in page
    assert "tags: a&lt;b" in page
    # One that can't be read says so in its place.
    assert page.count("<figure>") == 6 and page.count("data:image/jpeg") == 4
    assert page.count("&lt;2&gt;.png: image ") == 2


@pytest.mark.parametrize("label_type", ["box", "point"])
def test_pictures_have_the_labels_that_training_sees(findings: Findings, label_type: Any) -> None:
    page = data_page([findings], label_type, num_pictures=1)
    (encoded,) = re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded)))).astype(int)
    alike = np.abs(pixels - part_colors(findings.classes)[1]).sum(-1) < 110
    # The left side of the box, at an eighth of the width; of a point there is nothing but the middle.
    height, width = alike.shape
    side = alike[height * 18 // 60 : height * 28 // 60, width * 10 // 80 - 4 : width * 10 // 80 + 4].any(axis=1)
    assert side.mean() > 0.9 if label_type == "box" else side.mean() < 0.1
    assert "tags: " not in page and f"with what &#x27;{label_type}&#x27; shows" in page.replace("'", "&#x27;")
