"""Boxes and points made from full annotations, on the stored pixel grid."""

from __future__ import annotations

import hashlib

from wps_sam.data.weak_labels import label_kind, part_point, usable_box
from wps_sam.masks import mask_to_rle, segmentation_to_mask
from wps_sam.structures import LabelKind

import numpy as np
import pytest
from detectron2.structures import BoxMode

HEIGHT, WIDTH = 20, 30


def annotation(bbox, segmentation=None, annotation_id=1, mode=BoxMode.XYWH_ABS):
    entry = {"id": annotation_id, "bbox": bbox, "bbox_mode": mode}
    return entry if segmentation is None else {**entry, "segmentation": segmentation}


def l_shape() -> np.ndarray:
    """A mask whose box centre lies off it: a thick foot along the bottom and a thin leg on the left."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[2:18, 3:5] = True
    mask[11:18, 3:26] = True
    return mask


@pytest.mark.parametrize(
    ("bbox", "expected"),
    [
        ([3, 2, 5, 6], (3, 2, 8, 8)),
        ([-2, -3, 5, 6], (0, 0, 3, 3)),
        ([25, 15, 50, 50], (25, 15, 30, 20)),
        ([3, 2, 0, 6], None),
        ([3, 2, 5, 0], None),
        ([3, 2, -1, 6], None),
        ([30, 2, 5, 5], None),
        ([-5, 2, 5, 5], None),
    ],
)
def test_box_is_the_stored_one_clipped_to_the_picture(bbox, expected):
    assert usable_box(annotation(bbox), HEIGHT, WIDTH) == expected


def test_box_in_another_mode():
    assert usable_box(annotation([3, 2, 8, 8], mode=BoxMode.XYXY_ABS), HEIGHT, WIDTH) == (3, 2, 8, 8)


def test_box_centre_in_pixel_centre_coordinates():
    # One pixel: its centre is the integer itself. Two pixels: half-way between their centres.
    assert part_point(annotation([7, 4, 1, 1]), HEIGHT, WIDTH, "box_center", 0) == (7.0, 4.0)
    assert part_point(annotation([7, 4, 2, 1]), HEIGHT, WIDTH, "box_center", 0) == (7.5, 4.0)
    # The box alone decides, not the mask.
    shape = annotation([3, 2, 23, 16], mask_to_rle(l_shape()))
    x, y = part_point(shape, HEIGHT, WIDTH, "box_center", 0)
    assert (x, y) == (14.0, 9.5)
    assert not l_shape()[int(y), int(x)]


def test_deepest_pixel():
    # In the foot, 7 pixels high (rows 11..17), row 14 is 4 from either border; the leg is only 2 wide.
    x, y = part_point(annotation([3, 2, 23, 16], mask_to_rle(l_shape())), HEIGHT, WIDTH, "deepest_pixel", 0)
    assert y == 14 and 6 <= x <= 22


def test_the_pictures_border_counts_as_the_masks():
    full = mask_to_rle(np.ones((5, 5), bool))
    assert part_point(annotation([0, 0, 5, 5], full), 5, 5, "deepest_pixel", 0) == (2.0, 2.0)
    corner = np.zeros((9, 9), bool)
    corner[:3, :3] = True
    assert part_point(annotation([0, 0, 3, 3], mask_to_rle(corner)), 9, 9, "deepest_pixel", 0) == (1.0, 1.0)


def test_random_pixel_depends_on_seed_and_id_alone():
    mask, rle = l_shape(), mask_to_rle(l_shape())

    def points(seed):
        return [part_point(annotation([3, 2, 23, 16], rle, i), HEIGHT, WIDTH, "random_pixel", seed) for i in range(40)]

    first = points(0)
    np.random.seed(123)
    assert list(reversed(first)) == list(reversed(points(0)))
    assert all(mask[int(y), int(x)] and x == int(x) and y == int(y) for x, y in first)
    assert len(set(first)) > 30
    assert points(1) != first
    assert part_point(annotation([3, 2, 23, 16], rle, -7), HEIGHT, WIDTH, "random_pixel", 0) is not None


def test_all_polygons_of_a_part_count():
    left, right = [0, 0, 2, 0, 2, 2, 0, 2], [10, 5, 20, 5, 20, 15, 10, 15]
    entry = annotation([0, 0, 20, 15], [left, right])
    x, y = part_point(entry, HEIGHT, WIDTH, "deepest_pixel", 0)
    assert segmentation_to_mask([right], HEIGHT, WIDTH)[int(y), int(x)]


@pytest.mark.parametrize("rule", ["random_pixel", "deepest_pixel"])
def test_part_without_usable_mask_gets_its_box_centre(rule):
    for entry in (annotation([7, 4, 1, 1]), annotation([7, 4, 1, 1], mask_to_rle(np.zeros((HEIGHT, WIDTH), bool)))):
        assert part_point(entry, HEIGHT, WIDTH, rule, 0) == (7.0, 4.0)
    assert part_point(annotation([7, 4, 0, 0]), HEIGHT, WIDTH, rule, 0) is None


def test_every_pixel_of_a_mask_may_be_drawn():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[4, 7] = mask[5, 3] = True
    pair = [annotation([3, 4, 5, 2], mask_to_rle(mask), i) for i in range(20)]
    assert {part_point(a, HEIGHT, WIDTH, "random_pixel", 0) for a in pair} == {(7, 4), (3, 5)}


@pytest.mark.parametrize(
    ("annotation_id", "number"),
    [
        (7, 7),
        # Which some tools give.
        (-7, 2**64 - 7),
        ("ear", int.from_bytes(hashlib.sha256(b"ear").digest()[:8], "little")),
    ],
)
def test_a_random_pixel_is_that_of_the_ids_number(annotation_id, number):
    rows, columns = np.nonzero(l_shape())
    drawn = np.random.default_rng([5, number]).integers(len(rows))
    entry = annotation([3, 2, 23, 16], mask_to_rle(l_shape()), annotation_id)
    assert part_point(entry, HEIGHT, WIDTH, "random_pixel", 5) == (columns[drawn], rows[drawn])


@pytest.mark.parametrize(
    ("label_type", "kinds"),
    [
        ("point", [LabelKind.POINT] * 4),
        ("box", [LabelKind.BOX, LabelKind.BOX, LabelKind.TAG, LabelKind.TAG]),
        ("mask", [LabelKind.MASK, LabelKind.BOX, LabelKind.TAG, LabelKind.TAG]),
        ("as_annotated", [LabelKind.MASK, LabelKind.BOX, LabelKind.POINT, LabelKind.TAG]),
    ],
)
def test_what_of_an_annotation_a_run_is_shown(label_type, kinds):
    boxed = annotation([3, 2, 5, 6])
    shown = [{**boxed, "segmentation": mask_to_rle(l_shape())}, boxed, {"id": 1, "point": [3, 4]}, {"id": 2}]
    assert [label_kind(entry, HEIGHT, WIDTH, label_type) for entry in shown] == kinds


def test_a_malformed_mask_names_its_annotation():
    broken = annotation([3, 2, 5, 6], {"size": [HEIGHT, WIDTH], "counts": [7]}, annotation_id=12)
    with pytest.raises(ValueError, match=r"annotation 12: segmentation\.counts"):
        part_point(broken, HEIGHT, WIDTH, "random_pixel", 0)
