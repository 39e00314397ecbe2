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

from ..structures import Boxes, BoxMode, Instances, polygons_to_bitmask
from .file_io import PathManager

# Anything matplotlib takes: a name, "#rrggbb", or three numbers in [0, 1].
Color = Any


@unique
class ColorMode(Enum):
    """Colours of instances: any, the class's own, or any on a grey picture."""

    IMAGE = 0
    SEGMENTATION = 1
    IMAGE_BW = 2


def _rgb(color: Color, gain: float = 1.0, lift: float = 0.0) -> tuple[int, ...]:
    """uint8 values of a colour, made darker (gain < 1) or brighter (lift > 0)."""
    values = mplc.to_rgb(color if isinstance(color, str) else tuple(color))
    return tuple(round(255 * (gain * value + lift)) for value in values)


def _random_color() -> Color:
    return colorsys.hsv_to_rgb(random.random(), random.uniform(0.6, 1.0), random.uniform(0.7, 1.0))


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib carries a font, so that names look the same on every machine.
    return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


class VisImage:
    """A picture being drawn: RGB uint8 [H, W, 3], drawn on at ``scale`` times its size."""

    def __init__(self, img: np.ndarray, scale: float = 1.0) -> None:
        self.img, self.scale = img, scale
        self.height, self.width = img.shape[:2]
        # Rounded down as Detectron2 does, but 0.7 * 10 = 6.999... counts as 7.
        size = (max(1, int(self.width * scale + 0.01)), max(1, int(self.height * scale + 0.01)))
        # A copy even at scale 1: what was given stays as it is.
        self.canvas = cv2.resize(img, size) if scale != 1 else img.copy()

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
        self, img_rgb: np.ndarray, metadata: Any = None, scale: float = 1.0, instance_mode: ColorMode = ColorMode.IMAGE
    ) -> None:
        self.img = np.ascontiguousarray(np.asarray(img_rgb).clip(0, 255).astype(np.uint8))
        self.metadata = metadata
        self.output = VisImage(self.img, scale=scale)
        self._instance_mode = instance_mode
        self._default_font_size = max(np.sqrt(self.img.shape[0] * self.img.shape[1]) // 90, 10 // scale)

    def draw_instance_predictions(self, predictions: Instances) -> VisImage:
        """Draws ``pred_boxes``, ``pred_masks``, and class names with ``scores``, where there are such fields."""
        fields = predictions.to("cpu").get_fields()
        masks = fields.get("pred_masks")
        if self._instance_mode == ColorMode.IMAGE_BW:
            keep = (
                np.logical_or.reduce(np.asarray(masks), axis=0)
                if masks is not None and len(masks)
                else np.zeros(self.img.shape[:2], bool)
            )
            gray = self.img.mean(axis=2, keepdims=True).repeat(3, axis=2).astype(np.uint8)
            self.output = VisImage(np.where(keep[..., None], self.img, gray), self.output.scale)
        scores, classes = fields.get("scores"), fields.get("pred_classes")
        labels, colors = self._names_and_colors([] if classes is None else classes.tolist())
        if scores is not None:
            labels = [f"{name} {score:.0%}" for name, score in zip(labels or [""] * len(scores), scores.tolist())]
        boxes, alpha = fields.get("pred_boxes"), 0.5 if colors is None else 0.8
        return self.overlay_instances(
            boxes=boxes, masks=masks, labels=labels or None, assigned_colors=colors, alpha=alpha
        )

    def draw_dataset_dict(self, dic: dict) -> VisImage:
        """Draws the annotations and the label image of a record."""
        annotations = dic.get("annotations")
        if annotations:
            boxes = [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
            masks = [a["segmentation"] for a in annotations if a.get("segmentation")]
            labels, colors = self._names_and_colors([a["category_id"] for a in annotations])
            self.overlay_instances(
                boxes=np.array(boxes),
                masks=masks if len(masks) == len(annotations) else None,
                labels=labels,
                assigned_colors=colors,
            )
        if "sem_seg_file_name" in dic:
            with PathManager.open(dic["sem_seg_file_name"], "rb") as f:
                self.draw_sem_seg(np.asarray(Image.open(f)), alpha=0.5)
        return self.output

    def _names_and_colors(self, classes: list[int]) -> tuple[list[str], list[Color] | None]:
        names = self.metadata.get("thing_classes") if self.metadata is not None else None
        colors = self.metadata.get("thing_colors") if self.metadata is not None else None
        own = [np.asarray(colors[c]) / 255 for c in classes] if colors is not None else None
        labels = [names[c] if names else str(c) for c in classes]
        return labels, own if self._instance_mode == ColorMode.SEGMENTATION else None

    def draw_sem_seg(self, sem_seg: np.ndarray | torch.Tensor, area_threshold: int = 0, alpha: float = 0.8) -> VisImage:
        """Draws labels [H, W], the largest first; labels that ``stuff_classes`` does not name are left bare."""
        labels = np.asarray(sem_seg.cpu() if isinstance(sem_seg, torch.Tensor) else sem_seg)
        names, colors = self.metadata.stuff_classes, self.metadata.get("stuff_colors")
        values, areas = np.unique(labels, return_counts=True)
        for label in values[np.argsort(-areas)]:
            if label < len(names):
                color = None if colors is None else np.asarray(colors[label]) / 255
                mask = labels == label
                keys = {"text": names[label], "alpha": alpha, "area_threshold": area_threshold}
                self.draw_binary_mask(mask, color, edge_color="ivory", **keys)
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
        corners = None if boxes is None else np.asarray(boxes.tensor if isinstance(boxes, Boxes) else boxes)
        bitmaps = None if masks is None else [self._bitmap(mask) for mask in masks]
        areas = np.zeros(0)
        if bitmaps is not None:
            areas = np.array([bitmap.sum() for bitmap in bitmaps])
        elif corners is not None:
            areas = np.prod(corners[:, 2:] - corners[:, :2], axis=1)
        colors = assigned_colors or [_random_color() for _ in areas]
        order = np.argsort(-areas, kind="stable")
        for k in order:
            if bitmaps is not None:
                self.draw_binary_mask(bitmaps[k], colors[k], alpha=alpha)
            if corners is not None:
                self.draw_box(corners[k], edge_color=colors[k])
        if labels is None:
            return self.output
        # Names last, so that no mask covers them.
        for k in order:
            if corners is not None:
                self.draw_text(labels[k], corners[k][:2], color=colors[k], horizontal_alignment="left")
            elif bitmaps is not None and bitmaps[k].any():
                self.draw_text(labels[k], _centre(bitmaps[k]), color=colors[k])
        return self.output

    def draw_text(
        self,
        text: str,
        position: Sequence[float],
        *,
        font_size: float | None = None,
        color: Color = "g",
        horizontal_alignment: str = "center",
    ) -> VisImage:
        """Writes on a dark plate whose top is at ``position``; it is kept inside the picture."""
        size = max(6, round((font_size or self._default_font_size) * self.output.scale * 1.4))
        x0, y0, x1, y1 = _font(size).getbbox(text)
        plate = Image.new("RGBA", (int(x1 - x0) + 4, int(y1 - y0) + 4), (0, 0, 0, 200))
        # Brighter: too dark a colour could not be read on the plate.
        ImageDraw.Draw(plate).text((2 - x0, 2 - y0), text, font=_font(size), fill=_rgb(color, 0.6, 0.4))
        canvas = Image.fromarray(self.output.canvas)
        shift = {"left": 0.0, "center": 0.5, "right": 1.0}[horizontal_alignment]
        left = int(position[0] * self.output.scale - shift * plate.width)
        top = int(position[1] * self.output.scale)
        left = max(min(left, canvas.width - plate.width), 0)
        top = max(min(top, canvas.height - plate.height), 0)
        canvas.paste(plate, (left, top), plate)
        self.output.canvas = np.array(canvas)
        return self.output

    def draw_box(self, box_coord: Sequence[float], alpha: float = 0.5, edge_color: Color = "g") -> VisImage:
        """Draws the outline of a box x0, y0, x1, y1."""
        layer = self.output.canvas.copy()
        # Coordinates are corners of pixels, OpenCV's are centres; the shift gives it 1/16 of a pixel.
        x0, y0, x1, y1 = (round(16 * (float(v) * self.output.scale - 0.5)) for v in box_coord)
        width = max(1, round(self._default_font_size / 4 * self.output.scale))
        cv2.rectangle(layer, (x0, y0), (x1, y1), _rgb(edge_color), width, cv2.LINE_AA, 4)
        cv2.addWeighted(layer, alpha, self.output.canvas, 1 - alpha, 0, dst=self.output.canvas)
        return self.output

    def draw_circle(self, circle_coord: Sequence[float], color: Color, radius: float = 3) -> VisImage:
        """Fills a circle around (x, y)."""
        x, y, r = (16 * float(v) * self.output.scale for v in (*circle_coord, radius))
        cv2.circle(self.output.canvas, (round(x - 8), round(y - 8)), max(1, round(r)), _rgb(color), -1, cv2.LINE_AA, 4)
        return self.output

    def draw_binary_mask(
        self,
        binary_mask: np.ndarray,
        color: Color = None,
        *,
        edge_color: Color = None,
        text: str | None = None,
        alpha: float = 0.5,
        area_threshold: float = 10,
    ) -> VisImage:
        """Tints the pixels of a mask [H, W] and draws its outline.

        Pieces below ``area_threshold`` pixels are left out; ``text`` is written at the deepest point.
        """
        color = _random_color() if color is None else color
        mask = np.ascontiguousarray(binary_mask, dtype=np.uint8)
        if mask.shape != self.img.shape[:2]:
            raise ValueError(f"a mask of {mask.shape} on an image of {self.img.shape[:2]}")
        _, pieces, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        mask = mask * (stats[:, cv2.CC_STAT_AREA] >= area_threshold)[pieces].astype(np.uint8)
        if not mask.any():
            return self.output
        canvas = self.output.canvas
        shown = cv2.resize(mask, canvas.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        inside = shown.astype(bool)
        canvas[inside] = np.round((1 - alpha) * canvas[inside] + alpha * np.array(_rgb(color))).astype(np.uint8)
        outline, _ = cv2.findContours(shown, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        edge = _rgb(color, 0.5) if edge_color is None else _rgb(edge_color)
        width = max(1, round(self._default_font_size / 15 * self.output.scale))
        cv2.drawContours(canvas, outline, -1, edge, width)
        return self.output if text is None else self.draw_text(text, _centre(mask), color=color)

    def get_output(self) -> VisImage:
        """The picture so far."""
        return self.output

    def _bitmap(self, mask: Any) -> np.ndarray:
        """One mask of any kind as bool [H, W]."""
        height, width = self.img.shape[:2]
        if isinstance(mask, dict):
            rle = mask_util.frPyObjects(mask, height, width) if isinstance(mask["counts"], list) else mask
            return mask_util.decode(rle).astype(bool)
        if isinstance(mask, list):
            return polygons_to_bitmask(mask, height, width)
        return np.asarray(mask.cpu() if isinstance(mask, torch.Tensor) else mask).astype(bool)


def _centre(mask: np.ndarray) -> tuple[float, float]:
    """The point (x, y) deepest inside a mask and the picture: unlike the mean, it is on the mask."""
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 3)
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(x - 1), float(y - 1)
