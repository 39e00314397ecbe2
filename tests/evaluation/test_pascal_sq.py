"""``pascal_sq`` on pictures small enough to count pixels by hand. Results are in percent."""

from __future__ import annotations

import math

from wps_sam.evaluation import build_evaluators

import numpy as np
import pytest
from evaluation_scenes import Scene, box_mask, run


def block(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    return box_mask(16, 16, x0, y0, x1, y1)


def test_pascal_sq_by_hand(scene: Scene) -> None:
    # Label maps of 16 x 16: Animal Head left, background right; the second picture's left half is a body, and its
    # first row is ignored.
    left, top = block(0, 0, 8, 16), block(0, 0, 16, 8)
    first, second = np.full((16, 16), 3, np.uint8), np.full((16, 16), 3, np.uint8)
    first[left], second[left], second[0] = 0, 1, 255
    records = [scene.add([], part_map=first), scene.add([], part_map=second)]
    scene.register()
    # A head on the upper half of both; the second picture's body is found.
    outputs = [scene.output(records[0], [(0, top)]), scene.output(records[1], [(0, top), (1, left)])]
    scores = run(build_evaluators(["pascal_sq"], scene.name), records, outputs)["pascal_sq"]
    # Head, first picture: 64 of 128 + 128 - 64 = 1/3; the 7 * 8 false pixels of the second picture are free.
    # Body: 1. Background: 64 of 192 = 1/3; second, of 15 * 8 = 120 pixels 64 found and nothing else: 64/120.
    assert scores["IoU-Animal Head"] == scores["sqIoU-Animal Head"] == pytest.approx(100 / 3)
    assert scores["IoU-Animal Body"] == scores["sqIoU-Animal Body"] == pytest.approx(100)
    pooled, by_image = (64 + 64) / (192 + 120), (1 / 3 + 64 / 120) / 2
    assert scores["IoU-background"] == pytest.approx(100 * pooled)
    assert scores["sqIoU-background"] == pytest.approx(100 * by_image)
    assert math.isnan(scores["IoU-Car Wheel"])
    # Classes, then categories: Animal, Car (which does not occur), background.
    assert scores["mIOU"] == pytest.approx(100 * (1 / 3 + 1 + pooled) / 3)
    assert scores["sqIOU"] == pytest.approx(100 * (1 / 3 + 1 + by_image) / 3)
    assert scores["mAvg"] == pytest.approx(100 * ((1 / 3 + 1) / 2 + pooled) / 2)
    assert scores["sqAvg"] == pytest.approx(100 * ((1 / 3 + 1) / 2 + by_image) / 2)
