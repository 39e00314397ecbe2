"""Pages of HTML without scripts, every picture inside them, so that each can be sent as one file."""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np
from PIL import Image

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1320px; margin: 2em auto; padding: 0 1.5em }
h2 { margin-top: 2em; border-bottom: 1px solid #ccc }
table { border-collapse: collapse; margin: .6em 0 1.4em }
td, th { padding: .15em .8em; text-align: right; font-variant-numeric: tabular-nums; border-bottom: 1px solid #ddd }
th { border-bottom-color: #888 }
td:first-child, th:first-child { text-align: left }
img { max-width: 100% }
figure { margin: 0 }
figcaption, .note { color: #666; font-size: .9em }
"""


def html_page(title: str, body: str, style: str = "") -> str:
    """A whole page; ``title`` is text, ``body`` HTML, ``style`` CSS beside that of all pages."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}{style}</style>'
    return f"<!doctype html>\n<html><head>{head}</head><body>{body}</body></html>\n"


def image_element(image: np.ndarray, alt: str) -> str:
    """A picture uint8 [H, W, 3] RGB as an <img> that holds it, as JPEG; ``alt`` is text."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=88)
    return image_data(buffer.getvalue(), "jpeg", alt)


def image_data(content: bytes, kind: str, alt: str) -> str:
    """An encoded picture of ``kind`` "jpeg" or "png" as an <img> that holds it."""
    return f'<img alt="{escape(alt)}" src="data:image/{kind};base64,{base64.b64encode(content).decode()}">'
