"""What of a picture training looks at, and how it asks for its pieces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from wps_sam.encoders.build_sam import PATCH_SIZE
from wps_sam.masks import deepest_pixel, mask_to_box

import cv2
import numpy as np
import torch
from torchvision.ops import box_iou

from .pictures import Pieces, jitter_colour

PIXEL_MEAN = np.array([123.675, 116.28, 103.53], np.float32)
PIXEL_STD = np.array([58.395, 57.12, 57.375], np.float32)
_FEWEST_PIXELS = 12
# Above this IoU the noise on boxes hides which of two was meant.
_SAME_BOX = 0.75


class View(NamedTuple):
    """A window of the padded square that SAM sees: ``pieces`` within it, sides <= the window's, still unpadded;
    ``origin`` (x, y) of its upper left corner in the square, pixels, multiples of 16."""

    pieces: Pieces
    origin: tuple[int, int]


def draw_view(
    pieces: Pieces, image_size: int, crop_size: int, scale_range: tuple[float, float], rng: np.random.Generator
) -> View:
    """Scale jitter, crop, flip, colour and blur.

    Args:
        pieces: the picture.
        image_size: side of SAM's padded square.
        crop_size: side of the window. Windows smaller than the square cost less than the share of their area, and what
            is learned in them holds in the square: scale and position in it are kept.
        scale_range: the picture's longer side is this many times ``image_size``, drawn on a log scale.
        rng: decides everything.
    """
    if rng.random() < 0.5:
        # Before anything is measured, so that a window's origin is its place in the mirrored picture.
        pieces = Pieces(cv2.flip(pieces.image, 1), cv2.flip(pieces.piece_map, 1), pieces.objects)
    height, width = pieces.piece_map.shape
    low, high = scale_range
    scale = image_size / max(height, width) * math.exp(rng.uniform(math.log(low), math.log(high)))
    tall, wide = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
    # The window holds at least one labelled pixel: nothing can be asked about an empty corner.
    labelled = np.flatnonzero(pieces.piece_map >= 0)
    y, x = divmod(int(rng.choice(labelled)), width) if len(labelled) else (height // 2, width // 2)
    top = _window_start(y * scale, tall, crop_size, rng)
    left = _window_start(x * scale, wide, crop_size, rng)
    new_h, new_w = min(crop_size, tall - top), min(crop_size, wide - left)
    # Only the window is resized; ``matrix`` maps its pixel centres to the picture's.
    matrix = np.array([[1 / scale, 0, (left + 0.5) / scale - 0.5], [0, 1 / scale, (top + 0.5) / scale - 0.5]])
    how = cv2.WARP_INVERSE_MAP
    image = pieces.image
    if scale < 1:
        # As area averaging would: without it, fine texture turns to noise.
        image = cv2.GaussianBlur(image, (0, 0), 0.5 * math.sqrt(1 / scale**2 - 1) + 1e-3)
    edge = cv2.BORDER_REPLICATE
    image = cv2.warpAffine(image, matrix, (new_w, new_h), flags=cv2.INTER_LINEAR | how, borderMode=edge)
    piece_map = cv2.warpAffine(pieces.piece_map, matrix, (new_w, new_h), flags=cv2.INTER_NEAREST | how, borderMode=edge)
    image = _degrade(jitter_colour(image, rng), rng)
    origin = (min(left, image_size - crop_size), min(top, image_size - crop_size))
    return View(Pieces(image, piece_map, pieces.objects), origin)


def _window_start(position: float, length: int, window: int, rng: np.random.Generator) -> int:
    """Where a window that sees ``position`` begins along an axis of ``length``: a multiple of 16."""
    start = max(0.0, position - rng.uniform(0.1, 0.9) * window)
    last = max(0, length - window)
    # A window begins where a token of the whole square does. Up to the far edge: the last one reaches over it, by less.
    token = -(-last // PATCH_SIZE) if start >= last else start // PATCH_SIZE
    return int(min(token, position // PATCH_SIZE)) * PATCH_SIZE


def _degrade(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every fourth picture is blurred, noisy or compressed, as photos are."""
    kind = rng.integers(12)
    if kind == 0:
        return cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.5)))
    if kind == 1:
        noise = rng.normal(0, rng.uniform(2, 12), image.shape).astype(np.float32)
        return np.clip(image + noise, 0, 255).astype(np.uint8)
    if kind == 2:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 80))]
        return np.asarray(cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR))
    return image


def pad_normalised(image: np.ndarray, size: int) -> torch.Tensor:
    """uint8 RGB [h, w, 3], sides <= ``size``, to float32 [3, size, size]: normalised, zeros at the bottom and right."""
    square = np.zeros((size, size, 3), np.float32)
    square[: image.shape[0], : image.shape[1]] = (image.astype(np.float32) - PIXEL_MEAN) / PIXEL_STD
    return torch.from_numpy(square).permute(2, 0, 1).contiguous()


class PromptKind(IntEnum):
    """How a mask is asked for."""

    BOX = 0
    POINT = 1
    BOX_AND_POINT = 2


class Prompts(NamedTuple):
    """``masks`` bool [P, h, w]; ``boxes`` float32 [P, 4] xyxy; ``points`` float32 [P, 2] xy, integers are pixel
    centres; ``kinds`` int64 [P], of :class:`PromptKind`; ``is_part`` bool [P], False for groups of parts and whole
    objects."""

    masks: np.ndarray
    boxes: np.ndarray
    points: np.ndarray
    kinds: np.ndarray
    is_part: np.ndarray


def draw_prompts(
    piece_map: np.ndarray, objects: np.ndarray, count: int, kind_shares: Sequence[float], rng: np.random.Generator
) -> Prompts:
    """Chooses what to segment and how to ask for it.

    Eight tenths are single pieces, then groups of two or three adjoining pieces, then whole objects. Every other box
    has its corners moved by noise of 3% of its side, at most 20 pixels of 1024. (SAM's appendix A: 10%. A small
    network trained so keeps guessing where a small part's box ends, and spills over exact ones.)
    The first prompts of a picture run over its pieces without repetition, small ones preferred. A group or object whose
    box is also a piece's (a bird's and its body's) is asked for by a point, which has three answers: a box has one,
    and means the piece.

    Args:
        piece_map: int [h, w], -1 background.
        objects: int [K].
        count: prompts wanted; fewer come only if nothing visible is left.
        kind_shares: the probability of each :class:`PromptKind`.
        rng: decides everything.
    """
    visible, areas = np.unique(piece_map[piece_map >= 0], return_counts=True)
    visible, areas = visible[areas >= _FEWEST_PIXELS], areas[areas >= _FEWEST_PIXELS]
    size = max(piece_map.shape)
    # By chance, weighted by one over the side (Efraimidis and Spirakis, 2006): small pieces are learned slowest.
    order = visible[np.argsort(rng.exponential(size=len(visible)) * np.sqrt(areas))]
    masks, part_flags = [], []
    for k in range(count if len(visible) else 0):
        piece, level = order[k % len(order)], rng.random()
        # A piece is asked for twice only if the picture has too few.
        if level < 0.8 or len(visible) == 1:
            masks.append(piece_map == piece)
            part_flags.append(True)
        elif level < 0.93:
            masks.append(_grow_group(piece_map, piece, int(rng.integers(1, 3)), rng))
            part_flags.append(False)
        else:
            members = np.flatnonzero(objects == objects[piece])
            masks.append(np.isin(piece_map, members))
            part_flags.append(False)
    boxes, points = np.zeros((len(masks), 4), np.float32), np.zeros((len(masks), 2), np.float32)
    for k, mask in enumerate(masks):
        x0, y0, x1, y1 = mask_to_box(mask)
        sides = np.array([x1 - x0, y1 - y0, x1 - x0, y1 - y0])
        if rng.random() < 0.5:
            noise = np.clip(rng.normal(0, 0.03, 4) * sides, -size * 20 / 1024, size * 20 / 1024)
        else:
            noise = np.zeros(4)
        boxes[k] = np.array([x0, y0, x1, y1]) + noise
        points[k] = _inner_point(mask, rng)
    kinds = rng.choice(len(PromptKind), size=len(masks), p=np.array(kind_shares) / sum(kind_shares))
    is_part = np.array(part_flags, bool)
    means_a_piece = (box_iou(_tight_boxes(masks), _tight_boxes([piece_map == p for p in visible])) > _SAME_BOX).any(1)
    kinds[means_a_piece.numpy() & ~is_part] = PromptKind.POINT
    stacked = np.stack(masks) if masks else np.zeros((0, *piece_map.shape), bool)
    return Prompts(stacked, boxes, points, kinds.astype(np.int64), is_part)


def _tight_boxes(masks: Sequence[np.ndarray]) -> torch.Tensor:
    """float64 [n, 4] xyxy of n masks bool [h, w]."""
    return torch.tensor([mask_to_box(mask) for mask in masks], dtype=torch.float64).reshape(-1, 4)


def _grow_group(piece_map: np.ndarray, piece: int, extra: int, rng: np.random.Generator) -> np.ndarray:
    mask = piece_map == piece
    for _ in range(extra):
        ring = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool) & ~mask
        neighbours = np.unique(piece_map[ring])
        neighbours = neighbours[neighbours >= 0]
        if not len(neighbours):
            break
        mask |= piece_map == rng.choice(neighbours)
    return mask


def _inner_point(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half of the time the pixel deepest inside the mask, else any pixel of it."""
    if rng.random() < 0.5:
        return np.array(deepest_pixel(mask), np.float32)
    ys, xs = np.nonzero(mask)
    k = int(rng.integers(len(xs)))
    return np.array([xs[k], ys[k]], np.float32)


class Batch(NamedTuple):
    """B views with P prompts in all. ``images`` float32 [B, 3, S, S]; ``origins`` int64 [B, 2], see :class:`View`;
    ``image_index`` int64 [P]; ``boxes`` [P, 4] and ``points`` [P, 2] in pixels of the view; ``kinds`` int64 [P];
    ``is_part`` bool [P]; ``targets`` float32 [P, L, L], the covered share of each cell."""

    images: torch.Tensor
    origins: torch.Tensor
    image_index: torch.Tensor
    boxes: torch.Tensor
    points: torch.Tensor
    kinds: torch.Tensor
    is_part: torch.Tensor
    targets: torch.Tensor


class Example(NamedTuple):
    """One view for a batch: ``image`` float32 [3, S, S], its ``origin`` and its ``prompts``."""

    image: torch.Tensor
    origin: tuple[int, int]
    prompts: Prompts


def collate(examples: Sequence[Example], loss_size: int) -> Batch:
    """Puts the prompts of all views in one list; ``loss_size`` is L."""
    size = examples[0].image.shape[-1]
    targets = []
    for example in examples:
        for mask in example.prompts.masks:
            square = np.zeros((size, size), np.float32)
            square[: mask.shape[0], : mask.shape[1]] = mask
            targets.append(cv2.resize(square, (loss_size, loss_size), interpolation=cv2.INTER_AREA))

    def join(name: str) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([getattr(e.prompts, name) for e in examples]))

    counts = torch.tensor([len(e.prompts.masks) for e in examples])
    return Batch(
        images=torch.stack([e.image for e in examples]),
        origins=torch.tensor([e.origin for e in examples]),
        image_index=torch.arange(len(examples)).repeat_interleave(counts),
        boxes=join("boxes"),
        points=join("points"),
        kinds=join("kinds"),
        is_part=join("is_part"),
        targets=torch.from_numpy(np.stack(targets)),
    )
