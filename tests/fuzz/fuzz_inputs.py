"""Honest files, and hypothesis strategies that damage them; each input is the bytes of one file."""

from __future__ import annotations

import copy
import json
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]

_PNG = b"\x89PNG\r\n\x1a\n"
# What stands where something else is expected.
ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 7, 255, 2**31, 2**63, -(2**63) - 1, 10**30, 10**400),
    *(1.5, -0.5, 1e-320, 1e9, 1e308, float("nan"), float("inf"), -float("inf")),
    *("", " ", "x", "7", "1e5", "NaN", "\0", "\ud800", "b'6'", "a" * 3000, "../../x.png", "/etc/passwd", "."),
    *([], [0], [None], [[]], {}, {"a": 1}, [1, 2, 3, 4], [[1, 2, 3, 4, 5, 6]], [[1e9, -1e9, 5e8, 1, 2, 3]]),
    *({"size": [20, 30], "counts": [600]}, {"size": [20, 30], "counts": "abc"}),
]
_ODD_WORDS = [
    *("", "0", "-1", "1e999", "nan", "99999999999999999999", "1e8", "x", "../x", "/etc", "\0", "\ufeff", "é", '"', "'"),
    *("[" * 3000, "{" * 300, '{"a":' * 1200, "<a>" * 3000, "&a [*a]", "*a", "!!python/object/apply:os.system [x]"),
    *("2001-99-99", "!!timestamp x", "!!int ''", "!!binary x", "!!omap [a]", "? [a]\n: b", "<<: 7", "%TAG ! x"),
    *("<!DOCTYPE a [<!ENTITY b 'c'>]>", "&b;", "&#0;", "<?xml version='1.0' encoding='x'?>", "]]>"),
    *("\r", "\n\n", "\t", ",;", "x: &a [x, x, x, x]\ny: &b [*a, *a, *a, *a]\nz: [*b, *b, *b, *b]"),
]
_ODD_BYTES = [b"\0", b"\xff", b"\x7f", b"\x80", b"\0" * 8, b"\xff" * 8, b"\xff\xfe", struct.pack("<q", -1)]


@dataclass(frozen=True)
class Inputs:
    """Files that are read, and damaged ones."""

    honest: Sequence[bytes]
    damaged: st.SearchStrategy[bytes]

    def __or__(self, other: Inputs) -> Inputs:
        return Inputs([*self.honest, *other.honest], st.one_of(self.damaged, other.damaged))


def json_inputs(*wholes: Any) -> Inputs:
    return Inputs([json.dumps(whole).encode() for whole in wholes], _changed_json(wholes))


def text_inputs(*wholes: str, words: str) -> Inputs:
    """``words``: a regular expression of what is exchanged."""
    return Inputs([whole.encode() for whole in wholes], _changed_text(wholes, words))


def byte_inputs(*wholes: bytes) -> Inputs:
    return Inputs(wholes, _changed_bytes(wholes))


@st.composite
def _changed_json(draw: Draw, wholes: Sequence[Any]) -> bytes:
    """The text of a value with one to three places changed; now and then the text is changed, too."""
    value = copy.deepcopy(draw(st.sampled_from(wholes)))
    for _ in range(draw(st.integers(1, 3))):
        node, key = _place(draw, value)
        if node is not None:
            _change(draw, value, node, key)
    content = json.dumps(value).encode()
    return content if draw(st.integers(0, 9)) else _edited(draw, content)


def _place(draw: Draw, value: Any) -> tuple[Any, Any]:
    """A container in ``value`` and a key of it, reached level by level so that long lists do not take them all."""
    node, key = None, None
    while isinstance(value, dict | list) and value:
        keys = sorted(value) if isinstance(value, dict) else range(len(value))
        node, key = value, keys[draw(st.integers(0, len(keys) - 1))]
        value = value[key]
        if not draw(st.integers(0, 3)):
            break
    return node, key


def _change(draw: Draw, whole: Any, node: Any, key: Any) -> None:
    match draw(st.integers(0, 9)):
        case 0:
            del node[key]
        case 1 if isinstance(node, list):
            node.insert(key, copy.deepcopy(node[key]))
        case 2:  # What is right elsewhere.
            other, at = _place(draw, whole)
            if other is not None:
                node[key] = copy.deepcopy(other[at])
        case 3:
            node[key] = draw(st.sampled_from([[node[key]], {"x": node[key]}, str(node[key])]))
        case 4:
            node[key] = draw(st.one_of(st.integers(), st.floats(), st.text(max_size=6)))
        case _:
            node[key] = copy.deepcopy(draw(st.sampled_from(ODD)))


@st.composite
def _changed_text(draw: Draw, wholes: Sequence[str], word: str) -> bytes:
    """A text some of whose words (a regular expression) are exchanged for odd ones, doubled or gone."""
    text = draw(st.sampled_from(wholes))
    for _ in range(draw(st.integers(1, 3))):
        spans = [match.span() for match in re.finditer(word, text)] or [(0, len(text))]
        start, end = spans[draw(st.integers(0, len(spans) - 1))]
        odd = st.one_of(st.sampled_from(_ODD_WORDS), st.text(max_size=6), st.integers().map(str))
        kind = draw(st.integers(0, 5))
        new = text[start:end] * 2 if kind == 0 else "" if kind == 1 else draw(odd)
        text = text[:start] + new + text[end:]
    content = text.encode(errors="surrogatepass")
    return content if draw(st.integers(0, 9)) else _edited(draw, content)


@st.composite
def _changed_bytes(draw: Draw, wholes: Sequence[bytes]) -> bytes:
    """Bytes with one to four edits; of a PNG the checksums are sometimes made right again."""
    content = draw(st.sampled_from(wholes))
    for _ in range(draw(st.integers(1, 4))):
        content = _edited(draw, content)
    return _with_checksums(content) if content[:8] == _PNG and draw(st.booleans()) else content


def _edited(draw: Draw, content: bytes) -> bytes:
    # Headers decide more than pixels do, and are shorter.
    end = draw(st.sampled_from([len(content), min(len(content), 200)]))
    at = draw(st.integers(0, end))
    match draw(st.integers(0, 6)):
        case 0:
            return content[:at]
        case 1:
            return content[:at] + content[at + draw(st.integers(1, 40)) :]
        case 2:
            new = draw(st.sampled_from(_ODD_BYTES))
        case 3:
            number = draw(st.sampled_from([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 13000, 70000]))
            new = struct.pack(draw(st.sampled_from([">I", "<I"])), number)
        case 4:
            new = draw(st.binary(min_size=1, max_size=4))
        case 5:
            start = draw(st.integers(0, len(content)))
            new = content[start : start + draw(st.integers(1, 40))]
            return content[:at] + new + content[at:]
        case _:
            return (
                content[:at] + bytes([content[at] ^ (1 << draw(st.integers(0, 7)))]) + content[at + 1 :]
                if (at < len(content))
                else content
            )
    return content[:at] + new + content[at + len(new) :]


def _with_checksums(content: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what is in them now. The format: length, name, content, CRC-32."""
    parts, at = [content[:8]], 8
    while at + 12 <= len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        body = content[at + 4 : at + 8 + length]
        if len(body) < 4 + length:
            break
        parts += [content[at : at + 4], body, struct.pack(">I", zlib.crc32(body))]
        at += 12 + length
    return b"".join([*parts, content[at:]])
