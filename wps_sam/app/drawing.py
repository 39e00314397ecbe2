"""A scene as a drawing that a browser shows: the photo and, on it, one shape a part with its name."""

from __future__ import annotations

import base64
import io
from html import escape

import cv2
import numpy as np
from PIL import Image

from ..prompt_evaluation import Click
from ..visualization import part_colors
from .scene import Scene, ScenePart

# What a browser shows of a corner that deviates by less, in pixels, nobody sees.
_TOLERANCE = 0.6

STYLE = """
.scene { position: relative; text-align: center; line-height: 0 }
.scene svg { width: 100%; max-height: 74vh; cursor: crosshair; touch-action: none; user-select: none }
.scene path { fill-opacity: .4; stroke: #fff; stroke-opacity: .8; stroke-width: 1; vector-effect: non-scaling-stroke }
.scene path:hover { fill-opacity: .7; stroke-width: 2.5; stroke-opacity: 1 }
.scene path.chosen { stroke: #ffd400; stroke-width: 3; stroke-opacity: 1; fill-opacity: .55 }
.scene .box, .scene .drag { fill: none; stroke: #ffd400; stroke-width: 2; stroke-dasharray: 6 4;
    vector-effect: non-scaling-stroke; pointer-events: none }
.scene .click { stroke: #fff; stroke-width: 2; vector-effect: non-scaling-stroke; pointer-events: none }
.scene .tip { position: absolute; display: none; padding: .45em .6em; border-radius: .4em; background: #222;
    color: #fff; font-size: 14px; line-height: 1; pointer-events: none; white-space: nowrap }
.scene .empty { line-height: 1.6; padding: 6em 1em; border: 2px dashed #bbb; border-radius: .6em; color: #777 }
"""


def draw(scene: Scene | None) -> str:
    """HTML of the photo with its parts, the chosen one with its box and clicks; of no scene, a hint.

    Each part is a path with its number and its name, ``data-number`` and ``data-name``; one picture unit is one pixel.
    """
    if scene is None:
        return '<div class="scene"><div class="empty">Drop a photo here, or at the right.</div></div>'
    height, width = scene.found.coarse_map.shape
    colors = part_colors(scene.found.class_names)
    # A small part on a large one is to be seen, and to be hit.
    shown = sorted(scene.shown, key=lambda part: -int(part.mask.sum()))
    shapes = [_shape(scene, part, tuple(colors[part.class_id].tolist())) for part in shown]
    chosen = next((part for part in shown if part.number == scene.chosen), None)
    marks = [] if chosen is None else _marks(chosen, radius=max(height, width) / 120)
    return (
        f'<div class="scene"><svg viewBox="0 0 {width} {height}"><image width="{width}" height="{height}" '
        f'href="{_data_url(scene.found.coarse_image())}"></image><g>{"".join(shapes)}</g><g>{"".join(marks)}</g>'
        '<rect class="drag" width="0" height="0"></rect></svg><div class="tip"></div></div>'
    )


def label(scene: Scene, part: ScenePart) -> str:
    """What a part is called in lists: its number, from 1, its name, and its score or that it is a user's."""
    return f"{part.number + 1}. {scene.name_of(part)}, {'by hand' if part.by_hand else f'{part.score:.2f}'}"


def _shape(scene: Scene, part: ScenePart, color: tuple[int, ...]) -> str:
    kind = ' class="chosen"' if part.number == scene.chosen else ""
    return (
        f'<path{kind} data-number="{part.number}" data-name="{escape(label(scene, part))}" fill="rgb{color}" '
        f'fill-rule="evenodd" d="{_outline(part.mask)}"></path>'
    )


def _outline(mask: np.ndarray) -> str:
    """The borders of a mask bool [H, W], those of holes among them, as the path of an SVG."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    lines = []
    for contour in contours:
        # Through the centres of pixels.
        corners = cv2.approxPolyDP(contour, _TOLERANCE, True)[:, 0] + 0.5
        lines.append("M" + "L".join(f"{x:g} {y:g}" for x, y in corners) + "Z")
    return "".join(lines)


def _marks(part: ScenePart, radius: float) -> list[str]:
    marks = []
    if part.box is not None:
        x0, y0, x1, y1 = part.box
        marks.append(f'<rect class="box" x="{x0:g}" y="{y0:g}" width="{x1 - x0:g}" height="{y1 - y0:g}"></rect>')
    return marks + [_spot(click, radius) for click in part.clicks]


def _spot(click: Click, radius: float) -> str:
    color = "#18a957" if click.inside else "#d92b2b"
    return (
        f'<circle class="click" cx="{click.x + 0.5:g}" cy="{click.y + 0.5:g}" r="{radius:g}" fill="{color}"></circle>'
    )


def _data_url(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
