"""Panels side by side, with titles and one legend below them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wps_sam.visualization.fonts import load_font, text_width

import numpy as np
from PIL import Image, ImageDraw

PAPER, INK, FAINT_INK = (255, 255, 255), (24, 24, 24), (120, 120, 120)


@dataclass(frozen=True)
class LegendEntry:
    """One line of a legend."""

    name: str
    color: tuple[int, int, int]
    remark: str = ""


def compose(panels: Sequence[tuple[str, np.ndarray]], entries: Sequence[LegendEntry], size: int) -> np.ndarray:
    """Panels (title, uint8 [H, W, 3], all of one shape) in a row or a column, and the legend below them.

    ``size`` is the height of a letter in pixels.
    """
    height, width = panels[0][1].shape[:2]
    titled = any(title for title, _ in panels)
    gap, title_size = max(4, size // 2), round(1.15 * size)
    bar = round(1.6 * title_size) if titled else 0
    cell = max([width] + [round(text_width(title, title_size)) for title, _ in panels])
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
            middle = (x + cell / 2, y + bar / 2)
            draw.text(middle, title, fill=INK, font=load_font(title_size, title), anchor="mm")
        canvas.paste(Image.fromarray(picture), (x + (cell - width) // 2, y + bar))
    y = margin + body_height + gap
    for line in lines:
        x = margin
        for index in line:
            _draw_entry(draw, x, y, line_height, entries[index], size)
            x += widths[index] + size
        y += line_height
    return np.asarray(canvas)


def _entry_width(entry: LegendEntry, size: int) -> int:
    remark = text_width(" " + entry.remark, size) if entry.remark else 0
    return round(1.5 * size + text_width(entry.name, size) + remark)


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


def _draw_entry(draw: ImageDraw.ImageDraw, x: int, y: int, height: int, entry: LegendEntry, size: int) -> None:
    middle, half = y + height / 2, size / 2
    draw.rounded_rectangle((x, middle - half, x + size, middle + half), radius=size // 5, fill=entry.color)
    start = x + 1.5 * size
    draw.text((start, middle), entry.name, fill=INK, font=load_font(size, entry.name), anchor="lm")
    if entry.remark:
        start += text_width(entry.name, size)
        remark = " " + entry.remark
        draw.text((start, middle), remark, fill=FAINT_INK, font=load_font(size, remark), anchor="lm")
