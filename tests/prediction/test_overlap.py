"""A part that was found twice is one part."""

from __future__ import annotations

from wps_sam.prediction.overlap import different_parts

import numpy as np


def row(start: int, stop: int) -> np.ndarray:
    mask = np.zeros((1, 12), bool)
    mask[:, start:stop] = True
    return mask


def test_of_one_class_and_one_place_the_surest_stays() -> None:
    # Of [0, 4): 3 of 5 pixels shared, 2 of 6, and the same again but of another class.
    masks = np.stack([row(0, 4), row(1, 5), row(2, 6), row(0, 4)])
    assert different_parts(masks, np.array([0, 0, 0, 1])).tolist() == [0, 2, 3]
    # Half of both together is not mostly: 2 of 4.
    assert different_parts(np.stack([row(0, 4), row(0, 2)]), np.array([0, 0])).tolist() == [0, 1]


def test_what_is_dropped_drops_nothing_itself() -> None:
    # The second goes for the first; the third is like the second alone.
    masks = np.stack([row(0, 8), row(2, 10), row(4, 12)])
    assert different_parts(masks, np.zeros(3, np.int64)).tolist() == [0, 2]


def test_no_part() -> None:
    assert different_parts(np.zeros((0, 3, 4), bool), np.zeros(0, np.int64)).tolist() == []
