"""Boxes in another form than [x, y, width, height] in pixels, which could be trained on without a word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

# Labels drawn by hand end a little outside, and boxes of masks a little beside them.
_SLACK, _MASK_SLACK = 1.0, 2.0
# Shares of the boxes: so many must speak for another form, and so many against the expected one.
_NEARLY_ALL, _SOME = 0.95, 0.1
# Boxes that are compared with their polygons.
_NUM_COMPARED = 500

_EXPECTED, _CORNERS, _CENTRES = "[x, y, width, height]", "[x0, y0, x1, y1]", "[x centre, y centre, width, height]"


class BoxForms:
    """Counts what boxes look like, and says what form that is."""

    def __init__(self) -> None:
        self.total = 0
        self.beyond = 0
        self.below_a_pixel = 0
        self._shares = 0
        # Boxes that lie in their pictures, and boxes that lie around their polygons, if they are read in a form.
        self._inside: Counter[str] = Counter()
        self._around: Counter[str] = Counter()
        self._compared = 0

    def add(self, box: Sequence[float], height: int, width: int, segmentation: Any = None) -> None:
        """``box``: four numbers of a json, for a picture of this size in pixels; its ``segmentation`` as it stands."""
        self.total += 1
        self.below_a_pixel += 0 < box[2] < 1 or 0 < box[3] < 1
        self._shares += all(0 <= v <= 1 for v in box)
        corners = _corners(box)
        inside = {form for form, found in corners.items() if _lies_within(found, height, width)}
        self.beyond += _EXPECTED not in inside
        self._inside.update(inside)
        extent = _extent(segmentation) if self._compared < _NUM_COMPARED else None
        if extent is not None:
            self._compared += 1
            self._around.update(
                form for form, found in corners.items() if all(abs(a - b) <= _MASK_SLACK for a, b in zip(found, extent))
            )

    def warning(self) -> str | None:
        """How many boxes are unlikely, and the form that all of them look like; None where none is."""
        beside = self._compared - self._around[_EXPECTED]
        counts = [
            (self.beyond, "reach beyond their pictures"),
            (self.below_a_pixel, "are smaller than a pixel"),
            # Some boxes are drawn around what is hidden, too.
            (beside if beside > _NEARLY_ALL * self._compared else 0, f"of {self._compared} lie beside their polygons"),
        ]
        found = [f"{count} {what}" for count, what in counts if count]
        if not found:
            return None
        said = f"of {self.total} boxes, {' and '.join(found)}"
        form = self._likely_form()
        if form is None:
            return said
        return (
            f"{said}: they look like {form}, but are read as {_EXPECTED} in pixels. Convert them, or leave bbox out "
            "where there are masks, whose boxes are then taken"
        )

    def _likely_form(self) -> str | None:
        if self._shares > _NEARLY_ALL * self.total:
            return "shares of the picture, 0 to 1"
        for form in (_CORNERS, _CENTRES):
            if self._compared and self._around[form] > _NEARLY_ALL * self._compared > self._around[_EXPECTED]:
                return form
            if self.beyond > _SOME * self.total and self._inside[form] > _NEARLY_ALL * self.total:
                return form
        return None


def _corners(box: Sequence[float]) -> Mapping[str, tuple[float, float, float, float]]:
    """x0, y0, x1, y1 of a box by the form that it is read in."""
    a, b, c, d = box
    return {
        _EXPECTED: (a, b, a + c, b + d),
        _CORNERS: (a, b, c, d),
        _CENTRES: (a - c / 2, b - d / 2, a + c / 2, b + d / 2),
    }


def _lies_within(corners: tuple[float, float, float, float], height: int, width: int) -> bool:
    x0, y0, x1, y1 = corners
    return -_SLACK <= x0 <= x1 <= width + _SLACK and -_SLACK <= y0 <= y1 <= height + _SLACK


def _extent(segmentation: Any) -> tuple[float, float, float, float] | None:
    """x0, y0, x1, y1 of polygons; None of anything else."""
    polygons = segmentation if isinstance(segmentation, list) else []
    numbers = [v for polygon in polygons if isinstance(polygon, list) and len(polygon) % 2 == 0 for v in polygon]
    if len(numbers) < 6 or not all(isinstance(v, int | float) and abs(v) < 1e9 for v in numbers):
        return None
    xs, ys = numbers[0::2], numbers[1::2]
    return min(xs), min(ys), max(xs), max(ys)
