"""Drawing annotations and predictions on images, with OpenCV for shapes and PIL for text."""

from __future__ import annotations

import colorsys
import os
import random
from collections.abc import Sequence
from enum import Enum, unique
from functools import lru_cache
from typing import Any

import cv2
import matplotlib
import matplotlib.colors as mplc
import numpy as np
import pycocotools.mask as mask_util
import torch
from PIL import Image, ImageDraw, ImageFont

from ..structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks, polygons_to_bitmask
from .file_io import PathManager

__all__ = ["ColorMode", "VisImage", "Visualizer"]

Color = str | Sequence[float]

_OFF_WHITE = (1.0, 1.0, 240.0 / 255)


@unique
class ColorMode(Enum):
    """Colours of instances: any, the class's own, or any on a grey picture."""

    IMAGE = 0
    SEGMENTATION = 1
    IMAGE_BW = 2


def _rgb(color: Color) -> tuple[int, int, int]:
    """uint8 values of any colour that matplotlib knows."""
    r, g, b = (round(255 * c) for c in mplc.to_rgb(color if isinstance(color, str) else tuple(color)))
    return r, g, b


def random_color() -> Color:
    """A strong colour, as floats in [0, 1]."""
    return colorsys.hsv_to_rgb(random.random(), random.uniform(0.6, 1.0), random.uniform(0.7, 1.0))


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib carries a font, so that names look the same on every machine.
    return ImageFont.truetype(
        os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size
    )


class VisImage:
    """A picture being drawn: ``img`` RGB [H, W, 3] in [0, 255], drawn on at ``scale`` times its size."""

    def __init__(self, img: np.ndarray, scale: float = 1.0) -> None:
        self.scale = scale
        self.reset_image(img)

    def reset_image(self, img: np.ndarray) -> None:
        """Begins again on another picture of the same size."""
        self.img = np.ascontiguousarray(np.clip(img, 0, 255).astype(np.uint8))
        self.height, self.width = img.shape[:2]
        size = (max(1, round(self.width * self.scale)), max(1, round(self.height * self.scale)))
        # A copy even at scale 1: what was given stays as it is.
        self.canvas = cv2.resize(self.img, size) if self.scale != 1 else self.img.copy()

    def save(self, filepath: str) -> None:
        """Writes the picture; the extension tells the format."""
        Image.fromarray(self.canvas).save(filepath)

    def get_image(self) -> np.ndarray:
        """Returns uint8 RGB [H * scale, W * scale, 3]."""
        return self.canvas.copy()


class Visualizer:
    """Draws on ``img_rgb`` [H, W, 3], RGB in [0, 255]; ``output`` is the picture so far.

    Coordinates are pixels of ``img_rgb``; colours are anything matplotlib takes. Names and colours of
    classes come from ``metadata``: thing_classes, thing_colors, stuff_classes, stuff_colors (uint8 RGB).
    """

    def __init__(
        self,
        img_rgb: np.ndarray,
        metadata: Any = None,
        scale: float = 1.0,
        instance_mode: ColorMode = ColorMode.IMAGE,
    ) -> None:
        self.img = np.asarray(img_rgb).clip(0, 255).astype(np.uint8)
        self.metadata = metadata
        self.output = VisImage(self.img, scale=scale)
        self._instance_mode = instance_mode
        height, width = self.img.shape[:2]
        self._default_font_size = max(np.sqrt(height * width) // 90, 10 // scale)

    # ---- whole records and predictions

    def draw_instance_predictions(self, predictions: Instances) -> VisImage:
        """Draws ``pred_boxes``, ``pred_masks``, and class names with ``scores``, where there are such fields."""
        boxes = predictions.pred_boxes if predictions.has("pred_boxes") else None
        scores = predictions.scores.tolist() if predictions.has("scores") else None
        classes = predictions.pred_classes.tolist() if predictions.has("pred_classes") else None
        masks = np.asarray(predictions.pred_masks.cpu()) if predictions.has("pred_masks") else None
        if self._instance_mode == ColorMode.IMAGE_BW:
            shown = masks.any(axis=0) if masks is not None and len(masks) else None
            self.output.reset_image(self._grayscale(shown))
        self.overlay_instances(
            boxes=boxes,
            masks=masks,
            labels=self._labels(classes, scores),
            assigned_colors=self._class_colors(classes)
            if self._instance_mode == ColorMode.SEGMENTATION
            else None,
        )
        return self.output

    def draw_dataset_dict(self, dic: dict) -> VisImage:
        """Draws the annotations and the label image of a record."""
        annotations = dic.get("annotations")
        if annotations:
            boxes = [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
            classes = [a["category_id"] for a in annotations]
            self.overlay_instances(
                boxes=np.array(boxes),
                masks=[a["segmentation"] for a in annotations] if "segmentation" in annotations[0] else None,
                labels=self._labels(classes, None, [a.get("iscrowd", 0) for a in annotations]),
                assigned_colors=self._class_colors(classes)
                if self._instance_mode == ColorMode.SEGMENTATION
                else None,
            )
        labels = dic.get("sem_seg")
        if labels is None and "sem_seg_file_name" in dic:
            with PathManager.open(dic["sem_seg_file_name"], "rb") as f:
                labels = np.asarray(Image.open(f))
        if labels is not None:
            self.draw_sem_seg(labels, area_threshold=0, alpha=0.5)
        return self.output

    def draw_sem_seg(
        self,
        sem_seg: np.ndarray | torch.Tensor,
        area_threshold: int | None = None,
        alpha: float = 0.8,
        draw_text: bool = True,
        edge_color: Color = _OFF_WHITE,
    ) -> VisImage:
        """Draws labels [H, W], the largest first; labels that ``stuff_classes`` does not name are left bare."""
        labels = sem_seg.cpu().numpy() if isinstance(sem_seg, torch.Tensor) else np.asarray(sem_seg)
        values, areas = np.unique(labels, return_counts=True)
        names = self.metadata.stuff_classes
        colors = self.metadata.get("stuff_colors")
        for label in values[np.argsort(-areas)]:
            if label < len(names):
                self.draw_binary_mask(
                    labels == label,
                    color=np.asarray(colors[label]) / 255 if colors is not None else None,
                    edge_color=edge_color,
                    text=names[label] if draw_text else None,
                    alpha=alpha,
                    area_threshold=area_threshold or 0,
                )
        return self.output

    def overlay_instances(
        self,
        *,
        boxes: Any = None,
        labels: Sequence[str] | None = None,
        masks: Any = None,
        assigned_colors: Sequence[Color] | None = None,
        alpha: float = 0.5,
    ) -> VisImage:
        """Draws N instances, the largest first.

        ``boxes`` Boxes or [N, 4] xyxy; ``masks`` BitMasks, PolygonMasks, [N, H, W], or a list of polygons or
        RLEs; ``labels`` N texts; ``assigned_colors`` N colours, drawn at random if not given.
        """
        corners = None
        if boxes is not None:
            corners = (
                boxes.tensor.cpu().numpy() if isinstance(boxes, Boxes) else np.asarray(boxes).reshape(-1, 4)
            )
        bitmaps = [self._bitmap(mask) for mask in self._each(masks)] if masks is not None else None
        count = len(bitmaps) if bitmaps is not None else len(corners) if corners is not None else 0
        if assigned_colors is None:
            assigned_colors = [random_color() for _ in range(count)]
        if bitmaps is not None:
            areas = [bitmap.sum() for bitmap in bitmaps]
        else:
            areas = [] if corners is None else np.prod(corners[:, 2:] - corners[:, :2], axis=1).tolist()
        order = sorted(range(count), key=lambda k: -areas[k])
        for k in order:
            if bitmaps is not None:
                self.draw_binary_mask(bitmaps[k], color=assigned_colors[k], alpha=alpha)
            if corners is not None:
                self.draw_box(corners[k], edge_color=assigned_colors[k])
        for k in order if labels is not None else ():
            if corners is not None:
                x, y, alignment = float(corners[k][0]), float(corners[k][1]), "left"
            elif bitmaps is not None and bitmaps[k].any():
                (x, y), alignment = self._centre(bitmaps[k]), "center"
            else:
                continue
            self.draw_text(
                labels[k], (x, y), color=self._brighter(assigned_colors[k]), horizontal_alignment=alignment
            )
        return self.output

    # ---- primitives

    def draw_text(
        self,
        text: str,
        position: tuple[float, float],
        *,
        font_size: float | None = None,
        color: Color = "g",
        horizontal_alignment: str = "center",
        rotation: int = 0,
    ) -> VisImage:
        """Writes on a dark plate whose top is at ``position``; it is kept inside the picture."""
        size = max(6, round((font_size or self._default_font_size) * self.output.scale * 1.4))
        x0, y0, x1, y1 = _font(size).getbbox(text)
        plate = Image.new("RGBA", (int(x1 - x0) + 4, int(y1 - y0) + 4), (0, 0, 0, 200))
        # Too dark a colour could not be read on the plate.
        bright = np.maximum(mplc.to_rgb(color if isinstance(color, str) else tuple(color)), 0.2)
        bright[np.argmax(bright)] = max(0.8, bright.max())
        ImageDraw.Draw(plate).text((2 - x0, 2 - y0), text, font=_font(size), fill=(*_rgb(bright), 255))
        if rotation:
            plate = plate.rotate(rotation, expand=True)
        shift = {"left": 0.0, "center": 0.5, "right": 1.0}[horizontal_alignment]
        left = int(position[0] * self.output.scale - shift * plate.width)
        top = int(position[1] * self.output.scale)
        canvas = Image.fromarray(self.output.canvas)
        left = min(max(left, 0), max(canvas.width - plate.width, 0))
        top = min(max(top, 0), max(canvas.height - plate.height, 0))
        canvas.paste(plate, (left, top), plate)
        self.output.canvas = np.array(canvas)
        return self.output

    def draw_box(
        self, box_coord: Sequence[float], alpha: float = 0.5, edge_color: Color = "g", line_style: str = "-"
    ) -> VisImage:
        """Draws the outline of a box x0, y0, x1, y1; ``line_style`` "-" or dashed "--"."""
        x0, y0, x1, y1 = (float(v) for v in box_coord)
        corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
        return self._stroke(corners, edge_color, self._line_width(4), alpha, line_style)

    def draw_circle(self, circle_coord: Sequence[float], color: Color, radius: float = 3) -> VisImage:
        """Fills a circle around (x, y)."""
        x, y, r = (float(v) * self.output.scale for v in (*circle_coord, radius))
        # OpenCV takes whole numbers; the shift gives it 1/16 of a pixel.
        centre = (round(16 * (x - 0.5)), round(16 * (y - 0.5)))
        cv2.circle(self.output.canvas, centre, max(1, round(16 * r)), _rgb(color), -1, cv2.LINE_AA, 4)
        return self.output

    def draw_binary_mask(
        self,
        binary_mask: np.ndarray,
        color: Color | None = None,
        *,
        edge_color: Color | None = None,
        text: str | None = None,
        alpha: float = 0.5,
        area_threshold: float = 10,
    ) -> VisImage:
        """Tints the pixels of a mask [H, W] and draws its outline.

        Pieces below ``area_threshold`` pixels are left out; ``text`` is written on the largest piece.
        """
        color = random_color() if color is None else color
        mask = np.ascontiguousarray(binary_mask, dtype=np.uint8)
        if mask.shape != self.img.shape[:2]:
            raise ValueError(f"a mask of {mask.shape} on an image of {self.img.shape[:2]}")
        count, pieces, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        if area_threshold > 1:
            small = [k for k in range(1, count) if stats[k, cv2.CC_STAT_AREA] < area_threshold]
            mask[np.isin(pieces, small)] = 0
        if not mask.any():
            return self.output
        canvas = self.output.canvas
        scaled = (
            cv2.resize(mask, canvas.shape[1::-1], interpolation=cv2.INTER_NEAREST)
            if self.output.scale != 1
            else mask
        )
        inside = scaled.astype(bool)
        canvas[inside] = np.round((1 - alpha) * canvas[inside] + alpha * np.array(_rgb(color))).astype(
            np.uint8
        )
        outline, _ = cv2.findContours(scaled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        edge = self._darker(color) if edge_color is None else edge_color
        cv2.drawContours(canvas, outline, -1, _rgb(edge), max(1, round(self._line_width(15))), cv2.LINE_AA)
        if text is not None:
            self.draw_text(text, self._centre(mask), color=self._brighter(color))
        return self.output

    def get_output(self) -> VisImage:
        """The picture so far."""
        return self.output

    # ---- helpers

    def _line_width(self, divisor: float) -> float:
        return max(self._default_font_size / divisor * self.output.scale, 1)

    def _stroke(
        self, points: list[tuple[float, float]], color: Color, width: float, alpha: float, style: str
    ) -> VisImage:
        canvas = self.output.canvas
        layer = canvas.copy()
        # Coordinates are corners of pixels, OpenCV's are centres.
        path = np.asarray(points, dtype=np.float64) * self.output.scale - 0.5
        for start, end in zip(path[:-1], path[1:]):
            length = float(np.linalg.norm(end - start))
            dash = 4 * width if style in ("--", "dashed") else max(length, 1.0)
            for begin in np.arange(0, max(length, 1e-6), 2 * dash):
                a, b = (
                    start + (end - start) * (min(t, length) / max(length, 1e-6))
                    for t in (begin, begin + dash)
                )
                cv2.line(
                    layer, np.round(16 * a).astype(int).tolist(), np.round(16 * b).astype(int).tolist(),
                    _rgb(color), max(1, round(width)), cv2.LINE_AA, 4,
                )  # fmt: skip
        cv2.addWeighted(layer, alpha, canvas, 1 - alpha, 0, dst=canvas)
        return self.output

    def _centre(self, mask: np.ndarray) -> tuple[float, float]:
        """The point deepest inside a mask: unlike the mean, it is on it. Away from the picture's edge too."""
        padded = np.pad(np.asarray(mask, dtype=np.uint8), 1)
        depth = cv2.distanceTransform(padded, cv2.DIST_L2, 3)
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
        return float(x - 1), float(y - 1)

    def _each(self, masks: Any) -> list[Any]:
        if isinstance(masks, PolygonMasks):
            return masks.polygons
        return list(masks.tensor if isinstance(masks, BitMasks) else masks)

    def _bitmap(self, mask: Any) -> np.ndarray:
        """One mask of any kind as bool [H, W]."""
        height, width = self.img.shape[:2]
        if isinstance(mask, dict):
            rle = mask_util.frPyObjects(mask, height, width) if isinstance(mask["counts"], list) else mask
            return mask_util.decode(rle).astype(bool)
        if isinstance(mask, list):
            return polygons_to_bitmask([np.asarray(polygon).reshape(-1) for polygon in mask], height, width)
        return np.asarray(mask.cpu() if isinstance(mask, torch.Tensor) else mask).astype(bool)

    def _labels(
        self,
        classes: list[int] | None,
        scores: list[float] | None,
        crowds: list[int] | None = None,
    ) -> list[str] | None:
        if classes is None:
            return None if scores is None else [f"{score * 100:.0f}%" for score in scores]
        names = self.metadata.get("thing_classes") if self.metadata is not None else None
        labels = [names[c] if names else str(c) for c in classes]
        if scores is not None:
            labels = [f"{label} {score * 100:.0f}%" for label, score in zip(labels, scores)]
        if crowds is not None:
            labels = [label + ("|crowd" if crowd else "") for label, crowd in zip(labels, crowds)]
        return labels

    def _class_colors(self, classes: list[int] | None) -> list[Color] | None:
        colors = self.metadata.get("thing_colors") if self.metadata is not None else None
        if classes is None or not colors:
            return None
        return [tuple(channel / 255 for channel in colors[c]) for c in classes]

    def _grayscale(self, keep: np.ndarray | None) -> np.ndarray:
        """The picture in grey, in colour where ``keep`` [H, W] is set."""
        gray = np.repeat(self.img.astype(np.float32).mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
        if keep is not None:
            gray[keep] = self.img[keep]
        return gray

    def _darker(self, color: Color) -> Color:
        return tuple(
            0.5 * channel for channel in mplc.to_rgb(color if isinstance(color, str) else tuple(color))
        )

    def _brighter(self, color: Color) -> Color:
        return tuple(0.4 + 0.6 * c for c in mplc.to_rgb(color if isinstance(color, str) else tuple(color)))
