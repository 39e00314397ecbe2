"""Brush masks of Label Studio: the RGBA picture of a mask, packed by its rle-pack.

Bits, the highest of each byte first: 32 for the count of values, 5 for the size of a value less 1, four times 4 for
sizes of lengths less 1. Then runs: one bit, whether a single value is repeated; two bits, the size of the length; the
length less 1; and one value, or as many as the length says.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from wps_sam.data.sources.fields import shown

import numpy as np

_VALUE_BITS = 8
_LENGTH_BITS = (3, 4, 8, 16)


def pack(mask: np.ndarray) -> list[int]:
    """The bytes of a mask bool [H, W], as Label Studio's own tools make them: 255 in all four channels, or 0."""
    pixels = mask.ravel()
    bits = [f"{4 * len(pixels):032b}{_VALUE_BITS - 1:05b}", *(f"{size - 1:04b}" for size in _LENGTH_BITS)]
    borders = [0, *(np.flatnonzero(pixels[1:] != pixels[:-1]) + 1).tolist(), len(pixels)]
    for start, end in pairwise(borders):
        left = 4 * (end - start)
        while left:
            length = min(left, 1 << _LENGTH_BITS[-1])
            kind = next(k for k, size in enumerate(_LENGTH_BITS) if length <= 1 << size)
            bits.append(f"1{kind:02b}{length - 1:0{_LENGTH_BITS[kind]}b}{255 * int(pixels[start]):0{_VALUE_BITS}b}")
            left -= length
    joined = "".join(bits)
    size = -(-len(joined) // 8)
    return list(int(joined.ljust(8 * size, "0"), 2).to_bytes(size, "big"))


def unpack(rle: Any, height: int, width: int, where: str) -> np.ndarray:
    """The mask bool [height, width] of such bytes: where the picture is not transparent.

    Raises:
        ValueError: begins with ``where``; these are no bytes of such a picture.
    """
    if not isinstance(rle, list) or not all(isinstance(b, int) and 0 <= b < 256 for b in rle):
        raise ValueError(f"{where}: expected a list of bytes, got {shown(rle)}")
    packed, at = bytes(rle), 0

    def take(bits: int) -> int:
        nonlocal at
        end = at + bits
        if end > 8 * len(packed):
            raise ValueError(f"{where}: ends before the picture of {height} x {width} is full")
        word = int.from_bytes(packed[at // 8 : (end + 7) // 8], "big")
        at = end
        return (word >> (-end % 8)) & ((1 << bits) - 1)

    total, value_bits = take(32), take(5) + 1
    length_bits = [take(4) + 1 for _ in range(4)]
    if total != 4 * height * width:
        raise ValueError(f"{where}: expected 4 * {height} * {width} values (RGBA), got {total}")
    values, lengths, filled = [], [], 0
    while filled < total:
        is_run, length = take(1), take(length_bits[take(2)]) + 1
        filled += length
        values += [take(value_bits)] if is_run else [take(value_bits) for _ in range(length)]
        lengths += [length] if is_run else [1] * length
    return np.repeat(np.array(values) > 0, lengths)[:total].reshape(height, width, 4)[..., 3]
