"""Parts in Label Studio's form: one region a part and kind of label; places are percents of the picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..data.imports.brush import pack
from ..masks import deepest_pixel, mask_to_box
from ..prediction import PartPrediction
from .labelling import Control

# How large Label Studio draws a keypoint, in percents of the picture's width.
_POINT_WIDTH = 0.5


def regions_of(parts: PartPrediction, controls: Sequence[Control]) -> list[dict[str, Any]]:
    """The regions of a picture's parts: each in every control that has a label for it, and that does not ask."""
    return [
        region(control, label, part.mask, f"{control.name}-{number}", part.score)
        for number, part in enumerate(parts, start=1)
        for control in controls
        if not control.smart and (label := control.label_of(part.name)) is not None and part.mask.any()
    ]


def region(control: Control, label: str, mask: np.ndarray, name: str, score: float | None = None) -> dict[str, Any]:
    """A mask bool [H, W], not empty, in the form of a control: the mask itself, its box, or its deepest pixel."""
    height, width = mask.shape
    about = {
        **{"id": name, "from_name": control.name, "to_name": control.to_name, "type": control.kind},
        **{"original_width": width, "original_height": height, "image_rotation": 0},
        "value": {**_VALUES[control.kind](mask), control.kind: [label]},
    }
    return about if score is None else {**about, "score": round(score, 6)}


def _brush(mask: np.ndarray) -> dict[str, Any]:
    return {"format": "rle", "rle": pack(mask)}


def _rectangle(mask: np.ndarray) -> dict[str, Any]:
    x0, y0, x1, y1 = _percents(mask, *mask_to_box(mask))
    return {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0, "rotation": 0}


def _key_point(mask: np.ndarray) -> dict[str, Any]:
    column, row = deepest_pixel(mask)
    x, y = _percents(mask, column + 0.5, row + 0.5)
    return {"x": x, "y": y, "width": _POINT_WIDTH}


def _percents(mask: np.ndarray, *places: float) -> Iterator[float]:
    """x, y, x, y ... in pixels, as percents of the width and the height."""
    height, width = mask.shape
    return (100 * place / (height if k % 2 else width) for k, place in enumerate(places))


_VALUES = {"brushlabels": _brush, "rectanglelabels": _rectangle, "keypointlabels": _key_point}
