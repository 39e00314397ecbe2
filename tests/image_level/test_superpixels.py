"""Quasi-superpixels: the mask generator's own without our changes, and our changes by hand."""

from __future__ import annotations

import json

from wps_sam.encoders import SAMEncoder
from wps_sam.encoders.build_sam import build_sam
from wps_sam.image_level.superpixels import (
    Superpixel,
    SuperpixelSettings,
    _box_of,
    _levels,
    superpixels,
    without_contained,
)
from wps_sam.masks import segmentation_to_mask
from wps_sam.prompt_evaluation import load_encoder

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.utils import amg

PLAIN = dict(iou_offsets=(0.0, 0.0, 0.0), nms_offsets=(0.0, 0.0, 0.0), contained=2.0)


@pytest.fixture(scope="module")
def sam():
    return build_sam("vit_tiny", "shipped")


def picture():
    """Squares of colours on a ground of another, with noise."""
    rng = np.random.default_rng(0)
    image = np.full((120, 160, 3), (90, 140, 60), np.uint8)
    image[20:60, 30:80] = (200, 40, 40)
    image[30:50, 40:60] = (250, 220, 40)
    image[70:110, 90:150] = (40, 60, 200)
    return (image + rng.integers(0, 12, image.shape)).astype(np.uint8)


@pytest.mark.parametrize("layers", [0, 1])
def test_without_our_changes_it_is_the_mask_generator(sam, layers):
    common = dict(
        points_per_side=5,
        pred_iou_thresh=0.4,
        stability_score_thresh=0.6,
        crop_n_layers=layers,
        crop_n_points_downscale_factor=2,
        min_mask_region_area=20,
    )
    stock = SamAutomaticMaskGenerator(sam, **common, output_mode="coco_rle").generate(picture())
    ours = superpixels(SAMEncoder.from_sam(sam), picture(), SuperpixelSettings(**common, **PLAIN))
    assert len(ours) == len(stock) >= 5
    by_iou = sorted((one.to_json() for one in ours), key=lambda r: (r["point_coords"], r["predicted_iou"]))
    for record, other in zip(by_iou, sorted(stock, key=lambda r: (r["point_coords"], r["predicted_iou"]))):
        assert record["point_coords"] == other["point_coords"] and record["crop_box"] == other["crop_box"]
        assert record["predicted_iou"] == pytest.approx(other["predicted_iou"], abs=1e-4)
        assert record["stability_score"] == pytest.approx(other["stability_score"], abs=5e-3)
        # Rounding of the encoder moves single pixels of an edge.
        different = mask_of(record) ^ mask_of(other)
        assert different.sum() <= 3 and abs(record["area"] - other["area"]) <= 3
        assert np.abs(np.subtract(record["bbox"], other["bbox"])).max() <= 1


def mask_of(record):
    return segmentation_to_mask(record["segmentation"], *record["segmentation"]["size"])


def one_of(columns, level, width=100, iou=0.9):
    mask = np.zeros((4, width), bool)
    mask[:, slice(*columns)] = True
    return Superpixel(mask, level, iou, 1.0, (0.0, 0.0), (0, 0, width, 4))


@pytest.mark.parametrize(("covered", "kept"), [(29, True), (31, False)])
def test_pieces_survive_only_where_nothing_larger_is(covered, kept):
    whole, part = one_of((0, 50), 2), one_of((50 - covered, 150 - covered), 1, 150)
    whole = one_of((0, 50), 2, 150)
    assert len(without_contained([part, whole], SuperpixelSettings())) == 1 + kept


def test_masks_of_one_level_do_not_fight_and_order_is_nothing():
    """Two parts that share most of their pixels, and a piece inside of them alone."""
    parts = [one_of((50, 80), 1), one_of((52, 82), 1)]
    piece, whole = one_of((55, 60), 0), one_of((0, 40), 2)
    for order in ([piece, whole, *parts], [*parts[::-1], piece, whole]):
        found = without_contained(order, SuperpixelSettings())
        assert {id(one) for one in found} == {id(one) for one in (whole, *parts)}
    first = without_contained([piece, whole, *parts], SuperpixelSettings(order=(0, 1, 2)))
    assert {id(one) for one in first} == {id(one) for one in (piece, whole, *parts)}


def test_without_wholes_the_next_level_is_the_first():
    parts = [one_of((50, 80), 1), one_of((52, 82), 1)]
    assert len(without_contained([*parts, one_of((0, 9), 0)], SuperpixelSettings())) == 3


def test_levels_by_index_and_by_area():
    logits = torch.full((3, 10, 10), -1.0)
    logits[0, :8], logits[1, :2], logits[2, :4] = 1, 1, 1
    assert _levels(logits, "index") == [0, 1, 2]
    assert _levels(logits, "area") == [2, 0, 1]
    assert _levels(logits[[1, 2, 0]], "area") == _levels(logits[[1, 2, 0]], "index")


@pytest.mark.parametrize("arch", ["vit_tiny", "mobile_test", "sam2_test"])
def test_a_level_stays_with_its_mask(arch, tiny_encoders):
    """Levels by area are those of the areas of the masks at their point, whatever was filtered since."""
    settings = SuperpixelSettings(
        points_per_side=4, levels="area", thresholds="quantile", pred_iou_thresh=0.3, stability_score_thresh=0.1,
        crop_n_layers=0, min_mask_region_area=0, iou_offsets=(0.0, 0.0, 0.0), nms_offsets=(0.0, 0.0, 0.0),
        contained=2.0, box_nms_thresh=1.1,
    )  # fmt: skip
    encoder = load_encoder(arch, tiny_encoders.get(arch, "shipped"))
    found = superpixels(encoder, picture(), settings)
    by_point = {}
    for one in found:
        by_point.setdefault(one.point, []).append((one.level, one.mask.sum()))
    assert any(len(levels) > 1 for levels in by_point.values())
    # Levels are ranked on the decoder's own masks, of a few cells here: nearly equal ones may change when enlarged.
    height, width = found[0].mask.shape
    for levels in by_point.values():
        areas = np.array([area for _, area in sorted(levels)])
        assert (np.diff(areas) >= -0.05 * height * width).all()


def test_quantiles_keep_a_share_whatever_the_sam_expects(sam):
    encoder = SAMEncoder.from_sam(sam)
    common = dict(points_per_side=4, crop_n_layers=0, min_mask_region_area=0, box_nms_thresh=1.1, contained=2.0)
    none = superpixels(encoder, picture(), SuperpixelSettings(**common, pred_iou_thresh=0.999))
    settings = SuperpixelSettings(
        **common, thresholds="quantile", pred_iou_thresh=0.5, stability_score_thresh=0.5, iou_offsets=(0.0, 0.0, 0.0)
    )
    some = superpixels(encoder, picture(), settings)
    assert not none and 0 < len(some) <= 12


def test_boxes_are_the_generators():
    rng = np.random.default_rng(0)
    masks = [rng.random((7, 9)) < share for share in (0.0, 0.02, 0.05, 0.2, 1.0) for _ in range(5)]
    expected = amg.batched_mask_to_box(torch.from_numpy(np.stack(masks))).tolist()
    assert [list(_box_of(mask)) for mask in masks] == expected and [0, 0, 0, 0] in expected


def test_records_are_read_as_written():
    one = one_of((3, 9), 1)
    read = Superpixel.from_json(json.loads(json.dumps(one.to_json())))
    assert np.array_equal(read.mask, one.mask) and (read.level, read.crop, read.box) == (1, one.crop, one.box)
    assert one.to_json()["bbox"] == [3, 0, 5, 3], "as the generator counts: the last pixel included"


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="levels: expected one of"):
        SuperpixelSettings(levels="size")
    with pytest.raises(ValueError, match=r"order: expected the levels 0, 1 and 2, got \[1, 1, 2\]"):
        SuperpixelSettings(order=(1, 1, 2))
    with pytest.raises(ValueError, match="points_per_side"):
        SuperpixelSettings(points_per_side=0)
