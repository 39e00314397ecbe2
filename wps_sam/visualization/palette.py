"""The colour of every class, and the colour of text on it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np


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
    # cv2.cvtColor interpolates floats in a table, up to 0.5 off: palettes from it are up to 3.8 less far apart.
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


def ink_on(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever can be read on ``color``."""
    return (0, 0, 0) if srgb_to_lab(np.array(color))[0] > 58 else (255, 255, 255)
