"""Trains a promptable SAM from scratch: image encoder, prompt encoder and mask decoder together.

Follows SAM (Kirillov et al., ICCV 2023, section 5 and appendix A) at a small scale: focal and dice loss 20 : 1 on
the masks, a squared error on the predicted IoU, one mask for boxes, three masks with the loss on the best of them
for points, which are ambiguous. Targets know no class: a part, a group of adjoining parts, or a whole object.

Axes: B images, P prompts of all images of a batch, S side of the padded square, E side of the mask logits (S/4),
L side of the square the loss is computed on.
"""

from __future__ import annotations

import datetime
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from wps_sam.data.synthetic import generate
from wps_sam.masks import mask_to_box, read_rgb, segmentation_to_mask
from wps_sam.modeling.sam import build_sam

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data import DatasetCatalog
from safetensors.torch import save
from segment_anything.modeling import Sam
from torch import nn
from torch.utils.data import DataLoader, Dataset

logger = logging.getLogger(__name__)

PIXEL_MEAN = np.array([123.675, 116.28, 103.53], np.float32)
PIXEL_STD = np.array([58.395, 57.12, 57.375], np.float32)
# The validation pictures of the generator come from seeds that training never draws.
VALIDATION_SEEDS = 1_000_000_000
_FEWEST_PIXELS = 12


# ---------------------------------------------------------------- pictures


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


def _paint_pieces(masks: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """Masks bool [H, W] to one int16 piece map; the largest first, so that small ones stay visible."""
    piece_map = np.full((height, width), -1, np.int16)
    for index in sorted(range(len(masks)), key=lambda i: -int(masks[i].sum())):
        piece_map[masks[index]] = index
    return piece_map


class SyntheticSource:
    """Generated pictures, a new one every time."""

    def __init__(self, size: int) -> None:
        self.size = size

    def picture(self, seed: int) -> Pieces:
        """Picture number ``seed`` of the generator."""
        picture = generate(seed, self.size)
        piece_map = _paint_pieces([i.mask for i in picture.instances], self.size, self.size)
        return Pieces(picture.image, piece_map, np.array([i.object_id for i in picture.instances]))

    def sample(self, rng: np.random.Generator) -> Pieces:
        """See :class:`Source`."""
        return self.picture(int(rng.integers(VALIDATION_SEEDS)))


class DatasetSource:
    """The pictures of a registered data set whose annotations have masks. All pieces of a picture count as one object.

    Pictures are read once and kept in memory (650 photos of 512 pixels take about half a gigabyte).
    """

    def __init__(self, dataset_name: str) -> None:
        self.name = dataset_name
        self.records = [
            r for r in DatasetCatalog.get(dataset_name) if any("segmentation" in a for a in r["annotations"])
        ]
        if not self.records:
            raise ValueError(
                f"{dataset_name}: no annotation has a segmentation; prompts cannot be learned from it"
            )
        self._cache: dict[int, Pieces] = {}

    def __len__(self) -> int:
        return len(self.records)

    def masks(self, index: int) -> list[np.ndarray]:
        """The annotated masks of picture ``index``, bool [H, W] at the stored resolution, empty ones left out."""
        record = self.records[index]
        height, width = record["height"], record["width"]
        masks = [
            segmentation_to_mask(a["segmentation"], height, width)
            for a in record["annotations"]
            if "segmentation" in a
        ]
        return [mask for mask in masks if mask.any()]

    def picture(self, index: int) -> Pieces:
        """Picture ``index`` with its pieces."""
        if index not in self._cache:
            record = self.records[index]
            height, width = record["height"], record["width"]
            masks = self.masks(index)
            image = read_rgb(record["file_name"], height, width)
            self._cache[index] = Pieces(image, _paint_pieces(masks, height, width), np.zeros(len(masks), int))
        return self._cache[index]

    def sample(self, rng: np.random.Generator) -> Pieces:
        """See :class:`Source`."""
        return self.picture(int(rng.integers(len(self))))


# ---------------------------------------------------------------- augmentation and prompts


def augment(pieces: Pieces, size: int, rng: np.random.Generator) -> Pieces:
    """Random crop, scale, flip and colour; the result's longest side is at most ``size``, still unpadded."""
    height, width = pieces.piece_map.shape
    # Half stays uncropped, because whole pictures with their small parts are what the network meets later.
    zoom = 1.0 if rng.random() < 0.5 else float(np.exp(rng.uniform(0, math.log(2.2))))
    crop_w = round(width / zoom * rng.uniform(0.85, 1.0)) if zoom > 1 else width
    crop_h = round(height / zoom * rng.uniform(0.85, 1.0)) if zoom > 1 else height
    # The crop holds at least one labelled pixel: nothing can be asked about an empty corner.
    labelled = np.flatnonzero(pieces.piece_map >= 0)
    y, x = (
        divmod(int(labelled[rng.integers(len(labelled))]), width)
        if len(labelled)
        else (height // 2, width // 2)
    )
    left = int(np.clip(x - rng.uniform(0.2, 0.8) * crop_w, 0, width - crop_w))
    top = int(np.clip(y - rng.uniform(0.2, 0.8) * crop_h, 0, height - crop_h))
    shrink = 1.0 if rng.random() < 0.85 else rng.uniform(0.6, 1.0)
    scale = size / max(crop_h, crop_w) * shrink
    new_w, new_h = max(1, int(crop_w * scale + 0.5)), max(1, int(crop_h * scale + 0.5))
    window = np.s_[top : top + crop_h, left : left + crop_w]
    # Area averaging where the picture shrinks, as the antialiased resize of training and inference does.
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    image = cv2.resize(pieces.image[window], (new_w, new_h), interpolation=how)
    piece_map = cv2.resize(pieces.piece_map[window], (new_w, new_h), interpolation=cv2.INTER_NEAREST_EXACT)
    if rng.random() < 0.5:
        image, piece_map = image[:, ::-1], piece_map[:, ::-1]
    return Pieces(_jitter_colour(image, rng), np.ascontiguousarray(piece_map), pieces.objects)


def _jitter_colour(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    picture = image.astype(np.float32)
    grey = picture @ np.array([0.299, 0.587, 0.114], np.float32)
    saturation, contrast, brightness = rng.uniform(0.5, 1.4), rng.uniform(0.7, 1.3), rng.uniform(-25, 25)
    picture = grey[..., None] + (picture - grey[..., None]) * np.float32(saturation)
    picture *= rng.uniform(0.85, 1.15, 3).astype(np.float32)
    mean = float(grey.mean())
    picture = (picture - mean) * np.float32(contrast) + np.float32(mean + brightness)
    return np.clip(picture, 0, 255).astype(np.uint8)


def resize_longest(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes uint8 [H, W, 3] so that its longest side is ``size``; rounding as in SAM."""
    height, width = image.shape[:2]
    scale = size / max(height, width)
    new = (max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5)))
    return cv2.resize(image, new, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def pad_normalised(image: np.ndarray, size: int) -> torch.Tensor:
    """uint8 RGB [h, w, 3], sides <= ``size``, to float32 [3, size, size]: normalised, zeros at the bottom and right."""
    square = np.zeros((size, size, 3), np.float32)
    square[: image.shape[0], : image.shape[1]] = (image.astype(np.float32) - PIXEL_MEAN) / PIXEL_STD
    return torch.from_numpy(square).permute(2, 0, 1).contiguous()


class Prompts(NamedTuple):
    """``masks`` bool [P, h, w]; ``boxes`` float32 [P, 4] xyxy; ``points`` float32 [P, 2] xy, integers are pixel
    centres; ``use_box`` bool [P]; ``is_part`` bool [P], False for groups of parts and whole objects."""

    masks: np.ndarray
    boxes: np.ndarray
    points: np.ndarray
    use_box: np.ndarray
    is_part: np.ndarray


def draw_prompts(
    piece_map: np.ndarray, objects: np.ndarray, count: int, box_share: float, rng: np.random.Generator
) -> Prompts:
    """Chooses what to segment and how to ask for it.

    Eight tenths are single pieces, then groups of two or three adjoining pieces, then whole objects. Every other box
    has its corners moved by noise of 3% of its side, at most 20 pixels of 1024. (SAM's appendix A: 10%. A small
    network trained so keeps guessing where a small part's box ends, and spills over exact ones.)
    The first prompts of a picture run over its pieces without repetition.

    Args:
        piece_map: int [h, w], -1 background.
        objects: int [K].
        count: prompts wanted; fewer come only if nothing visible is left.
        box_share: share of box prompts, the others are points.
    """
    visible, areas = np.unique(piece_map[piece_map >= 0], return_counts=True)
    visible = visible[areas >= _FEWEST_PIXELS]
    size = max(piece_map.shape)
    order = rng.permutation(visible)
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
    use_box = rng.random(len(masks)) < box_share
    stacked = np.stack(masks) if masks else np.zeros((0, *piece_map.shape), bool)
    return Prompts(stacked, boxes, points, use_box, np.array(part_flags, bool))


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
        padded = np.pad(mask.astype(np.uint8), 1)
        depth = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
        y, x = np.unravel_index(int(depth.argmax()), mask.shape)
        return np.array([x, y], np.float32)
    ys, xs = np.nonzero(mask)
    k = int(rng.integers(len(xs)))
    return np.array([xs[k], ys[k]], np.float32)


# ---------------------------------------------------------------- batches


class Batch(NamedTuple):
    """``images`` float32 [B, 3, S, S]; ``image_index`` int64 [P]; ``boxes`` [P, 4] and ``points`` [P, 2] in pixels of
    the square; ``use_box``, ``is_part`` bool [P]; ``targets`` float32 [P, L, L], the covered share of each cell."""

    images: torch.Tensor
    image_index: torch.Tensor
    boxes: torch.Tensor
    points: torch.Tensor
    use_box: torch.Tensor
    is_part: torch.Tensor
    targets: torch.Tensor


class _TrainingPictures(Dataset):
    """Item i depends on the seed and i alone: workers, order and resuming change nothing."""

    def __init__(
        self, sources: Sequence[tuple[Source, float]], settings: PretrainSettings, size: int
    ) -> None:
        self.sources, self.settings, self.size = [s for s, _ in sources], settings, size
        weights = np.array([w for _, w in sources], float)
        self.shares = weights / weights.sum()

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Prompts]:
        rng = np.random.default_rng([self.settings.seed, index])
        while True:
            source = self.sources[int(rng.choice(len(self.sources), p=self.shares))]
            pieces = augment(source.sample(rng), self.size, rng)
            prompts = draw_prompts(
                pieces.piece_map,
                pieces.objects,
                self.settings.prompts_per_image,
                self.settings.box_share,
                rng,
            )
            # A crop may have hit an empty corner.
            if len(prompts.masks):
                return pad_normalised(pieces.image, self.size), prompts


def collate(items: Sequence[tuple[torch.Tensor, Prompts]], loss_size: int) -> Batch:
    """Puts the prompts of all images in one list."""
    size = items[0][0].shape[-1]
    targets = []
    for _, prompts in items:
        for mask in prompts.masks:
            square = np.zeros((size, size), np.float32)
            square[: mask.shape[0], : mask.shape[1]] = mask
            targets.append(cv2.resize(square, (loss_size, loss_size), interpolation=cv2.INTER_AREA))

    def join(name: str) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([getattr(p, name) for _, p in items]))

    counts = torch.tensor([len(p.masks) for _, p in items])
    return Batch(
        images=torch.stack([image for image, _ in items]),
        image_index=torch.arange(len(items)).repeat_interleave(counts),
        boxes=join("boxes"),
        points=join("points"),
        use_box=join("use_box"),
        is_part=join("is_part"),
        targets=torch.from_numpy(np.stack(targets)),
    )


# ---------------------------------------------------------------- model and losses


def init_weights(sam: Sam, seed: int) -> None:
    """Truncated normal 0.02 for the image encoder, as ViTs are started; the other parts keep the package's init.

    The package leaves the encoder's position embeddings at zero, because it expects pre-trained weights.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in sam.image_encoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, parameter in sam.image_encoder.named_parameters():
        if name.endswith(("pos_embed", "rel_pos_h", "rel_pos_w")):
            nn.init.trunc_normal_(parameter, std=0.02, generator=generator)


def embed_prompts(sam: Sam, boxes: torch.Tensor, points: torch.Tensor, use_box: torch.Tensor) -> torch.Tensor:
    """Prompt tokens [P, 2, 256]: corners of ``boxes`` [P, 4] where ``use_box``, else ``points`` [P, 2] and padding."""
    as_box = sam.prompt_encoder(points=None, boxes=boxes, masks=None)[0]
    foreground = torch.ones(len(points), 1, device=points.device)
    as_point = sam.prompt_encoder(points=(points[:, None], foreground), boxes=None, masks=None)[0]
    return torch.where(use_box[:, None, None], as_box, as_point)


def decode_masks(
    sam: Sam, embeddings: torch.Tensor, image_index: torch.Tensor, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """SAM's mask decoder for prompts of many images at once; the package's forward takes one image per call.

    Args:
        embeddings: [B, 256, h, w] of the image encoder.
        image_index: int64 [P], the image each prompt belongs to.
        tokens: [P, T, 256] of the prompt encoder.

    Returns:
        mask logits [P, 4, 4h, 4w], the single-mask output first, then the three ambiguous ones; predicted IoU [P, 4].
    """
    decoder = sam.mask_decoder
    outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    queries = torch.cat([outputs.expand(len(tokens), -1, -1), tokens], 1)
    no_mask = sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    source = (embeddings + no_mask)[image_index]
    position = sam.prompt_encoder.get_dense_pe().expand(len(tokens), -1, -1, -1)
    height, width = source.shape[-2:]
    hidden, source = decoder.transformer(source, position, queries)
    features = decoder.output_upscaling(source.transpose(1, 2).reshape(len(tokens), -1, height, width))
    kernels = torch.stack(
        [mlp(hidden[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)], 1
    )
    return torch.einsum("pkc,pchw->pkhw", kernels, features), decoder.iou_prediction_head(hidden[:, 0])


def focal_loss(
    logits: torch.Tensor, targets: torch.Tensor, alpha: float = 0.25, gamma: float = 2.0
) -> torch.Tensor:
    """Focal loss (Lin et al., ICCV 2017), mean over the last two axes. ``targets`` may lie between 0 and 1.

    ``alpha`` weighs the foreground against 1 - alpha; [..., H, W] to [...].
    """
    probability = logits.sigmoid()
    log_foreground = F.logsigmoid(logits)
    # log(1 - sigmoid(x)) = log(sigmoid(x)) - x saves the costliest function a second time.
    foreground = alpha * targets * (1 - probability) ** gamma * log_foreground
    background = (1 - alpha) * (1 - targets) * probability**gamma * (log_foreground - logits)
    return -(foreground + background).mean((-2, -1))


def dice_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """1 - (2 |p t| + 1) / (|p| + |t| + 1) (Milletari et al., 2016; smoothed by one pixel); [..., H, W] to [...]."""
    probability = logits.sigmoid()
    overlap = (probability * targets).sum((-2, -1))
    return 1 - (2 * overlap + 1) / (probability.sum((-2, -1)) + targets.sum((-2, -1)) + 1)


def prompt_losses(
    mask_logits: torch.Tensor, predicted_iou: torch.Tensor, batch: Batch
) -> tuple[torch.Tensor, dict[str, float]]:
    """SAM's training loss: 20 focal + dice on masks, squared error on predicted IoU, mean over prompts.

    A box trains the single-mask output. A point trains the best of the three ambiguous masks and, if a part was meant,
    the single-mask output too: WPS-SAM asks that output for points as well as boxes, and wants parts from it.

    Args:
        mask_logits: [P, 4, E, E].
        predicted_iou: [P, 4].

    Returns:
        The loss, and a dict of its parts for the log.
    """
    single, ambiguous = batch.use_box | batch.is_part, ~batch.use_box
    # Only the outputs that learn are brought to the loss's resolution: it costs more than the decoder otherwise.
    learns = torch.cat([single[:, None], ambiguous[:, None].expand(-1, predicted_iou.shape[1] - 1)], 1)
    side = batch.targets.shape[-1]
    logits = F.interpolate(
        mask_logits[learns][:, None].float(), (side, side), mode="bilinear", align_corners=False
    )[:, 0]
    targets = batch.targets[learns.nonzero()[:, 0]]

    def table(values: torch.Tensor, fill: float) -> torch.Tensor:
        full = values.new_full(learns.shape, fill)
        full[learns] = values
        return full

    focal, dice = focal_loss(logits, targets), dice_loss(logits, targets)
    with torch.no_grad():
        predicted, true = logits > 0, targets > 0.5
        iou = (predicted & true).sum((-2, -1)) / (predicted | true).sum((-2, -1)).clamp(min=1)
    total = table(20 * focal + dice + (predicted_iou[learns].float() - iou) ** 2, math.inf)
    chosen = torch.cat([total[single, 0], total[ambiguous, 1:].min(dim=1).values])
    loss = chosen.mean()

    boxed = batch.use_box
    stats = {"loss": float(loss.detach())}
    for name, values in (("focal", focal), ("dice", dice), ("box_iou", iou)):
        stats[name] = float(table(values.detach(), 0.0)[boxed, 0].mean())
    stats["point_iou"] = float(table(iou, 0.0)[ambiguous, 1:].max(dim=1).values.mean())
    return loss, stats


# ---------------------------------------------------------------- validation


class BoxScore(NamedTuple):
    """Mean IoU over pieces at the original resolution: masks of box prompts, and the same boxes filled."""

    box_iou: float
    filled_box_iou: float
    pieces: int


@torch.inference_mode()
def score_box_prompts(
    sam: Sam, pictures: Iterator[tuple[np.ndarray, list[np.ndarray]]], bf16: bool = False
) -> BoxScore:
    """Prompts SAM with the true box of every mask.

    Args:
        pictures: pairs of an image uint8 [H, W, 3] RGB and its masks bool [H, W].
        bf16: autocast, as in training.
    """
    size = sam.image_encoder.img_size
    device = next(sam.parameters()).device
    scores, filled = [], []
    for image, masks in pictures:
        if not masks:
            continue
        small = resize_longest(image, size)
        height, width = image.shape[:2]
        true_boxes = np.array([mask_to_box(mask) for mask in masks])
        scale = np.array([small.shape[1] / width, small.shape[0] / height] * 2)
        boxes = torch.from_numpy((true_boxes * scale).astype(np.float32)).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            embedding = sam.image_encoder(pad_normalised(small, size)[None].to(device))
            tokens = sam.prompt_encoder(points=None, boxes=boxes, masks=None)[0]
            logits, _ = decode_masks(
                sam, embedding, torch.zeros(len(masks), dtype=torch.int64, device=device), tokens
            )
        square = F.interpolate(logits[:, :1].float(), (size, size), mode="bilinear", align_corners=False)
        square = square[..., : small.shape[0], : small.shape[1]]
        predicted = (
            (F.interpolate(square, (height, width), mode="bilinear", align_corners=False)[:, 0] > 0)
            .cpu()
            .numpy()
        )
        for mask, guess, box in zip(masks, predicted, true_boxes):
            area = int(mask.sum())
            overlap = int((mask & guess).sum())
            scores.append(overlap / (area + int(guess.sum()) - overlap))
            filled.append(area / ((box[2] - box[0]) * (box[3] - box[1])))
    if not scores:
        raise ValueError("no picture with a mask to prompt for")
    return BoxScore(float(np.mean(scores)), float(np.mean(filled)), len(scores))


def _dataset_pictures(
    source: DatasetSource, limit: int | None
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    for index in range(min(len(source), limit or len(source))):
        yield source.picture(index).image, source.masks(index)


def _synthetic_pictures(size: int, count: int) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    for index in range(count):
        picture = generate(VALIDATION_SEEDS + index, size)
        yield picture.image, [instance.mask for instance in picture.instances]


# ---------------------------------------------------------------- training


@dataclass(frozen=True)
class PretrainSettings:
    """What defines a training. ``minutes`` and ``iterations`` (0: no limit) set its length; the learning rate follows a
    cosine over whichever is nearer its end, so that a run on a busy machine finishes its schedule."""

    arch: str = "vit_tiny"
    # Registered data sets and their weights; "synthetic" is the generator.
    sources: tuple[tuple[str, float], ...] = (("synthetic", 1.0),)
    val_dataset: str = ""
    val_pictures: int = 40
    batch_size: int = 8
    prompts_per_image: int = 7
    box_share: float = 0.75
    loss_size: int = 128
    iterations: int = 0
    minutes: float = 45.0
    learning_rate: float = 6e-4
    warmup_iterations: int = 150
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    ema: float = 0.998
    bf16: bool = False
    seed: int = 0
    workers: int = 0
    checkpoint_minutes: float = 5.0
    # Minutes after which an early version of the weights is exported as well; 0: none.
    preview_minutes: float = 0.0
    log_every: int = 20

    def __post_init__(self) -> None:
        if self.iterations <= 0 and self.minutes <= 0:
            raise ValueError(
                f"iterations and minutes: one must be positive, got {self.iterations} and {self.minutes}"
            )
        if not self.sources or any(weight <= 0 for _, weight in self.sources):
            raise ValueError(f"sources: expected at least one with a positive weight, got {self.sources}")
        if not 0 <= self.box_share <= 1:
            raise ValueError(f"box_share: expected 0..1, got {self.box_share}")


class Pretrainer:
    """The training loop with its checkpoints. Everything random follows from the seed and the iteration."""

    def __init__(self, settings: PretrainSettings, output_dir: str, command: str = "") -> None:
        self.settings, self.command = settings, command
        self.output_dir = Path(output_dir)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.sam = build_sam(settings.arch)
        init_weights(self.sam, settings.seed)
        self.sam.train().to(self.device)
        self.size = int(self.sam.image_encoder.img_size)
        self.average = {k: v.detach().clone() for k, v in self.sam.state_dict().items()}
        # Norms, biases and embeddings of positions are not decayed, as usual for transformers.
        embeddings = ("pos_embed", "rel_pos", "_token", "_embed.weight", "point_embeddings")
        decayed: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in self.sam.named_parameters():
            plain = parameter.ndim < 2 or any(part in name for part in embeddings)
            (others if plain else decayed).append(parameter)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": settings.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=settings.learning_rate,
            betas=(0.9, 0.98),
        )
        self.iteration = 0
        self.seconds = 0.0
        self.exported_preview = False

    # -- state

    @property
    def checkpoint_path(self) -> Path:
        """Where the state for an exact resume lies."""
        return self.output_dir / "checkpoint.pt"

    def save(self) -> None:
        """Writes the checkpoint atomically: a killed run leaves the previous one whole."""
        state = {
            "sam": self.sam.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "iteration": self.iteration,
            "seconds": self.seconds,
            "exported_preview": self.exported_preview,
        }
        partial = self.checkpoint_path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.checkpoint_path)

    def resume(self) -> None:
        """Continues from the checkpoint in ``output_dir``; ValueError where there is none."""
        if not self.checkpoint_path.is_file():
            raise ValueError(f"{self.checkpoint_path}: no checkpoint to resume from")
        state = torch.load(self.checkpoint_path, map_location=self.device, weights_only=True)
        self.sam.load_state_dict(state["sam"])
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.iteration, self.seconds = state["iteration"], state["seconds"]
        self.exported_preview = state["exported_preview"]

    def _progress(self) -> float:
        by_time = self.seconds / (60 * self.settings.minutes) if self.settings.minutes > 0 else 0.0
        by_count = self.iteration / self.settings.iterations if self.settings.iterations > 0 else 0.0
        return max(by_time, by_count)

    def _learning_rate(self) -> float:
        warmup = min(1.0, (self.iteration + 1) / max(1, self.settings.warmup_iterations))
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, self._progress())))
        return self.settings.learning_rate * warmup * cosine

    # -- loop

    def _batches(self) -> Iterator[Batch]:
        sources: list[tuple[Source, float]] = []
        for name, weight in self.settings.sources:
            source: Source = SyntheticSource(self.size) if name == "synthetic" else DatasetSource(name)
            sources.append((source, weight))
        count = self.settings.batch_size
        first = self.iteration
        endless = ([i * count + k for k in range(count)] for i in iter(range(first, 1 << 60)))
        loader: DataLoader = DataLoader(
            _TrainingPictures(sources, self.settings, self.size),
            batch_sampler=endless,
            num_workers=self.settings.workers,
            collate_fn=lambda items: collate(items, self.settings.loss_size),
        )
        return iter(loader)

    def step(self, batch: Batch) -> dict[str, float]:
        """One update; returns the parts of the loss."""
        rate = self._learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = Batch(*(t.to(self.device) for t in batch))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bf16):
            embeddings = self.sam.image_encoder(batch.images)
            tokens = embed_prompts(self.sam, batch.boxes, batch.points, batch.use_box)
            logits, iou = decode_masks(self.sam, embeddings, batch.image_index, tokens)
        loss, stats = prompt_losses(logits, iou, batch)
        if not math.isfinite(stats["loss"]):
            raise FloatingPointError(
                f"iteration {self.iteration}: the loss is {stats['loss']}; lower learning_rate or disable bf16"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.sam.parameters(), self.settings.clip_norm)
        self.optimizer.step()
        self.iteration += 1
        # A young average must not remember the random start.
        keep = min(self.settings.ema, (1 + self.iteration) / (10 + self.iteration))
        with torch.no_grad():
            for key, value in self.sam.state_dict().items():
                if value.is_floating_point():
                    self.average[key].lerp_(value, 1 - keep)
        return {**stats, "grad_norm": float(norm), "lr": rate}

    def train(self) -> None:
        """Trains to the end of the schedule, then exports the averaged weights to ``output_dir``."""
        batches = self._batches()
        last_checkpoint = self.seconds
        sums: dict[str, list[float]] = {}
        mark = time.perf_counter()
        while self._progress() < 1:
            stats = self.step(next(batches))
            now = time.perf_counter()
            self.seconds, mark = self.seconds + now - mark, now
            for key, value in stats.items():
                sums.setdefault(key, []).append(value)
            if self.iteration % self.settings.log_every == 0:
                self._log({key: float(np.nanmean(values)) for key, values in sums.items()})
                sums = {}
            if self.seconds - last_checkpoint >= 60 * self.settings.checkpoint_minutes:
                last_checkpoint = self.seconds
                self.save()
                self._log(self.validate())
            if 0 < self.settings.preview_minutes * 60 <= self.seconds and not self.exported_preview:
                self.exported_preview = True
                self.export(
                    self.output_dir / "preview.safetensors", note="early version of a training under way"
                )
        self.save()
        figures = self.validate(whole=True)
        self._log(figures)
        self.export(self.output_dir / "sam.safetensors", **{k: f"{v:.4f}" for k, v in figures.items()})

    def validate(self, whole: bool = False) -> dict[str, float]:
        """Box-prompted mean IoU of the averaged weights on generated pictures and, if given, on ``val_dataset``."""
        figures: dict[str, float] = {}
        current = {k: v.clone() for k, v in self.sam.state_dict().items()}
        self.sam.load_state_dict(self.average)
        self.sam.eval()
        limit = self.settings.val_pictures
        pairs = [("synthetic", _synthetic_pictures(self.size, limit))]
        if self.settings.val_dataset:
            pairs.append(
                (
                    self.settings.val_dataset,
                    _dataset_pictures(DatasetSource(self.settings.val_dataset), None if whole else limit),
                )
            )
        for name, pictures in pairs:
            score = score_box_prompts(self.sam, pictures, self.settings.bf16)
            figures[f"{name}/box_iou"] = score.box_iou
            figures[f"{name}/filled_box_iou"] = score.filled_box_iou
        self.sam.load_state_dict(current)
        self.sam.train()
        return figures

    def _log(self, values: Mapping[str, float]) -> None:
        line = {
            "iteration": self.iteration,
            "minutes": round(self.seconds / 60, 2),
            **{k: round(v, 6) for k, v in values.items()},
        }
        with open(self.output_dir / "log.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        logger.info("  ".join(f"{k} {v:.4g}" for k, v in line.items()))

    def export(self, path: Path, **metadata: str) -> None:
        """Writes the averaged weights in half precision, under the key names of ``segment_anything``'s Sam."""
        tensors = {k: v.detach().cpu().half().contiguous() for k, v in self.average.items()}
        about: dict[str, Any] = {
            "arch": self.settings.arch,
            "command": self.command,
            "settings": json.dumps(asdict(self.settings)),
            "data": ", ".join(f"{name} ({weight:g})" for name, weight in self.settings.sources),
            "seed": self.settings.seed,
            "iterations": self.iteration,
            "minutes": f"{self.seconds / 60:.1f}",
            "date": datetime.date.today().isoformat(),
            **metadata,
        }
        partial = path.with_suffix(".partial")
        # save_file would make a file that only its owner can read, which must not go into a package.
        partial.write_bytes(save(tensors, metadata={k: str(v) for k, v in about.items()}))
        os.replace(partial, path)
        logger.info("exported %s", path)
