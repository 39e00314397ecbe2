"""What the export of a labelling tool says, in one form whatever the tool.

Coordinates are x to the right and y down, continuous: the first pixel spans 0 to 1, as all these tools draw.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from wps_sam.data.sources.fields import shown
from wps_sam.masks import Segmentation

Box = tuple[float, float, float, float]
Point = tuple[float, float]

# No picture is so wide, and sums of such numbers stay finite.
_MAX_COORDINATE = 1e9
# Corners of the polygon that stands for a circle or an ellipse.
_NUM_CORNERS = 48
# Names after a count of things that were left out; the rest is only counted.
_NUM_EXAMPLES = 3
_SPLITS = {
    **{"train": "train", "training": "train", "test": "test", "testing": "test"},
    **{"val": "val", "valid": "val", "validation": "val"},
}


@dataclass(frozen=True)
class Label:
    """One labelled part: a ``box`` (x0, y0, x1, y1), a ``point`` (x, y), a ``segmentation`` in COCO's form, or several.

    ``crowd``: a region of no single part, in COCO's sense.
    """

    name: str
    box: Box | None = None
    point: Point | None = None
    segmentation: Segmentation | None = None
    crowd: bool = False


@dataclass
class LabelledPicture:
    """What an export says of one picture.

    Args:
        name: as the tool has it: a path, or the end of one, perhaps without its suffix.
        size: (height, width) in pixels of the picture that was labelled; None where the format does not say.
        split: "train", "val" or "test"; None where the format does not say.
        in_shares: coordinates are shares of the picture's width and height, not pixels.
    """

    name: str
    size: tuple[int, int] | None = None
    split: str | None = None
    labels: list[Label] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    in_shares: bool = False


@dataclass
class Export:
    """All that was read, and the classes in the order of the tool, as far as it has one."""

    pictures: list[LabelledPicture]
    classes: tuple[str, ...] = ()


class Notes:
    """Counts what of an export is left out, and what is taken in another form than it came."""

    def __init__(self) -> None:
        self._left_out: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}
        self._labels_lost: Counter[str] = Counter()
        self._changed: Counter[str] = Counter()

    def leave_out(self, what: str, where: str, num_labels: int = 0) -> None:
        """``what`` in the plural, such as "cuboids"; ``where``: the picture or file; labels that are lost with it."""
        self._left_out[what] += 1
        self._labels_lost[what] += num_labels
        examples = self._examples.setdefault(what, [])
        if where not in examples and len(examples) <= _NUM_EXAMPLES:
            examples.append(where)

    def change(self, what: str) -> None:
        """``what`` in the plural, and what became of it: "rotated boxes became the boxes around them"."""
        self._changed[what] += 1

    @property
    def num_left_out(self) -> int:
        return self._left_out.total()

    def sentences(self) -> list[str]:
        """What was left out and what was changed, counted."""
        said = []
        lost = [self._lost(what, count) for what, count in self._left_out.items()]
        if lost:
            said.append(f"Left out: {'; '.join(lost)}.")
        said += [f"{count} {what}." for what, count in self._changed.items()]
        return said

    def _lost(self, what: str, count: int) -> str:
        examples = self._examples[what]
        names = ", ".join(examples[:_NUM_EXAMPLES]) + ", ..." * (len(examples) > _NUM_EXAMPLES)
        labels = self._labels_lost[what]
        return f"{count} {what}{f', with {labels} labels' if labels else ''} ({names})"


class ReadFile(NamedTuple):
    """A file of an export and what is in it: of a json its content, of an XML its root, else its text.

    ``relative``: its path below the source, which says more than the folders above it.
    """

    path: Path
    relative: Path
    content: Any


@dataclass(frozen=True)
class Format:
    """A layout that labels come in.

    Args:
        name: for --format.
        about: one line for people.
        patterns: of the names of the files that :attr:`read` begins with.
        recognises: whether a file is of this format.
        read: what the recognised files say; ValueError names the file and the field, what came and what was expected.
    """

    name: str
    about: str
    patterns: tuple[str, ...]
    recognises: Callable[[ReadFile], bool]
    read: Callable[[Sequence[ReadFile], Notes], Export]


def number(value: Any, where: str) -> float:
    """A coordinate or length: a finite number, also as text.

    Raises:
        ValueError: begins with ``where``.
    """
    try:
        found = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    # NaN is not below the limit either.
    if not abs(found) < _MAX_COORDINATE:
        raise ValueError(f"{where}: expected a number, got {shown(value)}")
    return found


def flat(points: Iterable[Point]) -> list[float]:
    """[x0, y0, x1, y1, ...] of points."""
    return [value for point in points for value in point]


def box_around(points: Sequence[Point]) -> Box:
    xs, ys = zip(*points)
    return min(xs), min(ys), max(xs), max(ys)


def ellipse(center: Point, radii: Point, angle: float = 0.0) -> list[float]:
    """The polygon [x0, y0, ...] of an ellipse whose axes are turned by ``angle``, as in :func:`turned`."""
    steps = [2 * math.pi * k / _NUM_CORNERS for k in range(_NUM_CORNERS)]
    corners = [(center[0] + radii[0] * math.cos(step), center[1] + radii[1] * math.sin(step)) for step in steps]
    return flat(turned(corners, center, angle))


def turned(points: Sequence[Point], pivot: Point, angle: float) -> list[Point]:
    """Points turned about ``pivot`` by ``angle``, in radians, clockwise as it is seen, as y points down."""
    cosine, sine = math.cos(angle), math.sin(angle)
    offsets = [(x - pivot[0], y - pivot[1]) for x, y in points]
    return [(pivot[0] + cosine * x - sine * y, pivot[1] + sine * x + cosine * y) for x, y in offsets]


def turned_box(box: Box, pivot: Point, degrees: float, notes: Notes) -> Box:
    """The box around a box that was turned about ``pivot``, clockwise; noted if it was."""
    if degrees % 360 == 0:
        return box
    notes.change("rotated boxes became the upright boxes around them")
    x0, y0, x1, y1 = box
    return box_around(turned([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], pivot, math.radians(degrees)))


def split_of(path: str | Path) -> str | None:
    """The split that the name of a file or of the folders above it speaks of: the last word that does."""
    for part in reversed(Path(path).parts):
        words = "".join(c if c.isalpha() else " " for c in Path(part).stem.lower()).split()
        for word in reversed(words):
            if word in _SPLITS:
                return _SPLITS[word]
    return None
