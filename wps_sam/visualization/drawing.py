"""What can be drawn: part maps, part instances, weak labels, and a comparison with the ground truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wps_sam.structures import LabelKind
from wps_sam.visualization.layout import LegendEntry, compose
from wps_sam.visualization.overlay import Overlay

import numpy as np

ALPHA = 0.55

# Draws K shapes (masks, boxes or points) of K classes, with K texts.
_Paint = Callable[[Overlay, np.ndarray, Sequence[int], Sequence[str]], None]


def draw_part_map(
    image: np.ndarray, part_map: np.ndarray, names: Sequence[str], *, alpha: float = ALPHA, legend: bool = True
) -> np.ndarray:
    """Paints a part map over an image.

    Args:
        image: uint8 [H, W, 3] RGB.
        part_map: integer [H, W]; 0..C-1 are parts, everything else (background, ignored) is left bare.
        names: the C class names.
        alpha: opacity of the parts, 0 to 1.
        legend: also put the colours and names of the classes present below the picture.

    Returns:
        uint8 [H', W', 3] RGB: small images are enlarged by a whole factor, very large ones shrunk.

    Raises:
        ValueError: shapes or types do not fit.
    """
    overlay = Overlay(image, names, fade=True)
    present = overlay.part_map(part_map, alpha)
    return overlay.finish(present if legend else [])


def draw_instances(
    image: np.ndarray,
    masks: np.ndarray,
    classes: Sequence[int] | np.ndarray,
    names: Sequence[str],
    *,
    scores: Sequence[float] | np.ndarray | None = None,
    boxes: np.ndarray | None = None,
    alpha: float = ALPHA,
    legend: bool = True,
) -> np.ndarray:
    """Paints part instances, each with its name (and score in percent).

    Args:
        image: uint8 [H, W, 3] RGB.
        masks: bool [K, H, W].
        classes: K class ids in 0..C-1.
        names: the C class names.
        scores: K values in 0..1.
        boxes: float [K, 4], x0, y0, x1, y1 in pixels of the image.
        alpha, legend: as in :func:`draw_part_map`.

    Returns:
        uint8 [H', W', 3] RGB.

    Raises:
        ValueError: shapes or types do not fit.
    """
    overlay = Overlay(image, names, fade=True)
    classes = overlay.check_classes(classes)
    count = len(classes)
    masks = overlay.check_masks(masks, count)
    boxes = overlay.check_rows("boxes", boxes, count, 4)
    labels = [names[c] for c in classes]
    if scores is not None:
        if len(scores) != count:
            raise ValueError(f"scores: expected {count} values, got {len(scores)}")
        labels = [f"{label} {100 * float(score):.0f}%" for label, score in zip(labels, scores)]
    _paint_masks(overlay, masks, classes, labels, alpha, boxes)
    return overlay.finish(sorted(set(classes)) if legend else [])


def draw_weak_labels(
    image: np.ndarray,
    classes: Sequence[int] | np.ndarray,
    names: Sequence[str],
    *,
    boxes: np.ndarray | None = None,
    points: np.ndarray | None = None,
    masks: np.ndarray | None = None,
    kinds: Sequence[str] | None = None,
    legend: bool = True,
) -> np.ndarray:
    """Draws the weak labels of one image with their names.

    Args:
        image: uint8 [H, W, 3] RGB.
        classes: M class ids in 0..C-1.
        names: the C class names.
        boxes: float [M, 4], x0, y0, x1, y1 in pixels, corners continuous; or None.
        points: float [M, 2], x, y in pixels, whole numbers being pixel centres (SAM's convention); or None.
        masks: bool [M, H, W], painted as by :func:`draw_instances`; or None. Needs ``kinds``.
        kinds: how each label is drawn, M of "box", "point" and "mask"; rows of ``boxes``, ``points`` and
            ``masks`` that belong to labels of another kind are not looked at. None: all are boxes, or all points.
        legend: also put the colours and names of the classes present below the picture.

    Returns:
        uint8 [H', W', 3] RGB.

    Raises:
        ValueError: shapes or types do not fit, a kind is unknown or what it draws is missing, or, without kinds,
            not exactly one of boxes and points is given.
    """
    given = None if kinds is None else list(kinds)
    # Only paint needs a faded photo under it.
    overlay = Overlay(image, names, fade=given is not None and "mask" in given)
    classes = overlay.check_classes(classes)
    count = len(classes)
    if given is None:
        if masks is not None:
            raise ValueError("draw_weak_labels: masks were given, so expected kinds, got None")
        if (boxes is None) == (points is None):
            raise ValueError("draw_weak_labels: expected either boxes or points")
        given = ["point" if boxes is None else "box"] * count
    if len(given) != count or not set(given) <= {"box", "point", "mask"}:
        raise ValueError(f"kinds: expected {count} of 'box', 'point' and 'mask', one a class, got {given}")
    masks = None if masks is None else overlay.check_masks(masks, count)
    boxes = overlay.check_rows("boxes", boxes, count, 4)
    points = overlay.check_rows("points", points, count, 2)
    # Masks first: their paint would cover the others.
    steps: tuple[tuple[str, str, np.ndarray | None, _Paint], ...] = (
        ("mask", "masks", masks, _paint_masks),
        ("box", "boxes", boxes, _paint_boxes),
        ("point", "points", points, _paint_points),
    )
    for kind, field, rows, paint in steps:
        chosen = [k for k in range(count) if given[k] == kind]
        if not chosen:
            continue
        if rows is None:
            raise ValueError(f"{field}: expected one for label {chosen[0]} of kind {kind!r}, got None")
        paint(overlay, rows[chosen], [classes[k] for k in chosen], [names[classes[k]] for k in chosen])
    return overlay.finish(sorted(set(classes)) if legend else [])


def draw_model_input(model_input: Mapping[str, Any], names: Sequence[str], *, legend: bool = True) -> np.ndarray:
    """Draws what a training is shown of one picture: :func:`draw_weak_labels` of a mapper's output.

    Args:
        model_input: of :class:`wps_sam.data.PartDatasetMapper` or another mapper in training, with its pixels.
        names, legend: as in :func:`draw_weak_labels`.

    Returns:
        uint8 [H', W', 3] RGB.
    """
    labels = model_input["instances"]
    # Models that are trained on masks alone have no other kind.
    numbers = labels.gt_kinds.tolist() if labels.has("gt_kinds") else [LabelKind.MASK] * len(labels)
    return draw_weak_labels(
        model_input["image"].permute(1, 2, 0).numpy(),
        labels.gt_classes.numpy(),
        names,
        boxes=labels.gt_boxes.tensor.numpy() if labels.has("gt_boxes") else None,
        points=labels.gt_points.numpy() if labels.has("gt_points") else None,
        masks=labels.gt_masks.tensor.numpy() if labels.has("gt_masks") else None,
        kinds=[LabelKind(number).name.lower() for number in numbers],
        legend=legend,
    )


def side_by_side(
    image: np.ndarray,
    ground_truth: np.ndarray | None,
    prediction: np.ndarray,
    names: Sequence[str],
    *,
    true_boxes: tuple[Sequence[int], np.ndarray] | None = None,
    titles: Sequence[str] = ("picture", "ground truth", "prediction"),
    alpha: float = ALPHA,
) -> np.ndarray:
    """Picture, ground truth and prediction beside each other, with titles and one legend.

    The legend holds the classes present in either, and says which the prediction missed or added.

    Args:
        image: uint8 [H, W, 3] RGB.
        ground_truth, prediction: integer [H, W]; 0..C-1 are parts, all else is left bare. Without
            ground truth (None) there are two panels.
        true_boxes: classes and boxes, as in :func:`draw_weak_labels`, of true parts whose pixels nobody knows: these
            are drawn over the ground truth.
        names: the C class names.
        titles: three, for picture, ground truth and prediction.
        alpha: opacity of the parts, 0 to 1.

    Returns:
        uint8 [H', W', 3] RGB; panels of wide images stand below each other.

    Raises:
        ValueError: shapes or types do not fit.
    """
    if len(titles) != 3:
        raise ValueError(f"titles: expected three (picture, ground truth, prediction), got {list(titles)}")
    plain = Overlay(image, names, fade=False)
    panels, present = [(titles[0], plain.picture())], []
    for title, part_map, boxed in zip(titles[1:], (ground_truth, prediction), (true_boxes, None)):
        if part_map is not None:
            classes, boxes = boxed or ((), np.zeros((0, 4)))
            # Only paint needs a faded photo under it.
            is_painted = bool(np.isin(part_map, range(len(names))).any())
            overlay = Overlay(image, names, fade=is_painted or not len(classes))
            found = overlay.part_map(part_map, alpha)
            classes = overlay.check_classes(classes)
            rows = overlay.check_rows("true_boxes", boxes, len(classes), 4)
            if rows is not None:
                _paint_boxes(overlay, rows, classes, [names[c] for c in classes])
            present.append(sorted({*found, *classes}))
            panels.append((title, overlay.picture()))
    shown = sorted(set().union(*present))
    entries = [LegendEntry(names[c], plain.color(c), _remark(c, present)) for c in shown]
    return compose(panels, entries, plain.font_size)


def _remark(part: int, present: list[list[int]]) -> str:
    if len(present) < 2 or (part in present[0] and part in present[1]):
        return ""
    return "missed" if part in present[0] else "extra"


def _paint_masks(
    overlay: Overlay,
    masks: np.ndarray,
    classes: Sequence[int],
    texts: Sequence[str],
    alpha: float = ALPHA,
    boxes: np.ndarray | None = None,
) -> None:
    """Masks bool [K, H, W], small ones over large ones, each with its box if there are ``boxes`` [K, 4]."""
    largest_first = np.argsort(-masks.sum(axis=(1, 2)), kind="stable")
    for k in largest_first:
        overlay.mask(masks[k], classes[k], alpha)
        if boxes is not None:
            overlay.box(boxes[k], classes[k])
    for k in largest_first:
        overlay.name_mask(texts[k], masks[k], classes[k])


def _paint_boxes(overlay: Overlay, boxes: np.ndarray, classes: Sequence[int], texts: Sequence[str]) -> None:
    """Boxes [K, 4]."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    largest_first = np.argsort(-areas, kind="stable")
    for k in largest_first:
        overlay.box(boxes[k], classes[k])
    # The smallest get the best places for their names: they have few others.
    for k in largest_first[::-1]:
        overlay.name_corner(texts[k], boxes[k], classes[k])


def _paint_points(overlay: Overlay, points: np.ndarray, classes: Sequence[int], texts: Sequence[str]) -> None:
    """Points [K, 2], whole numbers being pixel centres."""
    centers = points + 0.5
    for center, part in zip(centers, classes):
        overlay.point(center, part)
    for center, part, text in zip(centers, classes, texts):
        overlay.name_point(text, center, part)
