"""Boxes in another form than [x, y, width, height] in pixels, which could be trained on without a word."""

from __future__ import annotations

from collections.abc import Sequence

# Labels drawn by hand end a little outside.
_SLACK = 1.0
# Shares of the boxes: so many must speak for another form, and so many against the expected one.
_NEARLY_ALL, _SOME = 0.95, 0.1


class BoxForms:
    """Counts what boxes look like, and says what form that is."""

    def __init__(self) -> None:
        self.total = 0
        self.beyond = 0
        self.below_a_pixel = 0
        self._shares = 0
        self._corners = 0
        self._centres = 0

    def add(self, box: Sequence[float], height: int, width: int) -> None:
        """``box``: four numbers of a json, for a picture of this size in pixels."""
        a, b, c, d = box
        right, bottom = width + _SLACK, height + _SLACK
        self.total += 1
        self.beyond += not (a >= -_SLACK and b >= -_SLACK and a + c <= right and b + d <= bottom)
        self.below_a_pixel += 0 < c < 1 or 0 < d < 1
        self._shares += all(0 <= v <= 1 for v in box)
        self._corners += 0 <= a < c <= right and 0 <= b < d <= bottom
        self._centres += a - c / 2 >= -_SLACK and b - d / 2 >= -_SLACK and a + c / 2 <= right and b + d / 2 <= bottom

    def warning(self) -> str | None:
        """How many boxes are unlikely, and the form that all of them look like; None where none is."""
        counts = [(self.beyond, "reach beyond their pictures"), (self.below_a_pixel, "are smaller than a pixel")]
        found = [f"{count} {what}" for count, what in counts if count]
        if not found:
            return None
        said = f"of {self.total} boxes, {' and '.join(found)}"
        if self._shares > _NEARLY_ALL * self.total:
            return (
                f"{said}: they look like shares of the picture, 0 to 1, but are read as [x, y, width, height] in pixels"
            )
        if self.beyond > _SOME * self.total:
            for count, form in (
                (self._corners, "[x0, y0, x1, y1]"),
                (self._centres, "[x centre, y centre, width, height]"),
            ):
                if count > _NEARLY_ALL * self.total:
                    return f"{said}: they look like {form}, but are read as [x, y, width, height]"
        return said
