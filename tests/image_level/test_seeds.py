"""SAMS by hand, and what must hold of it whatever the maps."""

from __future__ import annotations

from wps_sam.image_level.seeds import mask_means, seed

import numpy as np
import pytest
import torch


def masks_of(*columns, width=10):
    """Masks of whole columns of a picture of two rows."""
    found = torch.zeros(len(columns), 2, width, dtype=torch.bool)
    for s, (first, last) in enumerate(columns):
        found[s, :, first:last] = True
    return found


def test_a_scene_by_hand():
    """Four masks; the first tag peaks in mask 0, the second in mask 1; mask 2 has little of both; mask 3 none."""
    masks = masks_of((0, 2), (2, 4), (4, 6), (6, 8))
    maps = torch.zeros(2, 2, 10)
    maps[0, :, 0:2], maps[0, :, 4:6] = 4.0, 1.0
    maps[1, :, 2:4], maps[1, :, 4:6] = 2.0, 0.4
    found = seed(maps, masks, torch.zeros(4), 1.0)
    assert found.labels[0].tolist() == [0, 0, 1, 1, 2, 2, 2, 2, 2, 2]
    assert found.of_masks.tolist() == [0, 1, 2, 2] and np.allclose(found.scores, [1, 1, 0.75, 1], atol=1e-5)


@pytest.mark.parametrize(("power", "root"), [(0.3, 0.698), (0.6, 0.588), (0.7, 0.562), (1.0, 0.5), (3.0, 0.318)])
def test_where_a_mask_becomes_foreground(power, root):
    """At the root of a = (1 - a)^p."""
    masks = masks_of((0, 2), (2, 4), (4, 6))
    for value, expected in ((root - 0.002, 1), (root + 0.002, 0)):
        maps = torch.zeros(1, 2, 10)
        maps[0, :, 0:2], maps[0, :, 2:4] = 1.0, value
        assert seed(maps, masks, torch.zeros(3), power).of_masks[1] == expected


def test_scale_of_a_class_is_nothing_and_power_only_adds():
    generator = torch.Generator().manual_seed(0)
    maps, masks = torch.rand(3, 6, 7, generator=generator), torch.rand(20, 6, 7, generator=generator) < 0.3
    levels = torch.randint(0, 3, (20,), generator=generator)
    found = seed(maps, masks, levels, 0.7)
    scaled = seed(maps * torch.tensor([1.0, 50.0, 7.0])[:, None, None], masks, levels, 0.7)
    assert np.array_equal(found.labels, scaled.labels)
    shares = [(seed(maps, masks, levels, p).of_masks < 3).sum() for p in (0.3, 0.7, 1, 2, 3)]
    assert shares == sorted(shares) and shares[0] < shares[-1]


def test_higher_levels_lie_on_top_and_of_one_level_the_surer():
    masks = masks_of((0, 6), (0, 4), (2, 8), (8, 9))
    maps = torch.zeros(2, 2, 10)
    maps[0, :, 0:4], maps[1, :, 4:8] = 1.0, 3.0
    low, high = seed(maps, masks, torch.tensor([0, 0, 0, 0]), 3.0), seed(maps, masks, torch.tensor([2, 0, 0, 0]), 3.0)
    assert low.of_masks.tolist() == [0, 0, 1, 2]
    # Mask 1 and mask 2 are sure of themselves, 1 and 1; mask 0 has two thirds, so it lies below both, or above.
    assert low.labels[0, :8].tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
    assert high.labels[0, :8].tolist() == [0, 0, 0, 0, 0, 0, 1, 1]


def test_negative_values_are_floored_before_the_mean():
    """A map that changes sign inside a mask: the mean of its positive part, not the positive part of its mean."""
    maps = torch.tensor([[[4.0, -4.0, 1.0, 1.0]]])
    masks = torch.tensor([[[True, True, False, False]], [[False, False, True, True]]])
    assert seed(maps, masks, torch.zeros(2), 1.0).of_masks.tolist() == [0, 1]
    assert mask_means(maps, masks).tolist() == [[0.0, 1.0]], "the wrong order would name the other mask"


def test_what_no_mask_covers_and_single_masks_are_background():
    maps = torch.ones(1, 2, 10)
    assert (seed(maps, masks_of(), torch.zeros(0), 1.0).labels == 1).all()
    assert (seed(maps, masks_of((0, 10)), torch.zeros(1), 1.0).labels == 1).all()
    assert (seed(maps[:0], masks_of((0, 10), (0, 3)), torch.zeros(2), 1.0).labels == 0).all()


def test_ties_are_backgrounds():
    masks = masks_of((0, 2), (2, 4), (4, 6))
    maps = torch.zeros(1, 2, 10, dtype=torch.float64)
    maps[0, :, 0:2], maps[0, :, 2:4] = 1.0, 0.5
    # 0.5 / (1 + 1e-7) is just below 0.5, its background just above.
    assert seed(maps, masks, torch.zeros(3), 1.0).of_masks.tolist() == [0, 1, 1]
