"""Pictures of part maps, part instances and weak labels: overlay, names, legend, panels side by side.

Detectron2's Visualizer paints masks, boxes and points. Names, titles and legends are set here, because
the Visualizer cannot say how large a text will be, and so cannot keep two names from covering each other.

Images are uint8 [H, W, 3] RGB, in and out; coordinates are x, y in pixels of the input image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
from detectron2.utils.visualizer import Visualizer
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

# Smaller images are enlarged by a whole factor until their longer side reaches this, so that a name fits
# and every mask keeps its exact pixels; larger ones than MAX_SIDE are shrunk, but never thinner than MIN_SHORT.
MIN_SIDE, MAX_SIDE, MIN_SHORT = 640, 2048, 256
# Height of a letter as a fraction of the longer side: the same in print whatever the size of the image.
FONT_FRACTION, MIN_FONT = 1 / 42, 16
# Where all names together would cover more than this fraction of a picture, they stand in the legend alone.
NAME_BUDGET = 0.18
PAPER, INK, FAINT_INK = (255, 255, 255), (24, 24, 24), (120, 120, 120)

_Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels of the shown picture


def part_colors(names: Sequence[str]) -> np.ndarray:
    """The colour of every class: a pure function of the class list, the same in every picture and run.

    The colours are spread as far apart as sRGB allows in CIELAB, where a distance of 2 is just visible, away
    from grey, black and white. Classes next to each other in the list, which are the parts of one
    supercategory, get hues about 137 degrees (the golden angle) apart.

    Returns:
        uint8 [C, 3] RGB.

    Raises:
        ValueError: a name occurs twice.
    """
    names = [str(name) for name in names]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"class names must differ to get colours of their own; given twice: {repeated}")
    return _palette(len(names)).copy()


def srgb_to_lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB uint8 [..., 3] to CIELAB float [..., 3] under D65 (IEC 61966-2-1, CIE 15)."""
    srgb = np.asarray(rgb, dtype=np.float64) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / to_xyz.sum(axis=1)  # white is (1, 1, 1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


@cache
def _palette(count: int) -> np.ndarray:
    """Colours uint8 [count, 3]: farthest-point sampling in CIELAB, refined until none can move further away."""
    levels = np.linspace(0, 255, 14).round().astype(np.uint8)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    lab = srgb_to_lab(candidates)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    # Too dark, too pale or too grey reads as the photo, not as a label.
    usable = (lab[:, 0] >= 38) & (lab[:, 0] <= 90) & (chroma >= 28)
    candidates, lab, chroma = candidates[usable], lab[usable], chroma[usable]
    if count > len(candidates):
        raise ValueError(f"at most {len(candidates)} classes can be told apart by colour, got {count}")
    if count == 0:
        return np.zeros((0, 3), dtype=np.uint8)

    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    chosen = [int(chroma.argmax())]
    while len(chosen) < count:
        chosen.append(int(distance[:, chosen].min(axis=1).argmax()))
    for _ in range(8 if count > 1 else 0):
        before = list(chosen)
        for index in range(count):
            others = chosen[:index] + chosen[index + 1 :]
            room = distance[:, others].min(axis=1)
            best = int(room.argmax())
            if room[best] > room[chosen[index]]:
                chosen[index] = best
        if chosen == before:
            break

    by_hue = sorted(chosen, key=lambda k: np.arctan2(lab[k, 2], lab[k, 1]))
    step = max(1, round(count * 0.381966))
    while np.gcd(step, count) != 1:  # only then does the walk round the hues visit every colour
        step += 1
    return candidates[[by_hue[index * step % count] for index in range(count)]]


def draw_part_map(
    image: np.ndarray, part_map: np.ndarray, names: Sequence[str], *, alpha: float = 0.55, legend: bool = True
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
    overlay = _Overlay(image, names, fade=True)
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
    alpha: float = 0.55,
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
    overlay = _Overlay(image, names, fade=True)
    classes = overlay.check_classes(classes)
    count = len(classes)
    masks = np.asarray(masks, dtype=bool)
    if masks.shape != (count, *overlay.shape):
        raise ValueError(f"masks: expected {(count, *overlay.shape)} for {count} classes, got {masks.shape}")
    boxes = overlay.check_rows("boxes", boxes, count, 4)
    labels = [names[c] for c in classes]
    if scores is not None:
        if len(scores) != count:
            raise ValueError(f"scores: expected {count} values, got {len(scores)}")
        labels = [f"{label} {100 * float(score):.0f}%" for label, score in zip(labels, scores)]
    order = np.argsort(-masks.sum(axis=(1, 2)), kind="stable")  # small parts over large ones
    for k in order:
        overlay.mask(masks[k], classes[k], alpha)
        if boxes is not None:
            overlay.box(boxes[k], classes[k])
    for k in order:
        overlay.name_mask(labels[k], masks[k], classes[k])
    return overlay.finish(sorted(set(classes)) if legend else [])


def draw_weak_labels(
    image: np.ndarray,
    classes: Sequence[int] | np.ndarray,
    names: Sequence[str],
    *,
    boxes: np.ndarray | None = None,
    points: np.ndarray | None = None,
    legend: bool = True,
) -> np.ndarray:
    """Draws the weak labels of one image with their names.

    Args:
        image: uint8 [H, W, 3] RGB.
        classes: M class ids in 0..C-1.
        names: the C class names.
        boxes: float [M, 4], x0, y0, x1, y1 in pixels, corners continuous; or None.
        points: float [M, 2], x, y in pixels, whole numbers being pixel centres (SAM's convention); or None.
        legend: also put the colours and names of the classes present below the picture.

    Returns:
        uint8 [H', W', 3] RGB.

    Raises:
        ValueError: shapes or types do not fit, or not exactly one of boxes and points is given.
    """
    overlay = _Overlay(image, names, fade=False)
    classes = overlay.check_classes(classes)
    if (boxes is None) == (points is None):
        raise ValueError("draw_weak_labels: expected either boxes or points")
    boxes = overlay.check_rows("boxes", boxes, len(classes), 4)
    points = overlay.check_rows("points", points, len(classes), 2)
    if boxes is not None:
        largest_first = np.argsort(-_areas(boxes), kind="stable")
        for k in largest_first:
            overlay.box(boxes[k], classes[k])
        for k in largest_first[
            ::-1
        ]:  # the smallest get the best places for their names: they have few others
            overlay.name_corner(names[classes[k]], boxes[k], classes[k])
    if points is not None:
        centers = points + 0.5
        for center, part in zip(centers, classes):
            overlay.point(center, part)
        for center, part in zip(centers, classes):
            overlay.name_point(names[part], center, part)
    return overlay.finish(sorted(set(classes)) if legend else [])


def side_by_side(
    image: np.ndarray,
    ground_truth: np.ndarray | None,
    prediction: np.ndarray,
    names: Sequence[str],
    *,
    titles: Sequence[str] = ("picture", "ground truth", "prediction"),
    alpha: float = 0.55,
) -> np.ndarray:
    """Picture, ground truth and prediction beside each other, with titles and one legend.

    The legend holds the classes present in either map, and says which the prediction missed or added.

    Args:
        image: uint8 [H, W, 3] RGB.
        ground_truth, prediction: integer [H, W]; 0..C-1 are parts, all else is left bare. Without
            ground truth (None) there are two panels.
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
    plain = _Overlay(image, names, fade=False)
    panels, present = [(titles[0], plain.picture())], []
    for title, part_map in zip(titles[1:], (ground_truth, prediction)):
        if part_map is not None:
            overlay = _Overlay(image, names, fade=True)
            present.append(overlay.part_map(part_map, alpha))
            panels.append((title, overlay.picture()))
    entries = [
        _Entry(names[c], plain.color(c), _remark(c, present)) for c in sorted(set().union(*map(set, present)))
    ]
    return _compose(panels, entries, plain.font_size)


def _remark(part: int, present: list[list[int]]) -> str:
    if len(present) < 2 or (part in present[0] and part in present[1]):
        return ""
    return "missed" if part in present[0] else "extra"


def _areas(boxes: np.ndarray) -> np.ndarray:
    """Areas of boxes [K, 4]."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


@dataclass(frozen=True)
class _Entry:
    """One line of a legend."""

    name: str
    color: tuple[int, int, int]
    remark: str = ""


@dataclass(frozen=True)
class _Name:
    """A name to be set: ``places`` are upper left corners to try in turn, ``target`` is what it names (x, y)."""

    text: str
    color: tuple[int, int, int]
    size: tuple[int, int]
    places: Sequence[tuple[float, float]]
    target: tuple[float, float] | None = None


def _meet(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


class _Overlay:
    """One picture being drawn: the image at its shown size, Detectron2's Visualizer on it, the names to be set."""

    def __init__(self, image: np.ndarray, names: Sequence[str], fade: bool):
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"image: expected uint8 [H, W, 3] RGB, got {image.dtype} {list(image.shape)}")
        self.names = list(names)
        self.colors = part_colors(self.names)
        self.shape = image.shape[:2]
        self.shown = _shown_size(*self.shape)
        shown = np.asarray(Image.fromarray(image).resize(self.shown[::-1], Image.Resampling.BICUBIC))
        if fade:
            # Under paint the photo keeps its shapes and loses most of its colour and some of its contrast:
            # then colour means class, on a black coat as on a white one.
            grey = shown.mean(axis=2, keepdims=True)
            shown = (0.2 * shown + 0.55 * grey + 0.25 * 150).round().astype(np.uint8)
        self.font_size = max(MIN_FONT, round(max(self.shown) * FONT_FRACTION))
        self._visualizer = Visualizer(shown, scale=1.0)
        self._names: list[_Name] = []
        self._kept_free: list[_Box] = []

    def color(self, part: int) -> tuple[int, int, int]:
        red, green, blue = (int(v) for v in self.colors[part])
        return red, green, blue

    def _paint(self, part: int) -> tuple[float, ...]:
        return tuple(v / 255 for v in self.color(part))  # the Visualizer's range

    # -- checks -----------------------------------------------------------------------------------------

    def check_classes(self, classes: Sequence[int] | np.ndarray) -> list[int]:
        result = [int(c) for c in classes]
        wrong = [c for c in result if not 0 <= c < len(self.names)]
        if wrong:
            raise ValueError(f"classes: expected ids in 0..{len(self.names) - 1}, got {wrong}")
        return result

    def check_rows(self, field: str, rows: Any, count: int, width: int) -> np.ndarray | None:
        if rows is None:
            return None
        rows = np.asarray(rows, dtype=np.float64)
        if rows.shape != (count, width) and not (count == 0 and rows.size == 0):
            raise ValueError(
                f"{field}: expected [{count}, {width}] for {count} classes, got {list(rows.shape)}"
            )
        return rows.reshape(count, width)

    # -- paint ------------------------------------------------------------------------------------------

    def part_map(self, part_map: np.ndarray, alpha: float) -> list[int]:
        """Paints every part of an integer [H, W] map with its name; returns the ids present, ascending."""
        part_map = np.asarray(part_map)
        if part_map.shape != tuple(self.shape) or part_map.dtype.kind not in "iu":
            got = f"{part_map.dtype} {list(part_map.shape)}"
            raise ValueError(f"part map: expected integers {list(self.shape)} like the image, got {got}")
        count = len(self.names)
        areas = np.bincount(part_map[(part_map >= 0) & (part_map < count)], minlength=count)
        parts = {part: int(area) for part, area in enumerate(areas) if area}
        largest_first = sorted(parts, key=lambda part: -parts[part])
        for part in largest_first:
            self.mask(part_map == part, part, alpha)
        for part in largest_first:
            self.name_mask(self.names[part], part_map == part, part)
        return sorted(parts)

    def mask(self, mask: np.ndarray, part: int, alpha: float) -> None:
        if not mask.any():
            return
        shown = np.asarray(
            Image.fromarray(mask.astype(np.uint8)).resize(self.shown[::-1], Image.Resampling.NEAREST)
        )
        color = self._paint(part)
        self._visualizer.draw_binary_mask(shown, color=color, edge_color=color, alpha=alpha, area_threshold=0)
        filled = ndimage.binary_fill_holes(shown)
        if filled.sum() != shown.sum():
            # A mask with holes is painted without an outline; draw it, else parts with and without look unalike.
            self._visualizer.draw_binary_mask(
                filled.astype(np.uint8), color=color, edge_color=color, alpha=0.0, area_threshold=0
            )

    def box(self, box: np.ndarray, part: int) -> None:
        x0, y0 = self._to_shown(box[:2])
        x1, y1 = self._to_shown(box[2:])
        self._visualizer.draw_box((x0, y0, x1, y1), alpha=1.0, edge_color=self._paint(part))

    def point(self, point: np.ndarray, part: int) -> None:
        x, y = self._to_shown(point)
        # Ringed in white and black, so that it is seen on any ground.
        for radius, color in ((0.48, (0.0, 0.0, 0.0)), (0.42, (1.0, 1.0, 1.0)), (0.30, self._paint(part))):
            self._visualizer.draw_circle((x, y), color=color, radius=max(1, radius * self.font_size))
        reach = 0.5 * self.font_size
        self._kept_free.append((x - reach, y - reach, x + reach, y + reach))

    def _to_shown(self, point: Any) -> tuple[float, float]:
        x, y = (float(v) for v in point)
        return x * self.shown[1] / self.shape[1], y * self.shown[0] / self.shape[0]

    # -- names ------------------------------------------------------------------------------------------

    def name_mask(self, text: str, mask: np.ndarray, part: int) -> None:
        """Puts a name on the mask's deepest place where it fits there, else beside the mask with a line to it."""
        if not mask.any():
            return
        x, y, depth = _deepest_place(mask)
        center = self._to_shown((x, y))
        radius = depth * self.shown[1] / self.shape[1]
        width, height = self._name_size(text)
        gap = radius + 0.6 * self.font_size
        beside = [
            (center[0] + gap, center[1] - height / 2),
            (center[0] - gap - width, center[1] - height / 2),
            (center[0] - width / 2, center[1] - gap - height),
            (center[0] - width / 2, center[1] + gap),
            (center[0] + gap, center[1] - gap - height),
            (center[0] + gap, center[1] + gap),
            (center[0] - gap - width, center[1] - gap - height),
            (center[0] - gap - width, center[1] + gap),
        ]
        # A name as large as its part would hide what it names; a large part has room for more than one try.
        tries = 3 if radius > 1.8 * height else int(radius > 0.9 * height)
        inside = [(center[0] - width / 2, center[1] + (k - 0.5) * height) for k in (0, -1.1, 1.1)][:tries]
        self._add_name(text, part, inside + beside, center)

    def name_corner(self, text: str, box: np.ndarray, part: int) -> None:
        """Puts a name on a corner of a box."""
        x0, y0 = self._to_shown(box[:2])
        x1, y1 = self._to_shown(box[2:])
        width, height = self._name_size(text)
        places = [
            (x0, y0 - height),
            (x0, y0),
            (x1 - width, y0),
            (x0, y1),
            (x1 - width, y1),
            (x0, y1 - height),
        ]
        self._add_name(text, part, places)

    def name_point(self, text: str, point: np.ndarray, part: int) -> None:
        """Puts a name beside a point."""
        x, y = self._to_shown(point)
        width, height = self._name_size(text)
        gap = 0.7 * self.font_size
        places = [(x + gap, y - height / 2), (x - gap - width, y - height / 2)]
        places += [(x - width / 2, y - gap - height), (x - width / 2, y + gap)]
        self._add_name(text, part, places, (x, y))

    def _name_size(self, text: str) -> tuple[int, int]:
        return round(_text_width(text, self.font_size) + 0.5 * self.font_size), round(1.3 * self.font_size)

    def _add_name(
        self,
        text: str,
        part: int,
        places: Sequence[tuple[float, float]],
        target: tuple[float, float] | None = None,
    ) -> None:
        self._names.append(_Name(text, self.color(part), self._name_size(text), places, target))

    def _placed_names(self) -> list[tuple[_Name, _Box]]:
        """Names with their boxes: each takes its first place inside the picture that meets nothing placed before."""
        height, width = self.shown
        if sum(name.size[0] * name.size[1] for name in self._names) > NAME_BUDGET * height * width:
            return []
        placed: list[tuple[_Name, _Box]] = []
        taken = list(self._kept_free)
        for name in self._names:
            if name.size[0] > width or name.size[1] > height:
                continue
            for x, y in name.places:
                x = round(min(max(x, 0), width - name.size[0]))
                y = round(min(max(y, 0), height - name.size[1]))
                box = (x, y, x + name.size[0], y + name.size[1])
                if not any(_meet(box, other) for other in taken):
                    placed.append((name, box))
                    taken.append(box)
                    break
        return placed

    # -- result -----------------------------------------------------------------------------------------

    def picture(self) -> np.ndarray:
        """The picture with its names, without title and legend: uint8 [shown height, shown width, 3]."""
        canvas = Image.fromarray(np.ascontiguousarray(self._visualizer.output.get_image()))
        draw = ImageDraw.Draw(canvas)
        line, font, placed = max(1, self.font_size // 9), _font(self.font_size), self._placed_names()
        for name, (x0, y0, x1, y1) in placed:
            if name.target and not (x0 <= name.target[0] <= x1 and y0 <= name.target[1] <= y1):
                x, y = name.target
                nearest = (min(max(x, x0), x1), min(max(y, y0), y1))
                draw.line([nearest, name.target], fill=INK, width=line + 2)
                draw.line([nearest, name.target], fill=name.color, width=line)
                draw.ellipse(
                    (x - 2 * line, y - 2 * line, x + 2 * line, y + 2 * line), fill=name.color, outline=INK
                )
        for name, (x0, y0, x1, y1) in placed:
            draw.rounded_rectangle((x0, y0, x1 - 1, y1 - 1), radius=self.font_size // 4, fill=name.color)
            middle = ((x0 + x1) / 2, (y0 + y1) / 2)
            draw.text(middle, name.text, fill=_ink_on(name.color), font=font, anchor="mm")
        return np.asarray(canvas)

    def finish(self, legend: Sequence[int]) -> np.ndarray:
        picture = self.picture()
        if not legend:
            return picture
        return _compose(
            [("", picture)], [_Entry(self.names[c], self.color(c)) for c in legend], self.font_size
        )


def _deepest_place(mask: np.ndarray) -> tuple[float, float, float]:
    """Where a non-empty bool mask [H, W] is thickest: x, y and the distance to the border, in its pixels.

    Of equally thick places (a stripe has many) the most central one.
    """
    rows, columns = ndimage.find_objects(mask.astype(np.uint8))[0]
    cut = mask[rows, columns]
    # A name needs no exact place, and the distance transform of a large photo takes seconds.
    step = max(1, max(cut.shape) // 256)
    coarse = cut[::step, ::step]
    if not coarse.any():
        step, coarse = 1, cut
    depth = ndimage.distance_transform_edt(np.pad(coarse, 1))[1:-1, 1:-1]
    deepest = np.argwhere(depth >= 0.98 * depth.max())
    y, x = deepest[np.linalg.norm(deepest - deepest.mean(axis=0), axis=1).argmin()]
    return columns.start + (x + 0.5) * step, rows.start + (y + 0.5) * step, float(depth[y, x]) * step


def _shown_size(height: int, width: int) -> tuple[int, int]:
    longest, shortest = max(height, width), min(height, width)
    factor: float = max(1, -(-MIN_SIDE // longest))
    if longest > MAX_SIDE:
        factor = min(1.0, max(MAX_SIDE / longest, MIN_SHORT / shortest))
    return max(1, round(height * factor)), max(1, round(width * factor))


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _text_width(text: str, size: int) -> float:
    return _font(size).getlength(text)


def _ink_on(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever can be read on ``color``."""
    return (0, 0, 0) if srgb_to_lab(np.array(color))[0] > 58 else (255, 255, 255)


def _compose(panels: Sequence[tuple[str, np.ndarray]], entries: Sequence[_Entry], size: int) -> np.ndarray:
    """Panels (title, uint8 [H, W, 3], all of one shape) in a row or a column, and the legend below them.

    ``size`` is the height of a letter in pixels.
    """
    height, width = panels[0][1].shape[:2]
    titled = any(title for title, _ in panels)
    gap, title_size = max(4, size // 2), round(1.15 * size)
    bar = round(1.6 * title_size) if titled else 0
    cell = max([width] + [round(_text_width(title, title_size)) for title, _ in panels])
    count = len(panels)
    # The arrangement whose shape is nearer to a screen's 16:9.
    row = (count * cell + (count - 1) * gap, height + bar)
    column = (cell, count * (height + bar) + (count - 1) * gap)
    in_row = count == 1 or min((row, column), key=lambda s: abs(np.log(s[0] / s[1] * 9 / 16))) is row
    body_width, body_height = row if in_row else column

    widths = [_entry_width(entry, size) for entry in entries]
    body_width = max([body_width] + widths)
    lines = _wrap(widths, body_width, size)
    line_height = round(1.6 * size)
    legend_height = len(lines) * line_height + gap if lines else 0
    margin = gap
    canvas = Image.new("RGB", (body_width + 2 * margin, body_height + legend_height + 2 * margin), PAPER)
    draw = ImageDraw.Draw(canvas)
    offset = margin + (body_width - (row if in_row else column)[0]) // 2
    for index, (title, picture) in enumerate(panels):
        x = offset + (index * (cell + gap) if in_row else 0)
        y = margin + (0 if in_row else index * (height + bar + gap))
        if title:
            draw.text((x + cell / 2, y + bar / 2), title, fill=INK, font=_font(title_size), anchor="mm")
        canvas.paste(Image.fromarray(picture), (x + (cell - width) // 2, y + bar))
    y = margin + body_height + gap
    for line in lines:
        x = margin
        for index in line:
            _draw_entry(draw, x, y, line_height, entries[index], size)
            x += widths[index] + size
        y += line_height
    return np.asarray(canvas)


def _entry_width(entry: _Entry, size: int) -> int:
    remark = _text_width(" " + entry.remark, size) if entry.remark else 0
    return round(1.5 * size + _text_width(entry.name, size) + remark)


def _wrap(widths: Sequence[int], limit: int, gap: int) -> list[list[int]]:
    """Indices of legend entries line by line, none wider than ``limit``."""
    lines: list[list[int]] = []
    used = 0
    for index, width in enumerate(widths):
        if not lines or used + gap + width > limit:
            lines.append([])
            used = width
        else:
            used += gap + width
        lines[-1].append(index)
    return lines


def _draw_entry(draw: ImageDraw.ImageDraw, x: int, y: int, height: int, entry: _Entry, size: int) -> None:
    middle, half = y + height / 2, size / 2
    draw.rounded_rectangle((x, middle - half, x + size, middle + half), radius=size // 5, fill=entry.color)
    font, start = _font(size), x + 1.5 * size
    draw.text((start, middle), entry.name, fill=INK, font=font, anchor="lm")
    if entry.remark:
        start += _text_width(entry.name, size)
        draw.text((start, middle), " " + entry.remark, fill=FAINT_INK, font=font, anchor="lm")
