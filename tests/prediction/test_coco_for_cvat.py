"""The COCO file of a run as the "COCO 1.0" of CVAT (by Datumaro) reads it: fields, types, names of pictures."""

from __future__ import annotations

import json
from pathlib import Path

from wps_sam.masks import segmentation_to_mask
from wps_sam.prediction.results import COCO_FILE, Results
from wps_sam.prediction.run import predict_all
from wps_sam.prediction.sources import find_sources

import numpy as np
import pytest
from PIL import Image
from prediction.prediction_scenes import HalvesPredictor


def test_fields_are_those_that_cvat_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "sub/b.png"):
        Image.fromarray(np.zeros((10, 20, 3), np.uint8)).save(tmp_path / name)
    # As docs/annotate.md says: from inside the folder whose pictures CVAT has.
    monkeypatch.chdir(tmp_path)
    sources, *_ = find_sources(["."])
    with Results(tmp_path / "out", ("json",), HalvesPredictor.class_names) as results:
        assert predict_all(HalvesPredictor(), sources, results) == 0
    coco = json.loads((tmp_path / "out" / COCO_FILE).read_text())
    # CVAT finds the picture whose path ends as the whole of this one.
    assert [image["file_name"] for image in coco["images"]] == ["a.png", "sub/b.png"]
    assert all(type(image[key]) is int for image in coco["images"] for key in ("id", "height", "width"))
    assert [(one["id"], one["name"]) for one in coco["categories"]] == [
        *((1, "left half"), (2, "right half"), (3, "dog's ear")),
    ]
    assert len({one["id"] for one in coco["annotations"]}) == len(coco["annotations"]) == 4
    for one in coco["annotations"]:
        assert one["image_id"] in (1, 2) and one["category_id"] in (1, 2)
        # A part is no crowd, though its mask is run lengths; polygons would be read too, and lose holes.
        assert one["iscrowd"] == 0 and type(one["iscrowd"]) is int
        assert one["segmentation"]["size"] == [10, 20] and type(one["segmentation"]["counts"]) is str
        mask = segmentation_to_mask(one["segmentation"], 10, 20)
        assert mask.sum() == one["area"] == one["bbox"][2] * one["bbox"][3] == 100
        assert 0 <= one["score"] <= 1
