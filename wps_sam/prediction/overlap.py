"""Parts that were found twice."""

from __future__ import annotations

import numpy as np

from ..masks import mask_to_box

# Parts of one name are the same part where their masks have a larger IoU.
SAME_PART_IOU = 0.5


def different_parts(masks: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Of parts of one class whose masks cover each other mostly, with an IoU above SAME_PART_IOU, the first stays.

    Args:
        masks: bool [K, H, W], the surest part first, none empty.
        classes: int [K].

    Returns:
        int64 [k]: the places of those that stay, ascending.
    """
    areas = masks.sum(axis=(1, 2))
    kept: list[int] = []
    for k, mask in enumerate(masks):
        x0, y0, x1, y1 = map(int, mask_to_box(mask))
        inside = slice(y0, y1), slice(x0, x1)
        rivals = [j for j in kept if classes[j] == classes[k]]
        shared = [int((masks[j][inside] & mask[inside]).sum()) for j in rivals]
        if all(s <= SAME_PART_IOU * (areas[j] + areas[k] - s) for j, s in zip(rivals, shared)):
            kept.append(k)
    return np.array(kept, dtype=np.int64)


def parts_to_show(masks: np.ndarray, scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Of what a model found, the parts that are shown: none without a pixel, none twice; the surest first.

    Args:
        masks: bool [K, H, W].
        scores: float [K].
        classes: int [K].

    Returns:
        int64 [k]: the places of those parts.
    """
    kept = np.flatnonzero(masks.any(axis=(1, 2)))
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    return kept[different_parts(masks[kept], classes[kept])]
