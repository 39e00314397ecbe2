"""Which threshold SemPLeS scores an epoch at, by hand."""

from __future__ import annotations

from wps_sam.image_level.scores import THRESHOLDS, threshold_score

import numpy as np
import pytest
import torch


def pictures(values, truth):
    return [(torch.tensor([[values]]), np.array([1]), np.array([truth]))]


def test_a_perfect_map_scores_100():
    assert THRESHOLDS[0] == 0.4 and THRESHOLDS[-1] == 0.59
    assert threshold_score(pictures([1.0, 0.0, 0.0], [1, 2, -1]), 2) == 100


def test_the_curve_stops_where_it_first_does_not_rise():
    """Class 1 is the first of four pixels. At 0.40 three are named: IoU 1/3, and of background 1/3. At 0.41 two are:
    1/2 and 2/3, mean 58.3. 0.42 is the same, so the search stops, though from 0.50 on all is right."""
    found = pictures([0.9, 0.495, 0.405, 0.1], [1, 2, 2, 2])
    assert threshold_score(found, 2) == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)
    assert threshold_score(pictures([0.9, 0.405, 0.1, 0.1], [1, 2, 2, 2]), 2) == 100, "the best of the whole curve"


def test_pixels_of_all_pictures_count_together():
    """Nothing is 0.4 in the second: 1 of 2 pixels of class 1 is found in all, 2 of 3 of background right."""
    both = pictures([1.0, 0.0], [1, 2]) + pictures([0.3, 0.2], [1, 2])
    # Class 1: 1 / 2. Background: 2 right, 1 named so in vain: 2 / 3. The mean of pictures would be 100 and 25.
    assert threshold_score(both, 2) == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)
