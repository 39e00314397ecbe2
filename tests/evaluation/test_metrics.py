"""The formulas, on numbers worked out by hand, and a wrong variant of each that must differ."""

from __future__ import annotations

import math
from collections.abc import Callable

from wps_sam.evaluation import metrics
from wps_sam.evaluation.metrics import binary_iou, confusion_matrix, pixel_accuracy, row_mean_f1, row_mean_iou

import cv2
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


def test_the_share_of_a_prediction_outside_the_truth() -> None:
    """Of the pixels called 0, 1 and 2 one of 3, 2 and 3 is wrong. What is never predicted is unknown."""
    assert metrics.pooled_outside(MATRIX).tolist() == pytest.approx([1 / 3, 1 / 2, 1 / 3])
    never = np.array([[2, 1], [0, 0]])
    assert metrics.pooled_outside(never)[0] == pytest.approx(1 / 3) and math.isnan(metrics.pooled_outside(never)[1])


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
    for label in (0, 2):
        with pytest.raises(ValueError, match=rf"ignore_label: expected a number outside 0..2, got {label}"):
            confusion_matrix(PRED, TARGET, 3, ignore_label=label)
    # The first beyond the last class is none, and so is one below the first.
    for label in (3, -1):
        ignored = np.where(TARGET == 2, label, TARGET)
        assert confusion_matrix(PRED, ignored, 3, ignore_label=label).tolist() == (MATRIX * [1, 1, 0]).tolist()


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


# ------------------------------------------------------------------ one mask against one


def test_binary_scores_by_hand() -> None:
    pred = np.array([[1, 1, 0], [1, 0, 0]])
    target = np.array([[1, 0, 0], [1, 1, 0]])
    # TP 2, FP 1, FN 1, TN 2.
    assert metrics.binary_stats(pred, target) == (2, 1, 1, 2)
    assert binary_iou(pred, target) == pytest.approx(2 / 4)
    assert metrics.binary_recall(pred, target) == pytest.approx(2 / 3)
    assert metrics.binary_f1(pred, target) == pytest.approx(4 / 6)
    assert pixel_accuracy(pred, target) == pytest.approx(4 / 6)
    # Rows: TP, FP, FN = 1, 1, 0 and 1, 0, 1: IoU 1/2 and 1/2; F1 2/3 and 2/3.
    assert row_mean_iou(pred, target) == pytest.approx(1 / 2)
    assert row_mean_f1(pred, target) == pytest.approx(2 / 3)
    # Wrong variant: columns in place of rows. Column IoUs 1, 0, 1 (empty in both).
    assert row_mean_iou(pred.T, target.T) == pytest.approx(2 / 3)


def test_binary_scores_want_something_to_find() -> None:
    with pytest.raises(ValueError, match="at least one pixel"):
        binary_iou(np.ones((2, 2), dtype=bool), np.zeros((2, 2), dtype=bool))


# ------------------------------------------------------------------ the authors' rows


def test_two_disjoint_squares_score_0_84() -> None:
    # 160 rows hold one square each, IoU 0; the other 864 are empty in both, 1: 864 / 1024 = 0.84375.
    pred, target = np.zeros((2, 1024, 1024), dtype=bool)
    pred[100:260, 100:260] = True
    target[100:260, 400:560] = True
    assert row_mean_iou(pred, target) == pytest.approx(864 / 1024, abs=1e-12)
    assert row_mean_f1(pred, target) == pytest.approx(864 / 1024, abs=1e-12)
    assert by_library(pred, target) == pytest.approx(864 / 1024, abs=1e-6)
    assert binary_iou(pred, target) == 0.0
    # 2 * 160 * 160 wrong pixels.
    assert pixel_accuracy(pred, target) == pytest.approx(1 - 2 * 160**2 / 1024**2)


@pytest.mark.parametrize(
    ("shift", "true_iou", "row_wise"),
    # Diameter 200, moved by half the radius along both axes; and so far that they do not meet.
    [(50, 0.39, 0.83), (200, 0.0, 0.61)],
)
def test_discs_score_as_the_specification_says(shift: int, true_iou: float, row_wise: float) -> None:
    target, pred = disc(400, 400, 100), disc(400 + shift, 400 + shift, 100)
    assert binary_iou(pred, target) == pytest.approx(true_iou, abs=5e-3)
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
    assert binary_iou(pred, target) == pytest.approx(rightly, abs=1e-6)
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
@pytest.mark.parametrize("score", [row_mean_iou, row_mean_f1, pixel_accuracy, binary_iou])
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


# ------------------------------------------------------------------ seen and unseen classes

# Three classes; the last row are pixels predicted to be nothing, the last column pixels without a label.
#                     gt 0  1  2  unknown
OPEN = np.array([[6, 1, 0, 5], [2, 2, 0, 0], [0, 1, 0, 1], [0, 0, 0, 9]])


def test_open_vocabulary_means_by_hand() -> None:
    # TP = 6, 2, 0; gt = 8, 4, 0; predicted where the truth is known = 7, 4, 1.
    # IoU_0 = 6/(8+7-6) = 2/3, IoU_1 = 2/(4+4-2) = 1/3; class 2 is predicted (1 pixel) and absent.
    assert metrics.open_vocabulary_iou(OPEN) == pytest.approx([2 / 3, 1 / 3, math.nan], nan_ok=True)
    reference = metrics.open_vocabulary_means(OPEN, [1, 2], count_absent_but_predicted=True)
    # Three classes with ground truth or prediction, two of them unseen; h = 2 (2/3)(1/6) / (5/6).
    assert reference == pytest.approx((1 / 3, 2 / 3, 1 / 6, 4 / 15, (2 / 3 * 8 + 1 / 3 * 4) / 12))
    # The other denominator is another number for all but the seen classes, so either check can fail.
    by_truth = metrics.open_vocabulary_means(OPEN, [1, 2], count_absent_but_predicted=False)
    assert by_truth == pytest.approx((1 / 2, 2 / 3, 1 / 3, 4 / 9, (2 / 3 * 8 + 1 / 3 * 4) / 12))
    # Counting predictions on unlabelled pixels as false positives: 6/(8+12-6), 2/(4+4-2).
    assert metrics.pooled_iou(OPEN)[:2] == pytest.approx([6 / 14, 1 / 3])
    # The matrix is the caller's.
    assert OPEN[0, 3] == 5


def test_an_unseen_class_that_does_not_occur_counts_only_if_predicted() -> None:
    never_named = OPEN.copy()
    never_named[1, 1] += never_named[2, 1]
    never_named[2] = 0
    means = metrics.open_vocabulary_means(never_named, [1, 2], count_absent_but_predicted=True)
    # TP_1 = 3 of gt 4, predicted 5: 3/6; of the unseen classes only class 1 is in the denominator.
    assert means.unseen == pytest.approx(1 / 2)
    # Named on unlabelled pixels alone is not named.
    never_named[2, 3] = 7
    assert metrics.open_vocabulary_means(never_named, [1, 2], count_absent_but_predicted=True) == means


def test_nothing_predicted_is_a_miss() -> None:
    #                   gt 0  unknown
    matrix = np.array([[4, 0], [4, 0]])
    assert metrics.open_vocabulary_iou(matrix) == pytest.approx([4 / 8])
    # With the oracle's formula, which leaves row N out, half a class not found would be free.
    assert metrics.pooled_iou(matrix[:1, :1]) == pytest.approx([1.0])


def test_groups_without_classes_and_harmonic_means() -> None:
    means = metrics.open_vocabulary_means(OPEN, [], count_absent_but_predicted=True)
    assert means.all == means.seen == pytest.approx(1 / 3)
    assert math.isnan(means.unseen) and math.isnan(means.harmonic)
    empty = metrics.open_vocabulary_means(np.zeros((4, 4), int), [2], count_absent_but_predicted=True)
    assert all(math.isnan(value) for value in empty)
    assert metrics.harmonic_mean(0.6, 0.2) == pytest.approx(0.3)
    assert metrics.harmonic_mean(0.6, 0.0) == metrics.harmonic_mean(0.0, 0.0) == 0.0
    assert math.isnan(metrics.harmonic_mean(0.0, math.nan))


def test_open_vocabulary_means_against_a_count_of_their_own() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        n = int(rng.integers(1, 6))
        matrix = rng.integers(0, 4, (n + 1, n + 1)) * (rng.random((n + 1, n + 1)) < 0.4)
        unseen = [c for c in range(n) if rng.random() < 0.5]
        sums = {True: [0.0, 0], False: [0.0, 0]}  # is unseen -> sum of IoU, classes in the denominator
        by_truth = {True: [0.0, 0], False: [0.0, 0]}
        for c in range(n):
            true = sum(int(matrix[p, c]) for p in range(n + 1))
            predicted = sum(int(matrix[c, g]) for g in range(n))
            if true:
                iou = int(matrix[c, c]) / (true + predicted - int(matrix[c, c]))
                for group in (sums, by_truth):
                    group[c in unseen][0] += iou
                by_truth[c in unseen][1] += 1
            if true or predicted:
                sums[c in unseen][1] += 1
        for flag, group in ((True, sums), (False, by_truth)):
            means = metrics.open_vocabulary_means(matrix, unseen, count_absent_but_predicted=flag)
            seen_mean, unseen_mean = (
                total / count if count else math.nan for total, count in (group[False], group[True])
            )
            count = group[False][1] + group[True][1]
            over_all = (group[False][0] + group[True][0]) / count if count else math.nan
            expected = (over_all, seen_mean, unseen_mean)
            assert means[:3] == pytest.approx(expected, nan_ok=True)


def test_open_vocabulary_recall_by_hand() -> None:
    # TP = 6, 2, 0; gt = 8, 4, 0.
    assert metrics.open_vocabulary_recall(OPEN) == pytest.approx([6 / 8, 2 / 4, math.nan], nan_ok=True)
    # Half found, half predicted to be nothing: a recall without row N would be 1.
    assert metrics.open_vocabulary_recall(np.array([[4, 0], [4, 0]])) == pytest.approx([1 / 2])


def test_group_means_by_hand() -> None:
    values = np.array([0.8, math.nan, 0.4, 0.1, math.nan])
    means = metrics.group_means(values, [3, 4])
    assert means == pytest.approx((1.3 / 3, 0.6, 0.1, 2 * 0.6 * 0.1 / 0.7))
    # The means of IoU over classes with ground truth are these, too.
    by_truth = metrics.open_vocabulary_means(OPEN, [1, 2], count_absent_but_predicted=False)
    assert metrics.group_means(metrics.open_vocabulary_iou(OPEN), [1, 2]) == pytest.approx(by_truth[:4])
    nobody_unseen = metrics.group_means(values)
    assert nobody_unseen.all == nobody_unseen.seen and math.isnan(nobody_unseen.unseen)


# ------------------------------------------------------------------ near the outlines


def square(top: int, left: int, side: int, label: int = 0, size: int = 12, nothing: int = 255) -> np.ndarray:
    labels = np.full((size, size), nothing)
    labels[top : top + side, left : left + side] = label
    return labels


def test_boundary_iou_by_hand() -> None:
    # The diagonal is 17 pixels, 2% of it less than one: d is 1. Of a square of 6 x 6 the ring counts, 36 - 16 = 20
    # pixels; of two, one pixel beside each other, the top and bottom rows share 5 pixels each, and the sides none.
    sums = metrics.boundary_sums(square(2, 3, 6, nothing=2), square(2, 2, 6, nothing=1), 2, 255)
    assert sums[:, 0].tolist() == [10, 20, 20]
    # Class 1 fills the picture but for the hole: 4 * 11 at the picture's border, which is an outline, 28 at the hole's.
    assert sums[:, 1].tolist() == [0, 0, 44 + 28]
    assert metrics.boundary_ious(sums) == pytest.approx([10 / 30, 0.0])
    # Over whole masks the squares have 30 of 42; with d 2 they would have 32 of 36 pixels each near their outlines.
    sums = metrics.boundary_sums(square(0, 0, 6, size=100), square(0, 0, 6, size=100), 1, 255)
    assert sums[:, 0].tolist() == [36, 36, 36]  # d is round(2.83), and all of a square of 6 x 6 is near.
    sums = metrics.boundary_sums(square(9, 9, 10, size=100), square(9, 9, 10, size=100), 1, 255)
    assert sums[:, 0].tolist() == [100 - 16] * 3


def test_boundary_iou_where_the_truth_is_unknown() -> None:
    target = square(2, 2, 6)
    # Everything is called class 0, and what is known of the truth is: the outlines are the same.
    assert metrics.boundary_sums(np.zeros((12, 12), int), target, 1, 255)[:, 0].tolist() == [20, 20, 20]
    # A class that is predicted and never the truth has no score; one that is not found has 0.
    sums = metrics.boundary_sums(np.ones((12, 12), int), target, 2, 255)
    assert metrics.boundary_ious(sums) == pytest.approx([0.0, math.nan], nan_ok=True)


def test_wrong_boundaries_are_other_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    pred, target = square(0, 1, 6, label=2, nothing=1), square(0, 0, 6, label=2, nothing=1)

    def ious() -> list[float]:
        return metrics.boundary_ious(metrics.boundary_sums(pred, target, 3, 255)).tolist()[1:]

    # Two squares in the upper corner share 5 of their rings' 20 pixels at the top and 5 at the bottom: 10 of 30.
    right = ious()
    assert right[1] == pytest.approx(1 / 3)
    wrong: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
        "the picture's border is no outline": lambda m, d: m & (cv2.erode(m.view(np.uint8), np.ones((3, 3))) == 0),
        "on both sides of the outline": lambda m, d: cv2.dilate(m.view(np.uint8), np.ones((3, 3))).astype(bool) & ~m,
        "a cross in place of a square": lambda m, d: (
            m & (cv2.erode(np.pad(m, 1).view(np.uint8), CROSS) == 0)[1:-1, 1:-1]
        ),
        "the whole mask": lambda m, d: m,
        "twice as wide": lambda m, d: near_outline_in_loops(m, 2 * d),
    }
    for name, near_outline in wrong.items():
        with monkeypatch.context() as patch:
            patch.setattr(metrics, "_near_outline", near_outline)
            assert ious() != pytest.approx(right, abs=1e-3), name
    # Detectron2's picture of label numbers minus its erosion calls the squares' rings 2 - 1, which is another class.
    rings = [labels - cv2.erode(labels.astype(np.uint8), np.ones((3, 3))) for labels in (pred, target)]
    assert all((ring <= 1).all() and ring.any() for ring in rings)


CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


def near_outline_in_loops(mask: np.ndarray, distance: int) -> np.ndarray:
    height, width = mask.shape
    near = np.zeros_like(mask)
    for y, x in zip(*np.nonzero(mask)):
        around = [(y + dy, x + dx) for dy in range(-distance, distance + 1) for dx in range(-distance, distance + 1)]
        near[y, x] = not all(0 <= v < height and 0 <= u < width and mask[v, u] for v, u in around)
    return near


def test_boundary_iou_against_loops() -> None:
    rng = np.random.default_rng(4)
    total, expected = np.zeros((3, 3), int), np.zeros((3, 3), int)
    for size in ((7, 9), (5, 70), (100, 60)):  # d: 1, 1, 2
        coarse = rng.integers(0, 4, (2, size[0] // 4 + 1, size[1] // 4 + 1))
        pred, target = (np.kron(labels, np.ones((4, 4), int))[: size[0], : size[1]] for labels in coarse)
        target = np.where(target == 3, 65535, target)  # 3 of the prediction is nothing.
        total += metrics.boundary_sums(pred, target, 3, 65535)
        distance = 2 if size[0] == 100 else 1
        for c in range(3):
            masks = ((pred == c) & (target != 65535), target == c)
            near = [near_outline_in_loops(mask, distance) for mask in masks]
            expected[:, c] += (near[0] & near[1]).sum(), near[0].sum(), near[1].sum()
    assert total.tolist() == expected.tolist() and expected.all()
    assert metrics.boundary_ious(total) == pytest.approx(expected[0] / (expected[1] + expected[2] - expected[0]))


# ------------------------------------------------------------------ over the images that contain the class

# Labels 0, 1 and background 2 in three images.
SQ_IMAGES = [
    np.array([[2, 0, 2], [0, 0, 0], [2, 0, 10]]),  # 0: 2 of a union of 6; background: 10 of 14
    np.array([[0, 0, 8], [0, 3, 1], [0, 1, 3]]),  # 0 predicted, not there; 1: 3 of 5; background: 3 of 13
    np.array([[8, 0, 0], [0, 0, 0], [0, 0, 8]]),  # 0: 8 of 8; background: 8 of 8
]


def test_sq_scores_by_hand() -> None:
    sums = sum(metrics.sq_sums(matrix) for matrix in SQ_IMAGES)
    pooled, by_image = metrics.sq_ious(sums)
    # The 8 false pixels of class 0 in the second image are free.
    assert pooled == pytest.approx([10 / 14, 3 / 5, 21 / 35])
    assert by_image == pytest.approx([(1 / 3 + 1) / 2, 3 / 5, (10 / 14 + 3 / 13 + 1) / 3])
    scores = metrics.sq_scores(sums, ["dog", "dog", "background"])
    assert scores == pytest.approx(
        {
            "mIOU": (5 / 7 + 3 / 5 + 3 / 5) / 3,
            "mAvg": ((5 / 7 + 3 / 5) / 2 + 3 / 5) / 2,
            "sqIOU": (2 / 3 + 3 / 5 + by_image[2]) / 3,
            "sqAvg": ((2 / 3 + 3 / 5) / 2 + by_image[2]) / 2,
        }
    )
    # Pooled over all images, as d2_semseg does, class 0 has 10 of 22.
    assert metrics.pooled_iou(sum(SQ_IMAGES))[0] == pytest.approx(10 / 22)


def test_sq_divides_by_the_images_that_contain_the_class() -> None:
    perfect = [np.diag([4, 0, 12]), np.diag([0, 0, 16])]
    sums = sum(metrics.sq_sums(matrix) for matrix in perfect)
    scores = metrics.sq_scores(sums, ["dog", "cat", "background"])
    # Class 1 is in no image, and so is its category: neither has a score.
    assert scores == {"mIOU": 1.0, "mAvg": 1.0, "sqIOU": 1.0, "sqAvg": 1.0}
    # FLOAT's printed formula divides by both images: a perfect prediction of class 0 would have 1/2.
    assert sums[2, 0] / len(perfect) == 0.5
    with pytest.raises(ValueError, match="categories: expected one for each of 3 labels, got 2"):
        metrics.sq_scores(sums, ["dog", "background"])


def test_a_single_pixel_is_enough_for_a_score() -> None:
    one = np.array([[1, 0], [0, 0]])
    assert metrics.pooled_scores_d2(one) == {"mIoU": 1.0, "mACC": 1.0, "fwIoU": 1.0, "pACC": 1.0}
    assert metrics.sq_sums(one).tolist() == [[1, 0], [1, 0], [1, 0], [1, 0]]
    # Of classes that are nowhere there is nothing near an outline.
    target, pred = np.full((4, 4), 2), np.full((4, 4), 2)
    target[0, 0] = pred[0, 0] = 0
    sums = metrics.boundary_sums(pred, target, 4, 255)
    assert sums[:, [0, 1, 3]].tolist() == [[1, 0, 0]] * 3
    ious = metrics.boundary_ious(sums)
    assert ious[[0, 2]].tolist() == [1, 1] and np.isnan(ious[[1, 3]]).all()


def test_one_wrong_value_among_right_ones_is_refused() -> None:
    with pytest.raises(ValueError, match=r"labels: expected numbers in 0..2, got \[-1, 0\]"):
        metrics.pooled_scores_d2(MATRIX, [-1, 0])
    with pytest.raises(ValueError, match="matrix: expected counts, got -1"):
        metrics.pooled_iou(np.array([[1, -1], [0, 2]]))
    for mask in (np.array([[0, 1, 2]]), torch.tensor([[0, 1, 2]])):
        with pytest.raises(ValueError, match="pred: expected bool or only 0 and 1"):
            binary_iou(mask, np.array([[0, 1, 1]]))
    # As much found as missed is no empty mask.
    assert binary_iou(np.array([[1, 0]]), np.array([[1, 1]])) == 0.5


def test_a_category_is_the_mean_of_its_own_labels() -> None:
    """Labels 0 and 1 of one category, 2 and 3 of two more: IoU 1, 0, 0.5, 0."""
    matrix = np.array([[4, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0], [0, 3, 1, 2, 0]])
    scores = metrics.sq_scores(metrics.sq_sums(matrix)[:, :4], ["a", "a", "b", "c"])
    assert scores["mIOU"] == pytest.approx((1 + 0 + 0.5 + 0) / 4)
    assert scores["mAvg"] == pytest.approx((0.5 + 0.5 + 0) / 3)
