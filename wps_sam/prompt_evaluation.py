"""How well a promptable SAM cuts out the annotated pieces of pictures, when it is prompted with the truth.

Coordinates are pixels of the picture. A box is the exact tight box of a piece, its edges as in
:func:`wps_sam.masks.mask_to_box`; a point is its deepest pixel, and integers are pixel centres. Both reach SAM's input
as ``segment_anything``'s predictor brings them there: multiplied by the new side over the old, after which SAM's prompt
encoder adds half a pixel of its input. (The data-set mapper scales a point's continuous coordinates, as Detectron2
does: with s the new side over the old, its points are (s - 1) / 2 pixels of SAM's input further right and down.)

Axes: N pieces of all pictures, K pieces of one picture, H x W the picture, E cells a side of the masks' logits.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from wps_sam.data.sources.descriptions import known_data_sets
from wps_sam.data.synthetic import generate
from wps_sam.encoders import PromptableEncoder, family_of
from wps_sam.encoders.frozen import hash_tensors
from wps_sam.inference.merge import resize_mask
from wps_sam.masks import annotation_mask, deepest_pixel, mask_to_box, read_picture
from wps_sam.user_errors import did_you_mean

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from tabulate import tabulate
from torch import Tensor

logger = logging.getLogger(__name__)

# Ways to cut a piece out, and their headings. "filled_box" asks no SAM and is the floor. Of the three ambiguous masks
# of a point, best_of_3 is the one with the best true IoU, chosen_of_3 the one that SAM itself rates best.
KINDS = {
    "filled_box": "filled box",
    "box": "box",
    "point": "point",
    "point_best_of_3": "best of 3",
    "point_chosen_of_3": "chosen of 3",
    "box_and_point": "box+point",
}
# Pixels of the picture at which the next group of sizes begins.
SIZE_EDGES = (16, 32, 64, 128)
SIZE_NAMES = ("<16", "16-32", "32-64", "64-128", ">=128")
# Generated pictures to evaluate on; training draws from the seeds below.
VALIDATION_SEEDS = 1_000_000_000
# A prompt takes about 50 MiB at 1024 pixels while it is decoded.
PROMPTS_AT_ONCE = 8


# ---------------------------------------------------------------- pictures


class LabelledPicture(NamedTuple):
    """``image`` uint8 [H, W, 3] RGB; ``masks`` of its K pieces, bool [H, W], none of them empty; their classes."""

    image: np.ndarray
    masks: list[np.ndarray]
    category_ids: list[int]


def dataset_pictures(dataset_name: str, limit: int | None = None) -> Iterator[LabelledPicture]:
    """The pictures of a registered data set that have masks, with all their masks but crowds' and empty ones.

    Args:
        dataset_name: as registered in Detectron2's catalog.
        limit: only the first ones.

    Raises:
        ValueError: names the data set, which is not registered or has no mask, or the file that cannot be read.
    """
    _check_count("limit", limit)
    return _read_pictures(dataset_name, records_with_pieces(dataset_name)[:limit])


def records_with_pieces(dataset_name: str) -> list[tuple[Any, list[Any]]]:
    """The records of a registered data set, each with those of its annotations that have a mask and are no crowd.

    Records without any are left out.

    Raises:
        ValueError: names the data set, which is not registered or has no mask.
    """
    if dataset_name not in DatasetCatalog.list():
        known = known_data_sets()
        near = did_you_mean(dataset_name, [*known, "synthetic"])
        raise ValueError(f"{dataset_name}: no such data set{near}; known: {', '.join(known)}")
    records = [
        (record, pieces)
        for record in DatasetCatalog.get(dataset_name)
        if (pieces := [a for a in record.get("annotations", ()) if _is_piece(a)])
    ]
    if not records:
        raise ValueError(f"{dataset_name}: no annotation has a mask to prompt for")
    return records


def _is_piece(annotation: Mapping[str, Any]) -> bool:
    # A crowd is no single piece, so neither its box nor its point stands for one.
    return "segmentation" in annotation and not annotation.get("iscrowd", 0)


def _read_pictures(dataset_name: str, records: Sequence[tuple[Any, Sequence[Any]]]) -> Iterator[LabelledPicture]:
    empty, total = 0, 0
    for record, of_record in records:
        masks = [annotation_mask(record, a) for a in of_record]
        kept = [k for k, mask in enumerate(masks) if mask.any()]
        empty, total = empty + len(masks) - len(kept), total + len(masks)
        yield LabelledPicture(
            read_picture(record),
            [masks[k] for k in kept],
            [of_record[k]["category_id"] for k in kept],
        )
    if empty:
        logger.warning("%s: %d of %d masks are empty and left out", dataset_name, empty, total)
    if empty == total:
        raise ValueError(f"{dataset_name}: no annotation has a mask that covers a pixel")


def synthetic_pictures(count: int, size: int) -> Iterator[LabelledPicture]:
    """``count`` generated pictures of ``size`` x ``size`` pixels that training never draws, with class ids of
    :data:`wps_sam.data.synthetic.CLASS_NAMES`."""
    _check_count("count", count)
    for index in range(count):
        picture = generate(VALIDATION_SEEDS + index, size)
        pieces = picture.instances
        yield LabelledPicture(picture.image, [p.mask for p in pieces], [p.category_id for p in pieces])


def _check_count(name: str, count: int | None) -> None:
    if count is not None and count < 1:
        raise ValueError(f"{name}: expected 1 or more pictures, got {count}")


# ---------------------------------------------------------------- scores


@dataclass(frozen=True)
class PromptScores:
    """IoU of every piece at the resolution of its picture, 0 to 1.

    ``category_ids`` int64 [N]; ``long_sides`` float64 [N], the box's in pixels of the picture; ``ious`` float64 [N] for
    each of ``KINDS`` that was asked for; ``pictures``, the number of those with a piece.
    """

    category_ids: np.ndarray
    long_sides: np.ndarray
    ious: dict[str, np.ndarray]
    pictures: int

    def __len__(self) -> int:
        return len(self.category_ids)

    def mean(self, where: np.ndarray | None = None) -> dict[str, float]:
        """Mean IoU by kind over all pieces, or those of ``where`` bool [N]; NaN over none."""
        chosen = np.ones(len(self), bool) if where is None else where
        return {k: float(v[chosen].mean()) if chosen.any() else float("nan") for k, v in self.ious.items()}

    def by_class(self, class_names: Sequence[str]) -> dict[str, dict[str, float]]:
        """:meth:`mean` and the number of "pieces" of each class that has a piece, in the order of the names."""
        return self._groups(class_names, self.category_ids)

    def by_size(self) -> dict[str, dict[str, float]]:
        """:meth:`mean` and the number of "pieces" by the box's longer side, in those ``SIZE_NAMES`` with a piece."""
        return self._groups(SIZE_NAMES, np.searchsorted(SIZE_EDGES, self.long_sides, side="right"))

    def _groups(self, names: Sequence[str], index: np.ndarray) -> dict[str, dict[str, float]]:
        members = {name: index == i for i, name in enumerate(names)}
        return {name: {"pieces": int(m.sum()), **self.mean(m)} for name, m in members.items() if m.any()}

    def as_dict(self, class_names: Sequence[str]) -> dict[str, Any]:
        """All means, IoU 0 to 1, ready for JSON."""
        return {
            "pictures": self.pictures,
            "pieces": len(self),
            "overall": self.mean(),
            "by_size": self.by_size(),
            "by_class": self.by_class(class_names),
        }

    def table(self, class_names: Sequence[str]) -> str:
        """All means as a text: all pieces, then by size, then by class; IoU in percent."""
        sections = (
            {"all": {"pieces": len(self), **self.mean()}},
            {f"{name} px": means for name, means in self.by_size().items()},
            self.by_class(class_names),
        )
        rows: list[list[str]] = []
        for section in sections:
            # An empty row between the sections.
            rows += [[]] if rows else []
            for name, means in section.items():
                numbers = [f"{100 * means[kind]:.1f}" for kind in self.ious]
                rows.append([name, f"{means['pieces']:.0f}", *numbers])
        headers = ["mean IoU in percent", "pieces", *(KINDS[kind] for kind in self.ious)]
        align = ["left", *["right"] * (len(headers) - 1)]
        return tabulate(rows, headers, tablefmt="simple", disable_numparse=True, colalign=align)


@torch.inference_mode()
def score_prompts(
    encoder: PromptableEncoder,
    pictures: Iterable[LabelledPicture],
    kinds: Collection[str] = tuple(KINDS),
    *,
    bf16: bool = False,
) -> PromptScores:
    """Prompts a SAM with the true box and the deepest pixel of every piece, and compares its masks with the true ones.

    Args:
        encoder: on any device.
        pictures: one is held at a time.
        kinds: which of ``KINDS`` are wanted; the fewer, the faster.
        bf16: autocast the mask decoder to bfloat16. Prompts are encoded in float32 all the same: bfloat16 would move a
            coordinate by up to a pixel.

    Raises:
        ValueError: a kind is unknown, a picture's masks do not fit it, or there is no piece to prompt for.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(f"kinds: expected some of {list(KINDS)}, got {list(kinds)}")
    scores: dict[str, list[float]] = {kind: [] for kind in KINDS if kind in kinds}
    category_ids: list[int] = []
    long_sides: list[float] = []
    with_pieces = 0
    for number, picture in enumerate(pictures):
        _check_picture(picture, number)
        if not picture.masks:
            continue
        with_pieces += 1
        category_ids += picture.category_ids
        boxes = np.array([mask_to_box(mask) for mask in picture.masks])
        sides = boxes[:, 2:] - boxes[:, :2]
        long_sides += sides.max(axis=1).tolist()
        filled = np.array([mask.sum() for mask in picture.masks]) / sides.prod(axis=1)
        for kind, ious in {"filled_box": filled, **_ask(encoder, picture, boxes, kinds, bf16)}.items():
            if kind in scores:
                scores[kind] += ious.tolist()
    if not category_ids:
        raise ValueError("there is no piece to prompt for")
    return PromptScores(
        category_ids=np.array(category_ids, np.int64),
        long_sides=np.array(long_sides),
        ious={kind: np.array(values) for kind, values in scores.items()},
        pictures=with_pieces,
    )


def _check_picture(picture: LabelledPicture, number: int) -> None:
    if len(picture.masks) != len(picture.category_ids):
        raise ValueError(f"picture {number}: {len(picture.masks)} masks, but {len(picture.category_ids)} classes")
    for k, mask in enumerate(picture.masks):
        if mask.shape != picture.image.shape[:2] or not mask.any():
            raise ValueError(
                f"picture {number}: mask {k}: expected {picture.image.shape[:2]} with a pixel of the piece, "
                f"got {mask.shape} with {int(mask.sum())}"
            )


def _ask(
    encoder: PromptableEncoder, picture: LabelledPicture, boxes: np.ndarray, kinds: Collection[str], bf16: bool
) -> dict[str, np.ndarray]:
    """IoUs float64 [K] by kind, of the kinds that need SAM."""
    ious: dict[str, np.ndarray] = {}
    of_three = {"point_best_of_3", "point_chosen_of_3"}.intersection(kinds)
    if not set(kinds) - {"filled_box"}:
        return ious
    prompted = PromptedPicture(encoder, picture.image, bf16)
    truth = [torch.from_numpy(mask).to(prompted.device) for mask in picture.masks]
    points = np.array([deepest_pixel(mask) for mask in picture.masks])
    if "box" in kinds:
        ious["box"] = _compare(prompted.masks(boxes, None), truth)[0][:, 0]
    if "box_and_point" in kinds:
        ious["box_and_point"] = _compare(prompted.masks(boxes, points), truth)[0][:, 0]
    if "point" in kinds:
        ious["point"] = _compare(prompted.masks(None, points), truth)[0][:, 0]
    if of_three:
        ambiguous, rated = _compare(prompted.masks(None, points, multimask=True), truth)
        ious["point_best_of_3"] = ambiguous.max(axis=1)
        ious["point_chosen_of_3"] = ambiguous[np.arange(len(ambiguous)), rated.argmax(axis=1)]
    return ious


def _compare(
    predictions: Iterable[tuple[Tensor, Tensor | None]], truth: Sequence[Tensor]
) -> tuple[np.ndarray, np.ndarray]:
    """True IoU float64 [K, n] of each prompt's n masks, and SAM's rating of them, [K, n], or [K, 0] without one."""
    ious, ratings = [], []
    for (masks, rated), true in zip(predictions, truth):
        overlap, union = (masks & true).sum((-2, -1)), (masks | true).sum((-2, -1))
        ious.append((overlap.double() / union).tolist())
        ratings.append([] if rated is None else rated.tolist())
    return np.array(ious), np.array(ratings)


class Click(NamedTuple):
    """A pixel (x, y) that is ``inside`` a part, or beside it."""

    x: float
    y: float
    inside: bool


class PromptedPicture:
    """A picture as SAM sees it, encoded once and to be asked for many pieces.

    Args:
        encoder: on any device.
        image: uint8 [H, W, 3], RGB.
        bf16: as for :func:`score_prompts`.
    """

    def __init__(self, encoder: PromptableEncoder, image: np.ndarray, bf16: bool = False) -> None:
        self.encoder, self.bf16 = encoder, bf16
        self.device = next(encoder.parameters()).device
        self.original_size = image.shape[:2]
        resized = encoder.spec.resize.get_transform(image).apply_image(image)
        self.scale = np.array(resized.shape[1::-1]) / self.original_size[::-1]
        pixels = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1))).to(self.device)
        square, self.frame = encoder.preprocess(pixels)
        self.features = encoder(square[None])

    def masks(
        self,
        boxes: np.ndarray | None,
        points: np.ndarray | None,
        multimask: bool = False,
        inside: np.ndarray | None = None,
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The masks of K prompts, one prompt after the other.

        Args:
            boxes: [K, 4] xyxy in pixels of the picture; None to ask without.
            points: [K, 2] xy of pixels inside; None to ask without.
            multimask: see :meth:`PromptableEncoder.decode`.
            inside: bool [K, P], if there are P points a prompt: of ``points`` [K, P, 2], which are inside.

        Yields:
            masks bool [n, H, W] and the IoU float32 [n] that SAM expects of each, None with the single mask.
        """
        for logits, iou in self.logits(boxes, points, multimask, inside):
            yield torch.stack([self.enlarged(one) > 0 for one in logits]), iou

    def mask(self, box: Sequence[float] | None, clicks: Sequence[Click]) -> np.ndarray:
        """The mask bool [H, W] of one part by a box (x0, y0, x1, y1), clicks, or both, in pixels of the picture."""
        boxes = None if box is None else np.array([box])
        points = np.array([[(click.x, click.y) for click in clicks]]) if clicks else None
        inside = np.array([[click.inside for click in clicks]]) if clicks else None
        ((mask, _),) = self.masks(boxes, points, inside=inside)
        return mask[0].cpu().numpy()

    def logits(
        self,
        boxes: np.ndarray | None,
        points: np.ndarray | None,
        multimask: bool = False,
        inside: np.ndarray | None = None,
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """As :meth:`masks`, the logits [n, E, E] as the segmenter gives them."""
        given_boxes = None if boxes is None else self._scaled(boxes.reshape(-1, 2, 2)).flatten(1)
        given_points = None if points is None else self._scaled(points)
        given_inside = None if inside is None else torch.from_numpy(inside).to(self.device)
        given = given_points if given_boxes is None else given_boxes
        assert given is not None, "neither boxes nor points"
        for start in range(0, len(given), PROMPTS_AT_ONCE):
            some = slice(start, start + PROMPTS_AT_ONCE)
            prompts = self.encoder.encode_prompts(
                boxes=None if given_boxes is None else given_boxes[some],
                points=None if given_points is None else given_points[some],
                inside=None if given_inside is None else given_inside[some],
            )
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                predicted = self.encoder.decode(self.features, [prompts], multimask)[0]
            # One prompt at a time: the masks of a large photo are the largest things here.
            for k, logits in enumerate(predicted.logits):
                yield logits, None if predicted.iou is None else predicted.iou[k].float()

    def enlarged(self, logits: Tensor) -> Tensor:
        """Logits [E, E] to float32 [H, W] of the picture."""
        return resize_mask(logits, self.frame, *self.original_size)

    def _scaled(self, coords: np.ndarray) -> Tensor:
        """xy [..., 2] in pixels of the picture to float32 [..., 2] in pixels of SAM's input."""
        corner = np.array([self.frame.left, self.frame.top])
        return torch.from_numpy((coords * self.scale + corner).astype(np.float32)).to(self.device)


# ---------------------------------------------------------------- models


def load_encoder(
    arch: str, weights: str, device: str = "cpu", bf16: bool = False, levels: str = "all"
) -> PromptableEncoder:
    """The promptable encoder of MODEL.SAM.ARCH, WEIGHTS and LEVELS on a device.

    Raises:
        ValueError: the SAM is unknown, the weights or the levels are not its own, or PyTorch cannot use the device.
    """
    encoder = family_of(arch).load(arch, weights, "bf16" if bf16 else "fp32", levels)
    if not weights:
        logger.warning("no weights are given: SAM has random ones, and its masks mean nothing")
    try:
        return encoder.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r}: torch cannot use it: {error}") from error


def weights_hash(encoder: PromptableEncoder) -> str:
    """SHA-256 of all weights of a SAM."""
    return hash_tensors(sorted(encoder.state_dict().items()))
