"""Uploads within limits, and the files that are taken home."""

from __future__ import annotations

import json
from pathlib import Path

from wps_sam.app.files import Limits, check_upload, write_downloads
from wps_sam.masks import segmentation_to_mask

import numpy as np
import pytest
from PIL import Image
from prediction.prediction_scenes import HalvesPredictor


def write_photo(path: Path, width: int, height: int) -> Path:
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path)
    return path


def test_limits_are_of_bytes_and_pixels(tmp_path: Path) -> None:
    photo = write_photo(tmp_path / "a.png", 1000, 500)
    check_upload(photo, Limits(1, 0.5))
    with pytest.raises(ValueError, match=r"a.png: 0.5 megapixels; this page takes pictures up to 0.4"):
        check_upload(photo, Limits(1, 0.4))
    with pytest.raises(ValueError, match=r"a.png: 0.0 MB; this page takes files up to 0.001 MB"):
        check_upload(photo, Limits(0.001, 1))


def test_what_is_no_picture_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    (tmp_path / "a.cr2").write_bytes(b"raw")
    with pytest.raises(ValueError, match=r"a.jpg: no picture that can be opened"):
        check_upload(tmp_path / "a.jpg", Limits(1, 1))
    with pytest.raises(ValueError, match=r"a.cr2: .*; convert it to JPEG or PNG first"):
        check_upload(tmp_path / "a.cr2", Limits(1, 1))


def test_downloads_are_masks_labels_and_drawing(tmp_path: Path) -> None:
    photo = write_photo(tmp_path / "my photo.png", 12, 8)
    (found,) = HalvesPredictor().predict_batch([photo])
    coco, labels, drawing = write_downloads(found, tmp_path / "out")
    content = json.loads(coco.read_text())
    # Not where it was kept.
    assert [image["file_name"] for image in content["images"]] == ["my photo.png"]
    masks = [segmentation_to_mask(one["segmentation"], 8, 12) for one in content["annotations"]]
    assert np.array_equal(masks, found.masks)
    assert np.array_equal(np.asarray(Image.open(labels)), found.part_map)
    assert drawing.name == "my photo.png" and np.array_equal(np.asarray(Image.open(drawing)), found.draw())
