"""Pictures cut into pieces, for the pre-training of SAM: photos of data sets with masks, generated ones, collages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from wps_sam.data.synthetic import generate
from wps_sam.masks import annotation_mask, read_picture, record_size
from wps_sam.prompt_evaluation import records_with_pieces

import cv2
import numpy as np

# A pasted object of which less is visible could not be recognised, and cannot be asked for.
_FEWEST_CUTOUT_PIXELS = 200


class Pieces(NamedTuple):
    """A picture cut into disjoint pieces: ``image`` uint8 [H, W, 3] RGB; ``piece_map`` int16 [H, W], -1 where
    nothing is labelled, else the index of a piece; ``objects`` int [K], which object each of the K pieces is of."""

    image: np.ndarray
    piece_map: np.ndarray
    objects: np.ndarray


class Source(Protocol):
    """Something that training pictures can be drawn from."""

    def sample(self, rng: np.random.Generator) -> Pieces:
        """A picture chosen by ``rng`` alone."""


def paint_pieces(masks: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """Masks bool [H, W] to one int16 piece map; the largest first, so that small ones stay visible."""
    piece_map = np.full((height, width), -1, np.int16)
    for index in sorted(range(len(masks)), key=lambda i: -int(masks[i].sum())):
        piece_map[masks[index]] = index
    return piece_map


class SyntheticSource:
    """``count`` different generated pictures, each made when it is first drawn and then kept; their sides lie between
    the two ``sizes``, in pixels.

    Making one takes about half as long as training on it; cutting a new view out of a kept one, a tenth of that.
    """

    def __init__(self, sizes: tuple[int, int], count: int) -> None:
        self.sizes, self.count = sizes, count
        self._cache: dict[int, Pieces] = {}

    def sample(self, rng: np.random.Generator) -> Pieces:
        """See :class:`Source`."""
        seed = int(rng.integers(self.count))
        if seed not in self._cache:
            size = int(np.random.default_rng(seed).integers(self.sizes[0], self.sizes[1] + 1))
            picture = generate(seed, size)
            piece_map = paint_pieces([i.mask for i in picture.instances], size, size)
            objects = np.array([i.object_id for i in picture.instances])
            self._cache[seed] = Pieces(picture.image, piece_map, objects)
        return self._cache[seed]


class DatasetSource:
    """The pictures of a registered data set whose annotations have masks. All pieces of a picture count as one object.

    Pictures are read once and kept in memory (650 photos of 512 pixels take about half a gigabyte).
    """

    def __init__(self, dataset_name: str) -> None:
        self.records = records_with_pieces(dataset_name)
        self._cache: dict[int, Pieces] = {}

    def __len__(self) -> int:
        return len(self.records)

    def picture(self, index: int) -> Pieces:
        """Picture ``index`` with its pieces."""
        if index not in self._cache:
            record, annotations = self.records[index]
            height, width = record_size(record)
            masks = [mask for a in annotations if (mask := annotation_mask(record, a)).any()]
            image = read_picture(record)
            self._cache[index] = Pieces(image, paint_pieces(masks, height, width), np.zeros(len(masks), int))
        return self._cache[index]

    def sample(self, rng: np.random.Generator) -> Pieces:
        """See :class:`Source`."""
        return self.picture(int(rng.integers(len(self))))


class CollageSource:
    """Cutouts of some pictures over others (copy-paste, Ghiasi et al., CVPR 2021): new backgrounds and occlusion.

    One to three cutouts, each an object with its pieces or one large piece of it, are scaled, turned, mirrored,
    recoloured and pasted with a soft edge. What of the picture below stays visible keeps its pieces.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        if not sources:
            raise ValueError("a collage needs at least one other source")
        self.sources = list(sources)

    def sample(self, rng: np.random.Generator) -> Pieces:
        """See :class:`Source`."""
        below = self.sources[int(rng.integers(len(self.sources)))].sample(rng)
        image, piece_map = below.image.copy(), below.piece_map.copy()
        objects = list(below.objects)
        for _ in range(int(rng.integers(1, 4))):
            cutout = self.sources[int(rng.integers(len(self.sources)))].sample(rng)
            wanted = _choose_cutout(cutout, rng)
            if wanted is not None:
                _paste(cutout, wanted, image, piece_map, objects, rng)
        return Pieces(image, piece_map, np.array(objects, int))


def _choose_cutout(pieces: Pieces, rng: np.random.Generator) -> np.ndarray | None:
    """The indices of an object's pieces, or of one of them; None where the picture has nothing large enough."""
    visible, areas = np.unique(pieces.piece_map[pieces.piece_map >= 0], return_counts=True)
    large = visible[areas >= _FEWEST_CUTOUT_PIXELS]
    if not len(large):
        return None
    piece = int(rng.choice(large))
    if rng.random() < 0.5:
        return np.array([piece])
    return np.flatnonzero(pieces.objects == pieces.objects[piece])


def _paste(
    cutout: Pieces,
    wanted: np.ndarray,
    image: np.ndarray,
    piece_map: np.ndarray,
    objects: list[int],
    rng: np.random.Generator,
) -> None:
    """Draws the pieces ``wanted`` of ``cutout`` over ``image`` and ``piece_map``, in place."""
    mask = np.isin(cutout.piece_map, wanted)
    ys, xs = np.nonzero(mask)
    window = np.s_[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    height, width = piece_map.shape
    extent = max(mask[window].shape)
    # A piece alone may become as large as a person, a person no smaller than can be seen.
    side = max(height, width) * float(np.exp(rng.uniform(math.log(0.15), math.log(0.9))))
    scale = float(np.clip(side / extent, 0.3, 2.0))
    centre = ((window[1].start + window[1].stop) / 2, (window[0].start + window[0].stop) / 2)
    turn = cv2.getRotationMatrix2D(centre, float(rng.normal(0, 15)), scale)
    if rng.random() < 0.5:
        turn = turn @ np.array([[-1, 0, 2 * centre[0]], [0, 1, 0], [0, 0, 1]])
    shift = rng.uniform(0.1, 0.9, 2) * (width, height) - centre
    turn = np.column_stack([turn[:, :2], turn[:, 2] + shift])
    size = (width, height)
    colours = jitter_colour(cv2.warpAffine(cutout.image, turn, size, flags=cv2.INTER_LINEAR), rng)
    numbers = np.where(mask, cutout.piece_map, -1).astype(np.int16)
    moved = cv2.warpAffine(numbers, turn, size, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=-1)
    covered = moved >= 0
    alpha = cv2.GaussianBlur(covered.astype(np.float32), (0, 0), float(rng.uniform(0.4, 1.2)))[..., None]
    image[:] = (image * (1 - alpha) + colours * alpha + 0.5).astype(np.uint8)
    lookup = np.zeros(len(cutout.objects), np.int16)
    lookup[wanted] = len(objects) + np.arange(len(wanted))
    piece_map[covered] = lookup[moved[covered]]
    objects.extend([max(objects, default=-1) + 1] * len(wanted))


def jitter_colour(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Saturation, contrast, brightness and tint of uint8 [H, W, 3], all a little different."""
    picture = image.astype(np.float32)
    grey = picture @ np.array([0.299, 0.587, 0.114], np.float32)
    saturation, contrast, brightness = rng.uniform(0.5, 1.4), rng.uniform(0.7, 1.3), rng.uniform(-25, 25)
    picture = grey[..., None] + (picture - grey[..., None]) * np.float32(saturation)
    picture *= rng.uniform(0.85, 1.15, 3).astype(np.float32)
    mean = float(grey.mean())
    picture = (picture - mean) * np.float32(contrast) + np.float32(mean + brightness)
    return np.clip(picture, 0, 255).astype(np.uint8)
