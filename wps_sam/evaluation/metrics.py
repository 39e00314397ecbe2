"""The arithmetic of every evaluation protocol: pure functions of masks, label maps and counts.

Scores are fractions in 0..1; the evaluators turn them into percent. N labels, H x W pixels; ``M[p, g]`` is a
confusion matrix with rows predicted and columns ground truth. "Pooled" means that pixels are added up over
the whole data set before anything is divided; "binary" means one mask against one mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch

Mask = np.ndarray | torch.Tensor


def confusion_matrix(
    pred: np.ndarray, target: np.ndarray, num_labels: int, ignore_label: int | None = None
) -> np.ndarray:
    """Counts the pixels of every (predicted, true) pair of labels; matrices of several images add up.

    Args:
        pred: integer [H, W], labels 0..num_labels-1.
        target: integer [H, W], labels 0..num_labels-1, or ``ignore_label`` where nothing is known: those
            pixels count nowhere, whatever is predicted there.
        num_labels: N, background included if it is a label.
        ignore_label: a number outside 0..N-1 (255 is a class of a 256-class map, so it is never assumed).

    Returns:
        int64 [N, N], M[predicted, true].

    Raises:
        ValueError: shapes or types differ from the above, or a label is out of range.

    Source: Detectron2's semantic-segmentation evaluator, whose row and column N (ignore) its formulas leave out.
    torchmetrics' ``multiclass_confusion_matrix`` counts the same, but its import alone takes seconds, and under
    deterministic algorithms it needs a table of N * N numbers for every pixel.
    """
    pred, target = np.asarray(pred), np.asarray(target)
    for name, labels in (("pred", pred), ("target", target)):
        if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"{name}: expected integers [H, W], got {labels.dtype} {list(labels.shape)}")
    if pred.shape != target.shape:
        raise ValueError(f"pred and target must have one size, got {list(pred.shape)} and {list(target.shape)}")
    if ignore_label is not None and 0 <= ignore_label < num_labels:
        raise ValueError(f"ignore_label: expected a number outside 0..{num_labels - 1}, got {ignore_label}")
    if ignore_label is None:
        counted_pred, counted_target = pred.reshape(-1), target.reshape(-1)
    else:
        counted = target != ignore_label
        counted_pred, counted_target = pred[counted], target[counted]
    # The widest type first: N * pred overflows the 8 bits of a label map.
    counted_pred, counted_target = counted_pred.astype(np.int64), counted_target.astype(np.int64)
    for name, labels in (("pred", counted_pred), ("target", counted_target)):
        if labels.size and not (0 <= labels.min() and labels.max() < num_labels):
            raise ValueError(
                f"{name}: expected labels in 0..{num_labels - 1}"
                f"{'' if ignore_label is None else f' (ignore: {ignore_label})'}, "
                f"got {labels.min()}..{labels.max()}"
            )
    counts = np.bincount(num_labels * counted_pred + counted_target, minlength=num_labels * num_labels)
    return counts.reshape(num_labels, num_labels)


def pooled_iou(matrix: np.ndarray) -> np.ndarray:
    """Per label, pixels pooled: IoU_c = TP_c / (gt_c + pr_c - TP_c); NaN where the label is in neither map.

    Args:
        matrix: integer [N, N], M[predicted, true].

    Returns:
        float64 [N] in 0..1. A label that is predicted but never true has 0 here; whether that 0 enters a mean
        is where the protocols differ.
    """
    tp, gt, pr = _tp_gt_pr(matrix)
    return _divide(tp, gt + pr - tp)


def pooled_accuracy(matrix: np.ndarray) -> np.ndarray:
    """Per label, pixels pooled: acc_c = TP_c / gt_c (a recall); NaN where the label never is the truth.

    Args:
        matrix: integer [N, N], M[predicted, true].

    Returns:
        float64 [N] in 0..1.
    """
    tp, gt, _ = _tp_gt_pr(matrix)
    return _divide(tp, gt)


def pooled_outside(matrix: np.ndarray) -> np.ndarray:
    """Per label, pixels pooled: the share of the prediction that lies outside the truth, 1 - TP_c / pr_c (a precision's
    complement); NaN where the label is never predicted.

    Args:
        matrix: integer [N, N], M[predicted, true].

    Returns:
        float64 [N] in 0..1. Source: HOPS' over-segmentation index.
    """
    tp, _, pr = _tp_gt_pr(matrix)
    return 1 - _divide(tp, pr)


def pooled_scores_d2(matrix: np.ndarray, labels: Sequence[int] | None = None) -> dict[str, float]:
    """Pooled scores in the convention of today's Detectron2: means over labels that occur (gt_c > 0).

    mIoU and mACC are plain means over labels with gt_c > 0; fwIoU = sum IoU_c gt_c / sum gt_c;
    pACC = sum TP_c / sum gt_c. A label that is predicted but never true costs only the labels whose pixels it took.

    Args:
        matrix: integer [N, N], M[predicted, true].
        labels: the labels to average over, all by default. The others still take part as rows and columns:
            without background in this list, part pixels predicted on background stay false positives.

    Returns:
        mIoU, mACC, fwIoU, pACC in 0..1; NaN where no label of the list occurs.

    Source: Detectron2, ``SemSegEvaluator`` of its main branch (protocol ``d2_semseg``).
    """
    return _pooled_scores(matrix, labels, count_absent_but_predicted=False)


def pooled_scores_pin41(matrix: np.ndarray, labels: Sequence[int] | None = None) -> dict[str, float]:
    """Pooled scores in the convention of the PartImageNet baselines: mIoU over labels with gt_c + pr_c > 0.

    As :func:`pooled_scores_d2`, except that in mIoU a label that is predicted but never true counts as 0.
    mACC stays a mean over labels with gt_c > 0: there is no recall of what does not occur.

    Args:
        matrix: integer [N, N], M[predicted, true].
        labels: the labels to average over, all by default (PartImageNet: 40 parts and background).

    Returns:
        mIoU, mACC, fwIoU, pACC in 0..1; NaN where nothing can be averaged.

    Source: Detectron2's earlier releases, kept by Compositor for PartImageNet (protocol ``pin41``).
    """
    return _pooled_scores(matrix, labels, count_absent_but_predicted=True)


def _pooled_scores(
    matrix: np.ndarray, labels: Sequence[int] | None, count_absent_but_predicted: bool
) -> dict[str, float]:
    tp, gt, pr = _tp_gt_pr(matrix)
    chosen = np.arange(len(tp)) if labels is None else np.asarray(labels, dtype=np.int64)
    if chosen.size and not (0 <= chosen.min() and chosen.max() < len(tp)):
        raise ValueError(f"labels: expected numbers in 0..{len(tp) - 1}, got {chosen.tolist()}")
    iou, accuracy = pooled_iou(matrix)[chosen], pooled_accuracy(matrix)[chosen]
    tp, gt, pr = tp[chosen], gt[chosen], pr[chosen]
    occurs = gt > 0
    averaged = (gt + pr > 0) if count_absent_but_predicted else occurs
    return {
        "mIoU": _mean(iou[averaged]),
        "mACC": _mean(accuracy[occurs]),
        "fwIoU": _ratio(float((iou[occurs] * gt[occurs]).sum()), float(gt.sum())),
        "pACC": _ratio(float(tp.sum()), float(gt.sum())),
    }


def _tp_gt_pr(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.issubdtype(matrix.dtype, np.integer):
        raise ValueError(f"matrix: expected integers [N, N], got {matrix.dtype} {list(matrix.shape)}")
    if matrix.size and matrix.min() < 0:
        raise ValueError(f"matrix: expected counts, got {matrix.min()}")
    counts = matrix.astype(np.float64)
    return counts.diagonal(), counts.sum(axis=0), counts.sum(axis=1)


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 else float("nan")


class OpenVocabularyMeans(NamedTuple):
    """IoU averaged over all classes, over the seen and the unseen ones; harmonic mean of these two; fwIoU."""

    all: float
    seen: float
    unseen: float
    harmonic: float
    frequency_weighted: float


def open_vocabulary_iou(matrix: np.ndarray) -> np.ndarray:
    """Per class, pixels pooled: IoU_c = TP_c / (gt_c + pr_c - TP_c); NaN for a class without ground truth.

    gt_c counts row N, so a pixel that is predicted to be nothing is a miss of its true class. In ov_oracle no
    such pixel is possible, and this is the reference's formula. Pixels without true class, column N, are out.

    Args:
        matrix: integer [N + 1, N + 1], M[predicted, true]; row N: predicted nothing (no object, background);
            column N: truth unknown.

    Returns:
        float64 [N] in 0..1.

    Source: OV-PARTS' evaluator; for row N its authors' definition of Pred-Obj.
    """
    known = _truth_known(matrix)
    occurs = np.isfinite(pooled_accuracy(known))
    return np.where(occurs, pooled_iou(known), np.nan)[:-1]


def open_vocabulary_means(
    matrix: np.ndarray, unseen: Sequence[int] = (), *, count_absent_but_predicted: bool
) -> OpenVocabularyMeans:
    """Means of :func:`open_vocabulary_iou` over all classes, the seen ones and the unseen ones.

    The sum of IoU_c over classes with ground truth is divided by the number of classes with ground truth or
    prediction (``count_absent_but_predicted``: OV-PARTS, which keeps an old formula of Detectron2), or of
    those with ground truth (PartCLIPSeg). fwIoU = sum IoU_c gt_c / sum gt_c, the same for both.

    Args:
        matrix: as in :func:`open_vocabulary_iou`.
        unseen: the classes 0..N-1 that training did not show; the others are seen.

    Returns:
        Fractions 0..1; NaN for a group in which nothing is to be averaged, and for what depends on it.
    """
    known = _truth_known(matrix)
    classes = range(len(known) - 1)
    seen = sorted(set(classes) - set(unseen))
    scores = [_pooled_scores(known, group, count_absent_but_predicted) for group in (classes, seen, unseen)]
    of_all, of_seen, of_unseen = (group["mIoU"] for group in scores)
    harmonic = harmonic_mean(of_seen, of_unseen)
    return OpenVocabularyMeans(of_all, of_seen, of_unseen, harmonic, scores[0]["fwIoU"])


def open_vocabulary_recall(matrix: np.ndarray) -> np.ndarray:
    """Per class, pixels pooled: TP_c / gt_c, a pixel that is predicted to be nothing a miss; NaN without ground truth.

    Args:
        matrix: as in :func:`open_vocabulary_iou`.

    Returns:
        float64 [N] in 0..1. Source: PartCLIPSeg's evaluator, whose "mACC" is the same number.
    """
    return pooled_accuracy(_truth_known(matrix))[:-1]


def boundary_sums(pred: np.ndarray, target: np.ndarray, num_classes: int, ignore_label: int) -> np.ndarray:
    """What one image adds to :func:`boundary_ious`; sums of several images add up.

    Of each class only the pixels of its mask that are near the mask's own outline count: those from which a pixel
    outside of the mask, or of the image, is at most d rows and d columns away, where d is 2% of the image's diagonal,
    at least 1. Where the truth is unknown nothing is predicted, so that a mask has an outline there.

    Args:
        pred: integer [H, W], the class of each pixel; any other number for none.
        target: integer [H, W], classes 0..num_classes-1, or ``ignore_label`` where nothing is known.
        num_classes: N.
        ignore_label: a number outside 0..N-1.

    Returns:
        int64 [3, N], pixels of each class: near both outlines, near that of the prediction, near that of the truth.

    Source: Cheng et al., "Boundary IoU", CVPR 2021 (arXiv 2103.16562). Detectron2 and PartCLIPSeg erode one picture of
    all labels' numbers and subtract it: where 3 and 7 meet, that leaves a label 4 on one side and 0 on the other.
    """
    distance = max(1, round(0.02 * float(np.hypot(*target.shape))))
    shown = np.where(target == ignore_label, ignore_label, pred)
    sums = np.zeros((3, num_classes), np.int64)
    for label in np.union1d(shown, target).tolist():
        if 0 <= label < num_classes:
            near_pred, near_target = (_near_outline(labels == label, distance) for labels in (shown, target))
            sums[:, label] = (near_pred & near_target).sum(), near_pred.sum(), near_target.sum()
    return sums


def _near_outline(mask: np.ndarray, distance: int) -> np.ndarray:
    """The pixels of a mask that a square of ``distance`` to all sides takes off it; both bool [H, W]."""
    square = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    inner = cv2.erode(mask.view(np.uint8), square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return mask & (inner == 0)


def boundary_ious(sums: np.ndarray) -> np.ndarray:
    """Boundary IoU of each class, pixels pooled; NaN for a class without ground truth.

    Args:
        sums: integer [3, N], :func:`boundary_sums` added up over the images.

    Returns:
        float64 [N] in 0..1.
    """
    tp, pr, gt = np.asarray(sums, np.float64)
    return np.where(gt > 0, _divide(tp, gt + pr - tp), np.nan)


class GroupMeans(NamedTuple):
    """A score averaged over all classes, over the seen and the unseen ones; harmonic mean of these two."""

    all: float
    seen: float
    unseen: float
    harmonic: float


def group_means(values: np.ndarray, unseen: Sequence[int] = ()) -> GroupMeans:
    """Plain means of a class's score, over the classes that have one.

    Args:
        values: float64 [N], NaN for a class without ground truth.
        unseen: the classes 0..N-1 that training did not show; the others are seen.

    Returns:
        Means; NaN for a group in which no class has a score, and for what depends on it.
    """
    is_unseen = np.isin(np.arange(len(values)), np.asarray(unseen, np.int64))
    of_seen, of_unseen = _mean_of_known(values[~is_unseen]), _mean_of_known(values[is_unseen])
    return GroupMeans(_mean_of_known(values), of_seen, of_unseen, harmonic_mean(of_seen, of_unseen))


def harmonic_mean(seen: float, unseen: float) -> float:
    """2 s u / (s + u): near the smaller of the two; 0 where both are 0, NaN where one is."""
    return 0.0 if seen == unseen == 0 else 2 * seen * unseen / (seen + unseen)


def _truth_known(matrix: np.ndarray) -> np.ndarray:
    """The matrix without the pixels whose truth is unknown, column N."""
    known = np.array(matrix)
    known[:, -1] = 0
    return known


def sq_sums(matrix: np.ndarray) -> np.ndarray:
    """What one image adds to the scores of :func:`sq_scores`; sums of several images add up.

    Args:
        matrix: integer [N, N], M[predicted, true], of ONE image.

    Returns:
        float64 [4, N]: pixels of the intersection, pixels of the union, IoU, and 1, all of them 0 for a label that
        the image does not hold, whatever is predicted there.
    """
    tp, gt, pr = _tp_gt_pr(matrix)
    union = gt + pr - tp
    sums = np.stack([tp, union, _divide(tp, union), np.ones_like(tp)])
    return np.where(gt > 0, sums, 0.0)


def sq_ious(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU of each label over the images that hold it: pixels pooled, and the mean of the images' own IoU.

    Args:
        sums: float64 [4, N], :func:`sq_sums` added up over the images.

    Returns:
        Two float64 [N] in 0..1; NaN for a label that no image holds.
    """
    return _divide(sums[0], sums[1]), _divide(sums[2], sums[3])


def sq_scores(sums: np.ndarray, categories: Sequence[str]) -> dict[str, float]:
    """The scores of Pascal-Part-58 / 108 / 201: false positives in images without the class are free.

    mIOU and sqIOU: plain means of :func:`sq_ious` over labels. mAvg and sqAvg: the mean over object categories of the
    mean over each category's labels. Labels that no image holds are left out of all of them.

    Args:
        sums: as in :func:`sq_ious`.
        categories: N names, the object category of each label; background is one of its own.

    Returns:
        mIOU, mAvg, sqIOU, sqAvg in 0..1; NaN where no label occurs.

    Source: FLOAT, CVPR 2022. It prints sqIOU with a division by the number of all images; only the number of
    images that contain the class makes a perfect prediction 1.
    """
    pooled, by_image = sq_ious(sums)
    return {
        "mIOU": _mean_of_known(pooled),
        "mAvg": _mean_over_categories(pooled, categories),
        "sqIOU": _mean_of_known(by_image),
        "sqAvg": _mean_over_categories(by_image, categories),
    }


def _mean_of_known(values: np.ndarray) -> float:
    return _mean(values[np.isfinite(values)])


def _mean_over_categories(values: np.ndarray, categories: Sequence[str]) -> float:
    if len(categories) != len(values):
        raise ValueError(f"categories: expected one for each of {len(values)} labels, got {len(categories)}")
    members = np.asarray(categories)
    means = [_mean_of_known(values[members == category]) for category in dict.fromkeys(categories)]
    return _mean_of_known(np.asarray(means))


class BinaryStats(NamedTuple):
    """Pixels of one predicted mask against one true mask."""

    tp: int
    fp: int
    fn: int
    tn: int


def binary_stats(pred: Mask, target: Mask) -> BinaryStats:
    """True and false positives and negatives of one pair of masks, in pixels.

    Args:
        pred, target: [H, W], bool or numbers that are all 0 or 1; numpy arrays or tensors.

    Raises:
        ValueError: not 2-D, empty, of different sizes, or with other values than 0 and 1.
    """
    pred, target = _as_masks(pred, target)
    tp = int((pred & target).sum())
    predicted, true = int(pred.sum()), int(target.sum())
    return BinaryStats(tp, predicted - tp, true - tp, pred.numel() - predicted - true + tp)


def binary_iou(pred: Mask, target: Mask) -> float:
    """IoU of one pair of masks, over all their pixels at once: TP / (TP + FP + FN).

    Args:
        pred, target: as in :func:`binary_stats`; ``target`` must hold at least one pixel.

    Returns:
        0..1.

    Raises:
        ValueError: as in :func:`binary_stats`, or ``target`` is empty: then there is nothing to find.
    """
    stats = _stats_of_a_part(pred, target)
    return stats.tp / (stats.tp + stats.fp + stats.fn)


def binary_recall(pred: Mask, target: Mask) -> float:
    """Share of the true mask's pixels that are predicted: TP / (TP + FN). Arguments as in :func:`binary_iou`."""
    stats = _stats_of_a_part(pred, target)
    return stats.tp / (stats.tp + stats.fn)


def binary_f1(pred: Mask, target: Mask) -> float:
    """F1 (Dice) of one pair of masks: 2 TP / (2 TP + FP + FN). Arguments as in :func:`binary_iou`."""
    stats = _stats_of_a_part(pred, target)
    return 2 * stats.tp / (2 * stats.tp + stats.fp + stats.fn)


def _stats_of_a_part(pred: Mask, target: Mask) -> BinaryStats:
    stats = binary_stats(pred, target)
    if stats.tp + stats.fn == 0:
        raise ValueError("target: expected a mask with at least one pixel, got an empty one")
    return stats


def row_mean_iou(pred: Mask, target: Mask) -> float:
    """The WPS-SAM authors' row-wise score: the mean over pixel ROWS of each row's own IoU. Not the mask's IoU.

    IoU_r = TP_r / (TP_r + FP_r + FN_r), and 1 where row r is empty in both masks; then the plain mean over
    all H rows. Two disjoint 160-pixel squares side by side in 1024 rows score 0.84; the true IoU is 0. It exists
    only to stand beside the published 68.93.

    Args:
        pred, target: as in :func:`binary_stats`; ``target`` may be empty.

    Returns:
        0..1.

    Raises:
        ValueError: as in :func:`binary_stats`.

    Source: segmentation_models_pytorch's ``get_stats(mode="binary")`` and ``iou_score(reduction="micro-imagewise")``
    called on a 2-D mask, as the authors' released code does: it takes the first axis for images.
    """
    tp, fp, fn = _row_counts(pred, target)
    return _row_mean(tp, tp + fp + fn)


def row_mean_f1(pred: Mask, target: Mask) -> float:
    """The authors' row-wise F1: mean over rows of 2 TP_r / (2 TP_r + FP_r + FN_r), 1 where a row is empty in both.

    Arguments, result, errors and source as in :func:`row_mean_iou`.
    """
    tp, fp, fn = _row_counts(pred, target)
    return _row_mean(2 * tp, 2 * tp + fp + fn)


def _row_counts(pred: Mask, target: Mask) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    pred, target = _as_masks(pred, target)
    tp = (pred & target).sum(dim=1)
    return tp, pred.sum(dim=1) - tp, target.sum(dim=1) - tp


def _row_mean(numerator: torch.Tensor, denominator: torch.Tensor) -> float:
    empty = denominator == 0
    # double: 1024 single-precision fractions added up would already use up the agreed 1e-6.
    scores = numerator.double() / denominator.clamp(min=1).double()
    return float(scores.masked_fill(empty, 1.0).mean())


def pixel_accuracy(pred: Mask, target: Mask) -> float:
    """(TP + TN) / (H W), true negatives included, so an empty prediction of a small part scores nearly 1.

    Arguments as in :func:`row_mean_iou`. Source: the "accuracy" of the WPS-SAM authors' released code.
    """
    stats = binary_stats(pred, target)
    return (stats.tp + stats.tn) / sum(stats)


def _as_masks(pred: Mask, target: Mask) -> tuple[torch.Tensor, torch.Tensor]:
    pred, target = _as_mask("pred", pred), _as_mask("target", target)
    if pred.shape != target.shape:
        raise ValueError(f"pred and target must have one size, got {list(pred.shape)} and {list(target.shape)}")
    return pred, target


def _as_mask(name: str, mask: Mask) -> torch.Tensor:
    if not isinstance(mask, (np.ndarray, torch.Tensor)):
        raise ValueError(f"{name}: expected an array or tensor [H, W], got {type(mask).__name__}")
    if mask.ndim != 2 or 0 in mask.shape:
        raise ValueError(f"{name}: expected a mask [H, W], got shape {list(mask.shape)}")
    if isinstance(mask, np.ndarray):
        # numpy's own arithmetic first: it knows every integer type, and a view that runs backwards.
        foreground, is_binary = torch.from_numpy(mask == 1), bool(((mask == 0) | (mask == 1)).all())
    elif mask.dtype == torch.bool:
        return mask
    else:
        foreground, is_binary = mask == 1, bool(((mask == 0) | (mask == 1)).all())
    if not is_binary:
        raise ValueError(f"{name}: expected bool or only 0 and 1, got {mask.dtype} values; threshold it first")
    return foreground
