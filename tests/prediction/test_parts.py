"""PartPrediction: parts one by one and in part, their pictures, and what other packages are handed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from wps_sam.masks import mask_to_box, segmentation_to_mask
from wps_sam.prediction import PartInstance, PartPrediction
from wps_sam.prediction.parts import enlarge_map, enlarge_mask

import numpy as np
import pytest

NAMES = ("hair", "skin", "top", "trousers")


def block(y0: int, y1: int, x0: int, x1: int, shape: tuple[int, int] = (6, 8)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def prediction(height: int = 6, width: int = 8) -> PartPrediction:
    """Hair; a large and a small piece of skin that overlap in one column; trousers. Predicted at 6 x 8."""
    masks = np.stack([block(0, 2, 0, 8), block(2, 4, 0, 4), block(2, 4, 3, 6), block(4, 6, 2, 6)])
    part_map = np.full((6, 8), len(NAMES))
    for mask, c in zip(masks, (0, 1, 1, 3)):
        part_map[mask] = c
    return PartPrediction(
        image=np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8),
        class_names=NAMES,
        classes=np.array([0, 1, 1, 3]),
        scores=np.array([0.91, 0.83, 0.44, 0.4], np.float32),
        coarse_masks=masks,
        coarse_map=part_map,
        coarse_boxes=np.array([mask_to_box(mask) for mask in masks], np.float32),
        file_name="photo.jpg",
    )


def test_one_part() -> None:
    parts = prediction()
    part = parts[1]
    assert isinstance(part, PartInstance)
    assert (part.name, part.class_id, part.score) == ("skin", 1, pytest.approx(0.83))
    assert part.box.tolist() == [0, 2, 4, 4] and np.array_equal(part.mask, parts.masks[1])
    assert parts[-1].name == "trousers"
    assert [p.name for p in parts] == parts.names == ["hair", "skin", "skin", "trousers"]
    assert repr(part) == "PartInstance(skin 0.83 at 0, 2, 4, 4)"
    with pytest.raises(IndexError):
        parts[4]


@pytest.mark.parametrize(
    "chosen", [slice(0, 2), np.array([True, True, False, False]), [0, 1], [True, True, False, False]]
)
def test_some_parts(chosen: slice | np.ndarray | list[int]) -> None:
    parts = prediction()
    some = parts[chosen]
    assert some.names == ["hair", "skin"] and len(some) == len(some.masks) == len(some.boxes) == 2
    # Of the skin that was left out, the pixels that the other piece covers, too, stay skin.
    expected = parts.part_map.copy()
    expected[2:4, 4:6] = 4
    expected[4:, 2:6] = 4
    assert np.array_equal(some.part_map, expected)
    assert np.array_equal(parts[:].part_map, parts.part_map) and len(parts[:0]) == len(parts[[]]) == 0
    assert (parts[:0].part_map == 4).all() and parts[:0].masks.shape == (0, 6, 8)


def test_map_pixels_that_no_mask_covers_go_with_the_last_part_of_their_class() -> None:
    parts = prediction()
    parts = replace(parts, coarse_map=np.where(parts.coarse_map == 4, 1, parts.coarse_map))
    assert (parts[[0, 1, 3]].part_map == 1).sum() == 8 + 12
    assert (parts[[0, 3]].part_map == 1).sum() == 0


def test_filter() -> None:
    parts = prediction()
    assert parts.filter(names=["hair", "trousers"]).names == ["hair", "trousers"]
    assert parts.filter(names="skin", confidence=0.5).scores.tolist() == pytest.approx([0.83])
    assert parts.filter(confidence=0.83).names == ["hair", "skin"]
    # Known to the model, and not in the picture.
    assert len(parts.filter(names=["top"])) == 0
    with pytest.raises(ValueError, match=r"part 'Trouser': .* \(did you mean trousers\?\)"):
        parts.filter(names=["hair", "Trouser"])
    with pytest.raises(ValueError, match="part 'wheel': .* it knows hair, skin, top, trousers"):
        parts.filter(names=["wheel"])
    with pytest.raises(ValueError, match="confidence: expected a number from 0 to 1, got 40"):
        parts.filter(confidence=40)


def test_repr() -> None:
    parts = prediction(480, 640)
    assert repr(parts[:3]) == "PartPrediction(3 parts: hair 0.91, skin 0.83, skin 0.44; 640x480)"
    assert repr(parts[:1]) == "PartPrediction(1 part: hair 0.91; 640x480)"
    assert repr(parts[:0]) == "PartPrediction(no parts; 640x480)"
    assert repr(parts[[0] * 11]).endswith("hair 0.91, ...; 640x480)")


def test_cutout_is_the_part_alone() -> None:
    parts = prediction()
    triangle = np.triu(np.ones((2, 8), bool))
    parts.coarse_masks[0][:2] = triangle
    cutout = parts.cutout(0)
    assert cutout.shape == (2, 8, 4) and cutout.dtype == np.uint8
    assert np.array_equal(cutout[..., :3], parts.image[:2])
    assert np.array_equal(cutout[..., 3], np.where(triangle, 255, 0))


def test_what_was_predicted_small_is_enlarged() -> None:
    parts = prediction(60, 80)
    expected = block(20, 40, 0, 40, (60, 80))
    # Corners are rounded off.
    assert not (parts.masks[1] & ~expected).any() and (parts.masks[1] == expected).mean() > 0.99
    assert np.array_equal(parts[1].mask, parts.masks[1])
    assert parts.boxes[1].tolist() == [0, 20, 40, 40] and parts.boxes.dtype == np.float32
    assert parts.masks.shape == (4, 60, 80) and parts.part_map.shape == (60, 80)
    assert (parts.part_map[:20] == 0).all() and (parts.part_map[24:] != 0).all() and parts.part_map.dtype == np.int64
    assert parts.cutout(1).shape == (20, 40, 4)
    described = json.loads(json.dumps(parts.to_dict()))
    assert np.array_equal(segmentation_to_mask(described["parts"][1]["mask"], 60, 80), parts.masks[1])


def test_enlarged_borders_have_no_steps() -> None:
    """A diagonal at four times its size: no row begins more than two pixels from the last, where pixels would by 4."""
    enlarged = enlarge_mask(np.triu(np.ones((16, 16), bool)), 64, 64)
    begins = enlarged[4:-4].argmax(axis=1)
    assert np.abs(np.diff(begins)).max() <= 2
    labels = np.where(np.triu(np.ones((16, 16), bool)), 7, 2)
    assert set(np.unique(enlarge_map(labels, 64, 64))) == {2, 7}
    assert (enlarge_map(labels, 64, 64) == 7)[enlarged].mean() > 0.98


def test_a_single_pixel_does_not_get_lost() -> None:
    for place in range(10):
        mask = np.zeros((10, 10), bool)
        mask[place, place] = True
        assert enlarge_mask(mask, 11, 11).any()


def test_saves_what_it_draws_and_paints_all_of_one_size_alike(tmp_path: Path) -> None:
    parts = prediction()
    assert parts.draw().shape[1] > 2 * 640
    assert parts.paint().shape == parts[:0].paint().shape == (480, 640, 3)
    with pytest.raises(ValueError):
        parts.save(tmp_path / "parts.nothing")


def test_to_supervision() -> None:
    supervision = pytest.importorskip("supervision")
    parts = prediction(12, 16)
    detections = parts.to_supervision()
    assert isinstance(detections, supervision.Detections) and len(detections) == 4
    assert np.array_equal(detections.xyxy, parts.boxes) and np.array_equal(detections.mask, parts.masks)
    assert detections.data["class_name"].tolist() == parts.names
    assert detections[detections.confidence > 0.5].class_id.tolist() == [0, 1]
    assert len(parts[:0].to_supervision()) == 0


def test_without_supervision_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match=r'pip install "\.\[supervision\]" in the clone'):
        prediction().to_supervision()
