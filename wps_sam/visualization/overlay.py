"""One picture being drawn over: paint, boxes, points, and names that do not cover each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wps_sam.visualization.fonts import load_font, text_width
from wps_sam.visualization.layout import INK, LegendEntry, compose
from wps_sam.visualization.palette import ink_on, part_colors

import numpy as np
from detectron2.utils.visualizer import Visualizer
from PIL import Image, ImageDraw
from scipy import ndimage

# Smaller images are enlarged by a whole factor until their longer side reaches this, so that a name fits
# and every mask keeps its exact pixels; larger ones than MAX_SIDE are shrunk, but never thinner than MIN_SHORT.
MIN_SIDE, MAX_SIDE, MIN_SHORT = 640, 2048, 256
# Height of a letter as a fraction of the longer side: the same in print whatever the size of the image.
FONT_FRACTION, MIN_FONT = 1 / 42, 16
# Where all names together would cover more than this fraction of a picture, they stand in the legend alone.
NAME_BUDGET = 0.18

_Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels of the shown picture


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


class Overlay:
    """One picture being drawn: the image at its shown size, Detectron2's Visualizer on it, the names to be set.

    Args:
        image: uint8 [H, W, 3] RGB.
        names: the C class names.
        fade: take most of the colour and some of the contrast out of the photo, for masks to be painted on it.

    Raises:
        ValueError: the image is none, or a name occurs twice.
    """

    def __init__(self, image: np.ndarray, names: Sequence[str], fade: bool) -> None:
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
        """RGB, 0..255."""
        red, green, blue = (int(v) for v in self.colors[part])
        return red, green, blue

    def _paint(self, part: int) -> tuple[float, ...]:
        return tuple(v / 255 for v in self.color(part))  # the Visualizer's range

    # -- checks -----------------------------------------------------------------------------------------

    def check_classes(self, classes: Sequence[int] | np.ndarray) -> list[int]:
        """The ids as integers; a ValueError where one is not in 0..C-1."""
        result = [int(c) for c in classes]
        wrong = [c for c in result if not 0 <= c < len(self.names)]
        if wrong:
            raise ValueError(f"classes: expected ids in 0..{len(self.names) - 1}, got {wrong}")
        return result

    def check_rows(self, field: str, rows: Any, count: int, width: int) -> np.ndarray | None:
        """``rows`` as float64 [count, width], None as None; a ValueError that names ``field`` where they don't fit."""
        if rows is None:
            return None
        rows = np.asarray(rows, dtype=np.float64)
        if rows.shape != (count, width) and not (count == 0 and rows.size == 0):
            raise ValueError(f"{field}: expected [{count}, {width}] for {count} classes, got {list(rows.shape)}")
        return rows.reshape(count, width)

    def check_masks(self, masks: Any, count: int) -> np.ndarray:
        """``masks`` as bool [count, H, W]; a ValueError where they don't fit."""
        masks = np.asarray(masks, dtype=bool)
        if masks.shape != (count, *self.shape):
            raise ValueError(f"masks: expected {(count, *self.shape)} for {count} classes, got {masks.shape}")
        return masks

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
        """Paints a bool [H, W] mask and its outline."""
        if not mask.any():
            return
        shown = np.asarray(Image.fromarray(mask.astype(np.uint8)).resize(self.shown[::-1], Image.Resampling.NEAREST))
        color = self._paint(part)
        self._visualizer.draw_binary_mask(shown, color=color, edge_color=color, alpha=alpha, area_threshold=0)
        filled = ndimage.binary_fill_holes(shown)
        if filled.sum() != shown.sum():
            # A mask with holes is painted without an outline; draw it, else parts with and without look unalike.
            self._visualizer.draw_binary_mask(
                filled.astype(np.uint8), color=color, edge_color=color, alpha=0.0, area_threshold=0
            )

    def box(self, box: np.ndarray, part: int) -> None:
        """Draws the edges of a box [4], x0, y0, x1, y1 in pixels of the image, corners continuous."""
        x0, y0 = self._to_shown(box[:2])
        x1, y1 = self._to_shown(box[2:])
        self._visualizer.draw_box((x0, y0, x1, y1), alpha=1.0, edge_color=self._paint(part))

    def point(self, point: np.ndarray, part: int) -> None:
        """Draws a ringed dot at a point [2], x, y in pixels of the image, continuous like a box's corner."""
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
        places = [(x0, y0 - height), (x0, y0), (x1 - width, y0), (x0, y1), (x1 - width, y1), (x0, y1 - height)]
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
        return round(text_width(text, self.font_size) + 0.5 * self.font_size), round(1.3 * self.font_size)

    def _add_name(
        self, text: str, part: int, places: Sequence[tuple[float, float]], target: tuple[float, float] | None = None
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
        line, placed = max(1, self.font_size // 9), self._placed_names()
        for name, (x0, y0, x1, y1) in placed:
            if name.target and not (x0 <= name.target[0] <= x1 and y0 <= name.target[1] <= y1):
                x, y = name.target
                nearest = (min(max(x, x0), x1), min(max(y, y0), y1))
                draw.line([nearest, name.target], fill=INK, width=line + 2)
                draw.line([nearest, name.target], fill=name.color, width=line)
                draw.ellipse((x - 2 * line, y - 2 * line, x + 2 * line, y + 2 * line), fill=name.color, outline=INK)
        for name, (x0, y0, x1, y1) in placed:
            draw.rounded_rectangle((x0, y0, x1 - 1, y1 - 1), radius=self.font_size // 4, fill=name.color)
            middle = ((x0 + x1) / 2, (y0 + y1) / 2)
            font = load_font(self.font_size, name.text)
            draw.text(middle, name.text, fill=ink_on(name.color), font=font, anchor="mm")
        return np.asarray(canvas)

    def finish(self, legend: Sequence[int]) -> np.ndarray:
        """The picture, above a legend of the classes ``legend`` if there are any."""
        picture = self.picture()
        if not legend:
            return picture
        entries = [LegendEntry(self.names[c], self.color(c)) for c in legend]
        return compose([("", picture)], entries, self.font_size)


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
