"""The worked example of docs/protocols.md: its numbers are what our metrics say of the squares that it describes."""

from __future__ import annotations

import re
from pathlib import Path

from wps_sam.evaluation.metrics import (
    binary_iou,
    confusion_matrix,
    pixel_accuracy,
    pooled_scores_d2,
    pooled_scores_pin41,
    row_mean_iou,
)

import numpy as np
import pytest

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "protocols.md").read_text(encoding="utf-8")
WHEEL, BACKGROUND = 0, 1


def square(side: int, x: int, y: int, size: int = 100) -> np.ndarray:
    """A mask, bool [size, size], of a square with its upper left corner at x, y."""
    mask = np.zeros((size, size), bool)
    mask[y : y + side, x : x + side] = True
    return mask


@pytest.fixture(scope="module")
def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """Prediction and truth of both pictures."""
    return [(square(60, 20, 20), square(60, 20, 20)), (square(10, 60, 45), square(10, 20, 45))]


def told(name: str) -> float:
    """The number in the example's row of a protocol."""
    _, example = PAGE.split("## One prediction, four numbers")
    (number,) = re.findall(rf"^\| `{name}` \|.*\| ([\d.]+) \|$", example, re.MULTILINE)
    return float(number)


def test_the_numbers_of_the_example(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    maps = [[np.where(mask, WHEEL, BACKGROUND) for mask in pair] for pair in pairs]
    matrix = sum(confusion_matrix(pred, truth, num_labels=2) for pred, truth in maps)
    assert matrix.tolist() == [[3600, 100], [100, 16200]]
    found = {
        "d2_semseg": pooled_scores_d2(matrix, [WHEEL])["mIoU"],
        "pin41": pooled_scores_pin41(matrix)["mIoU"],
        "wps_image_part": np.mean([binary_iou(*pair) for pair in pairs]),
        "wps_authors": np.mean([row_mean_iou(*pair) for pair in pairs]),
    }
    assert {name: told(name) for name in found} == {name: round(100 * float(v), 1) for name, v in found.items()}
    assert len(set(found.values())) == 4


def test_the_numbers_beside_it(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    empty = row_mean_iou(np.zeros((100, 100), bool), pairs[1][1])
    accuracy = np.mean([pixel_accuracy(*pair) for pair in pairs])
    assert f"had {100 * empty:.1f} there" in PAGE and f"this prediction has {100 * accuracy:.1f}" in PAGE
    apart = row_mean_iou(square(160, 0, 0, 1024), square(160, 160, 0, 1024))
    assert f"score\n{100 * apart:.0f}%" in PAGE
