"""The formulas, on numbers worked out by hand, and a wrong variant of each that must differ."""

from __future__ import annotations

import math

from wps_sam.evaluation import metrics
from wps_sam.evaluation.metrics import confusion_matrix, pair_iou, pixel_accuracy, row_mean_f1, row_mean_iou

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch

# Two parts and background (2); 8 pixels.
#   target 0 0 0 1     pred 0 0 1 1
#          1 2 2 2          2 2 2 0
TARGET = np.array([[0, 0, 0, 1], [1, 2, 2, 2]])
PRED = np.array([[0, 0, 1, 1], [2, 2, 2, 0]])
#                  gt 0  1  2
MATRIX = np.array([[2, 0, 1], [1, 1, 0], [0, 1, 2]])  # rows: predicted 0, 1, 2


def disc(x: float, y: float, radius: float, side: int = 1024) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side] + 0.5
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def by_library(pred: np.ndarray, target: np.ndarray, score: str = "iou_score") -> float:
    """As the authors call it: 2-D masks, so that rows pass for images and columns for classes."""
    stats = smp.metrics.get_stats(torch.tensor(pred).long(), torch.tensor(target).long(), mode="binary")
    return float(getattr(smp.metrics, score)(*stats, reduction="micro-imagewise"))


# ------------------------------------------------------------------ pooled


def test_confusion_matrix_has_predictions_in_rows() -> None:
    assert confusion_matrix(PRED, TARGET, 3).tolist() == MATRIX.tolist()
    # The wrong way round is another matrix, so the check above can fail.
    assert confusion_matrix(TARGET, PRED, 3).tolist() != MATRIX.tolist()


def test_confusion_matrices_of_images_add_up() -> None:
    top, bottom = (confusion_matrix(PRED[i : i + 1], TARGET[i : i + 1], 3) for i in (0, 1))
    assert (top + bottom).tolist() == MATRIX.tolist()


@pytest.mark.parametrize("ignore_label", [255, 65535])
def test_ignored_pixels_count_nowhere_whatever_is_predicted(ignore_label: int) -> None:
    target = TARGET.copy()
    target[0, 2] = ignore_label  # predicted 1: takes one from M[1, 0]
    expected = MATRIX - np.array([[0, 0, 0], [1, 0, 0], [0, 0, 0]])
    assert confusion_matrix(PRED, target, 3, ignore_label).tolist() == expected.tolist()


def test_255_is_a_class_of_a_256_class_map() -> None:
    target = np.array([[255, 255, 65535]], dtype=np.uint16)
    pred = np.array([[255, 254, 3]], dtype=np.uint8)
    matrix = confusion_matrix(pred, target, 256, ignore_label=65535)
    # 256 * 254 does not fit the 8 bits of pred: a map in its stored type would count somewhere else.
    assert matrix.sum() == 2 and matrix[255, 255] == 1 and matrix[254, 255] == 1
    with pytest.raises(ValueError, match=r"ignore_label: expected a number outside 0..255, got 255"):
        confusion_matrix(pred, target, 256, ignore_label=255)


def test_pooled_scores_by_hand() -> None:
    # TP = 2, 1, 2; gt (columns) = 3, 2, 3; predicted (rows) = 3, 2, 3.
    # IoU = 2/(3+3-2) = 1/2, 1/(2+2-1) = 1/3, 2/(3+3-2) = 1/2; accuracy = 2/3, 1/2, 2/3.
    assert metrics.pooled_iou(MATRIX) == pytest.approx([1 / 2, 1 / 3, 1 / 2])
    assert metrics.pooled_accuracy(MATRIX) == pytest.approx([2 / 3, 1 / 2, 2 / 3])
    scores = metrics.pooled_scores_d2(MATRIX)
    assert scores["mIoU"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 3)
    assert scores["mACC"] == pytest.approx((2 / 3 + 1 / 2 + 2 / 3) / 3)
    assert scores["fwIoU"] == pytest.approx((3 / 2 + 2 / 3 + 3 / 2) / 8)
    assert scores["pACC"] == pytest.approx(5 / 8)
    # Parts alone: background leaves the mean, not the matrix, so the IoUs stay.
    parts = metrics.pooled_scores_d2(MATRIX, [0, 1])
    assert parts["mIoU"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert parts["mACC"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert parts["fwIoU"] == pytest.approx((3 / 2 + 2 / 3) / 5)
    assert parts["pACC"] == pytest.approx(3 / 5)
    # Wrong: with the background row and column cut out, part pixels predicted on background cost nothing:
    # predicted = 2, 2, so IoU_0 = 2/(3+2-2) = 2/3.
    assert metrics.pooled_scores_d2(MATRIX[:2, :2])["mIoU"] != pytest.approx(parts["mIoU"])


def test_a_class_predicted_but_absent_from_the_whole_set() -> None:
    # Label 1 never is the truth, and one pixel of label 0 is predicted as it: gt = 4, 0; predicted = 3, 1.
    matrix = np.array([[3, 0], [1, 0]])
    # Detectron2 today: the mean is over label 0 alone, IoU = 3/4.
    assert metrics.pooled_scores_d2(matrix)["mIoU"] == pytest.approx(3 / 4)
    # pin41: label 1 counts 0, (3/4 + 0) / 2. Each is the other's wrong variant.
    assert metrics.pooled_scores_pin41(matrix)["mIoU"] == pytest.approx(3 / 8)
    # Accuracy needs ground truth under both.
    assert metrics.pooled_scores_d2(matrix)["mACC"] == pytest.approx(3 / 4)
    assert metrics.pooled_scores_pin41(matrix)["mACC"] == pytest.approx(3 / 4)


def test_labels_in_neither_map_enter_no_mean() -> None:
    padded = np.zeros((5, 5), dtype=np.int64)
    padded[:3, :3] = MATRIX
    for scores in (metrics.pooled_scores_d2, metrics.pooled_scores_pin41):
        assert scores(padded) == pytest.approx(scores(MATRIX))


def test_without_ground_truth_there_is_no_score() -> None:
    assert all(math.isnan(v) for v in metrics.pooled_scores_d2(np.zeros((2, 2), dtype=np.int64)).values())


# ------------------------------------------------------------------ pairs


def test_pair_scores_by_hand() -> None:
    pred = np.array([[1, 1, 0], [1, 0, 0]])
    target = np.array([[1, 0, 0], [1, 1, 0]])
    # TP 2, FP 1, FN 1, TN 2.
    assert metrics.pair_counts(pred, target) == (2, 1, 1, 2)
    assert pair_iou(pred, target) == pytest.approx(2 / 4)
    assert metrics.pair_accuracy(pred, target) == pytest.approx(2 / 3)
    assert metrics.pair_f1(pred, target) == pytest.approx(4 / 6)
    assert pixel_accuracy(pred, target) == pytest.approx(4 / 6)
    # Rows: TP, FP, FN = 1, 1, 0 and 1, 0, 1: IoU 1/2 and 1/2; F1 2/3 and 2/3.
    assert row_mean_iou(pred, target) == pytest.approx(1 / 2)
    assert row_mean_f1(pred, target) == pytest.approx(2 / 3)
    # Wrong variant: columns in place of rows. Column IoUs 1, 0, 1 (empty in both).
    assert row_mean_iou(pred.T, target.T) == pytest.approx(2 / 3)


def test_pair_scores_want_something_to_find() -> None:
    with pytest.raises(ValueError, match="at least one pixel"):
        pair_iou(np.ones((2, 2), dtype=bool), np.zeros((2, 2), dtype=bool))


# ------------------------------------------------------------------ the authors' rows


def test_two_disjoint_squares_score_0_84() -> None:
    # 160 rows hold one square each, IoU 0; the other 864 are empty in both, 1: 864 / 1024 = 0.84375.
    pred, target = np.zeros((2, 1024, 1024), dtype=bool)
    pred[100:260, 100:260] = True
    target[100:260, 400:560] = True
    assert row_mean_iou(pred, target) == pytest.approx(864 / 1024, abs=1e-12)
    assert row_mean_f1(pred, target) == pytest.approx(864 / 1024, abs=1e-12)
    assert by_library(pred, target) == pytest.approx(864 / 1024, abs=1e-6)
    assert pair_iou(pred, target) == 0.0
    # 2 * 160 * 160 wrong pixels.
    assert pixel_accuracy(pred, target) == pytest.approx(1 - 2 * 160**2 / 1024**2)


@pytest.mark.parametrize(
    ("shift", "true_iou", "row_wise"),
    # Diameter 200, moved by half the radius along both axes; and so far that they do not meet.
    [(50, 0.39, 0.83), (200, 0.0, 0.61)],
)
def test_discs_score_as_the_specification_says(shift: int, true_iou: float, row_wise: float) -> None:
    target, pred = disc(400, 400, 100), disc(400 + shift, 400 + shift, 100)
    assert pair_iou(pred, target) == pytest.approx(true_iou, abs=5e-3)
    assert row_mean_iou(pred, target) == pytest.approx(row_wise, abs=5e-3)


def test_an_empty_prediction_scores_the_share_of_rows_without_the_part() -> None:
    target = np.zeros((1024, 1024), dtype=bool)
    target[200:320, 200:320] = True
    assert row_mean_iou(np.zeros_like(target), target) == pytest.approx(1 - 120 / 1024)  # 0.88
    assert row_mean_iou(target, target) == 1.0
    assert row_mean_iou(np.zeros_like(target), np.zeros_like(target)) == 1.0


@pytest.mark.parametrize("density", [0.0, 0.01, 0.5, 1.0])
def test_row_scores_agree_with_the_library(density: float) -> None:
    rng = np.random.default_rng(0)
    for height, width in [(1, 1), (7, 300), (300, 7), (256, 256)]:
        pred, target = rng.random((2, height, width)) < density
        pred[: height // 2] &= rng.random(width) < 0.2
        assert row_mean_iou(pred, target) == pytest.approx(by_library(pred, target), abs=1e-6)
        assert row_mean_f1(pred, target) == pytest.approx(by_library(pred, target, "f1_score"), abs=1e-6)


def test_the_library_called_rightly_gives_the_true_iou() -> None:
    pred, target = disc(40, 40, 20, 128), disc(50, 50, 20, 128)
    rightly = by_library(pred[None, None], target[None, None])
    assert pair_iou(pred, target) == pytest.approx(rightly, abs=1e-6)
    # So the agreement above can fail.
    assert abs(row_mean_iou(pred, target) - rightly) > 0.1


@pytest.mark.parametrize("kind", [bool, np.uint8, np.uint16, np.int64, np.float32])
def test_masks_may_come_in_any_type_and_layout(kind: type) -> None:
    pred, target = disc(40, 40, 20, 96), disc(50, 44, 20, 96)
    expected = row_mean_iou(pred, target)
    assert row_mean_iou(pred.astype(kind), target.astype(kind)) == expected
    assert row_mean_iou(pred[::-1], target[::-1]) == pytest.approx(expected)
    if kind is not np.uint16:
        assert row_mean_iou(torch.tensor(pred.astype(kind)), torch.tensor(target)) == expected


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("pred", "target", "message"),
    [
        (np.zeros((2, 2)), np.zeros((2, 3)), r"one size, got \[2, 2\] and \[2, 3\]"),
        (np.zeros((1, 2, 2)), np.zeros((1, 2, 2)), r"pred: expected a mask \[H, W\], got shape \[1, 2, 2\]"),
        (np.zeros((2, 2)), np.zeros((0, 2)), r"target: expected a mask"),
        (np.full((2, 2), 0.5), np.zeros((2, 2)), "pred: expected bool or only 0 and 1, got float64"),
        (torch.full((2, 2), 255), np.zeros((2, 2)), "pred: expected bool or only 0 and 1"),
        ([[True]], np.zeros((1, 1)), "pred: expected an array or tensor"),
    ],
)
@pytest.mark.parametrize("score", [row_mean_iou, row_mean_f1, pixel_accuracy, pair_iou])
def test_bad_masks_are_refused(score: object, pred: object, target: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(pred, target)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("pred", "target", "message"),
    [
        (PRED, TARGET[:1], r"one size, got \[2, 4\] and \[1, 4\]"),
        (PRED.astype(float), TARGET, r"pred: expected integers \[H, W\], got float64"),
        (PRED[0], TARGET[0], r"pred: expected integers \[H, W\], got int64 \[4\]"),
        (PRED + 1, TARGET, r"pred: expected labels in 0..2 \(ignore: 255\), got 1..3"),
        (PRED, TARGET - 1, r"target: expected labels in 0..2 \(ignore: 255\), got -1..1"),
    ],
)
def test_bad_label_maps_are_refused(pred: np.ndarray, target: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confusion_matrix(pred, target, 3, 255)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.zeros((2, 3), dtype=int), r"integers \[N, N\], got int64 \[2, 3\]"),
        (np.zeros((2, 2)), "got float64"),
        (np.array([[-1]]), "expected counts, got -1"),
    ],
)
def test_bad_matrices_are_refused(matrix: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.pooled_scores_d2(matrix)


def test_labels_outside_the_matrix_are_refused() -> None:
    with pytest.raises(ValueError, match=r"labels: expected numbers in 0..2, got \[0, 3\]"):
        metrics.pooled_scores_d2(MATRIX, [0, 3])
