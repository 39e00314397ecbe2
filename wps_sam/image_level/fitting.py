"""Learning words: what CLIP is asked with, from tags (MCL), from seeds (CAL), and what surrounds a class (SemPLeS)."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpointer import write_atomically
from ..encoders.clip import CLIP
from ..encoders.prompt_bank import PromptBank
from .augment import colour_jitter, scale_and_crop
from .cams import softmax_gradcam
from .losses import (
    cam_activation,
    contrastive_prompts,
    label_matching,
    multi_label_contrastive,
    repel,
    split_picture,
)
from .networks import CLIPNetwork, normalised
from .settings import FitSettings

logger = logging.getLogger(__name__)

# Between two saves of a training.
SAVE_SECONDS = 120.0

# A picture uint8 [H, W, 3], its tags int64 [T], and its seed int64 [H, W] of class ids, or None.
Example = tuple[np.ndarray, Sequence[int], np.ndarray | None]


def learning_rate(settings: FitSettings, iteration: int) -> float:
    """With ``warmup`` a constant 1e-5 at first, then a cosine down to 0 over the rest."""
    if iteration < settings.warmup:
        return 1e-5
    done = (iteration - settings.warmup) / max(settings.iterations - settings.warmup, 1)
    return settings.learning_rate * (1 + math.cos(math.pi * done)) / 2


# What a loss is given: the network, the crops [n, 3, S, S], and of each its tags and its seed int64 [S, S] or None.
Loss = Callable[[CLIPNetwork, Tensor, list[Tensor], list[Tensor]], Tensor]


def tag_loss(network: CLIPNetwork, images: Tensor, tags: list[Tensor], seeds: list[Tensor]) -> Tensor:
    """MCL of the classes' logits."""
    logits = network.logits(network.clip.look(images))[:, : network.num_classes]
    present = torch.zeros_like(logits, dtype=torch.bool)
    for row, of_image in zip(present, tags):
        row[of_image] = True
    return multi_label_contrastive(logits, present)


def seed_loss(
    activation: float = 1.0,
    match: float = 0.0,
    refine: float = 0.0,
    background_match: float = 0.0,
    labels: Tensor | None = None,
    surroundings: PromptBank | None = None,
) -> Loss:
    """CAL of the maps, and SemPLeS's stages a and c of what CLIP sees under them, each times its weight.

    Args:
        match: of stage a: what is inside a map is its class, and, by ``background_match`` (lambda_b), what is outside
            is not; needs ``labels``, text features [C, E].
        refine: of stage c: what is inside is not what surrounds its class; needs ``surroundings``, a text a class.
    """

    def loss(network: CLIPNetwork, images: Tensor, tags: list[Tensor], seeds: list[Tensor]) -> Tensor:
        if not any(map(len, tags)):
            return images.new_zeros(())
        view = network.clip.look(images)
        others = [network.others(of_image) for of_image in tags]
        maps = softmax_gradcam(view, network.logits(view), tags, others, learn=True)
        total = images.new_zeros(())
        if activation:
            total = total + activation * cam_activation(maps, tags, seeds, ignored=-1)
        if match or refine:
            under, around = _split(maps, images, epsilon=0.1)
            inside, classes = _look(network.clip, under), torch.cat(tags)
        if match:
            assert labels is not None
            outside = _look(network.clip, around)
            total = total + match * label_matching(inside, outside, labels[classes], background_match)
        if refine:
            assert surroundings is not None
            with torch.no_grad():
                prompts = surroundings()[classes]
            total = total + refine * repel(inside, prompts)
        return total

    return loss


def background_loss(labels: Tensor, bank: PromptBank, weight: float) -> Loss:
    """SemPLeS's stage b: learned backgrounds of each class on maps that stay as they are; ``labels`` [C, E]."""

    def loss(network: CLIPNetwork, images: Tensor, tags: list[Tensor], seeds: list[Tensor]) -> Tensor:
        if not any(map(len, tags)):
            return images.new_zeros(())
        view = network.clip.look(images)
        maps = softmax_gradcam(view, network.logits(view), tags, [network.others(t) for t in tags])
        with torch.no_grad():
            outside = _look(network.clip, _split(maps, images, epsilon=1e-4)[1])
        classes = torch.cat(tags)
        return contrastive_prompts(outside, labels[classes], bank()[classes], weight)

    return loss


def _split(maps: list[Tensor], images: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """:func:`split_picture` of every map, in their order; negative values of a map are nothing of its class."""
    counts = torch.tensor([len(of_image) for of_image in maps], device=images.device)
    pairs = images.repeat_interleave(counts, dim=0)
    return split_picture(torch.cat([m.clamp(min=0) for m in maps]), pairs, epsilon)


def _look(clip: CLIP, pictures: Tensor) -> Tensor:
    """CLIP's own features [n, E] of squares [n, 3, S, S], which need its own size."""
    side = clip.model.config.vision_config.image_size
    if pictures.shape[-1] != side:
        pictures = F.interpolate(pictures, (side, side), mode="bicubic")
    return clip.pooled(pictures)


def fit_words(
    network: CLIPNetwork,
    bank: PromptBank,
    loss: Loss,
    examples: Callable[[int], Example],
    count: int,
    settings: FitSettings,
    state: Path | None = None,
    report: Callable[[int], object] = lambda iteration: None,
) -> list[float]:
    """Learns the words of ``bank``; returns the loss of every step.

    Args:
        network: whose texts hold the bank.
        examples: picture i of ``count``.
        state: a file from which it goes on if it is there, and to which it is saved now and then.
        report: called after each step with its number.

    Raises:
        ValueError: there are fewer pictures than a batch takes.
    """
    words = list(bank.parameters())
    optimizer: torch.optim.Optimizer
    if settings.optimizer == "adamw":
        optimizer = torch.optim.AdamW(words, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    else:
        optimizer = torch.optim.SGD(words, lr=1e-5, momentum=settings.momentum, weight_decay=settings.weight_decay)
    size = settings.batch_size
    if count < size:
        raise ValueError(f"batch_size is {size}, but there are {count} pictures")
    losses = resume(state, bank, optimizer)
    saved = time.monotonic()
    for iteration in range(len(losses), settings.stop or settings.iterations):
        optimizer.param_groups[0]["lr"] = learning_rate(settings, iteration)
        optimizer.zero_grad()
        total = 0.0
        for part in range(settings.accumulate):
            # Without replacement, epoch after epoch; what is left of one is dropped.
            epoch, start = divmod(iteration * settings.accumulate + part, count // size)
            order = np.random.default_rng([settings.seed, epoch]).permutation(count).tolist()
            rng = np.random.default_rng([settings.seed, iteration, part, 1])
            chosen = [examples(i) for i in order[start * size : (start + 1) * size]]
            images, tags, seeds = _batch(network.clip, chosen, settings, rng)
            value = loss(network, images, tags, seeds) / settings.accumulate
            # Crops in which no class is left say nothing.
            if value.requires_grad:
                value.backward(inputs=words)
            total += value.item()
        optimizer.step()
        losses.append(total)
        report(iteration)
        if state is not None and time.monotonic() - saved > SAVE_SECONDS:
            keep(state, bank, optimizer, losses)
            saved = time.monotonic()
    return losses


def keep(state: Path, learned: nn.Module, optimizer: torch.optim.Optimizer, losses: list[float]) -> None:
    """Saves a training, whole or not at all."""
    content = {"learned": learned.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses}
    state.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(state, lambda file: torch.save(content, file))


def resume(state: Path | None, learned: nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
    """What :func:`keep` has saved, into these; its losses, [] where there is nothing."""
    if state is None or not state.is_file():
        return []
    content = torch.load(state, map_location="cpu", weights_only=True)
    learned.load_state_dict(content["learned"])
    optimizer.load_state_dict(content["optimizer"])
    logger.info("%s: goes on after %d", state, len(content["losses"]))
    return content["losses"]


def _batch(
    clip: CLIP, examples: Sequence[Example], settings: FitSettings, rng: np.random.Generator
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    images, tags, seeds = [], [], []
    for image, of_image, seed in examples:
        label = np.zeros(image.shape[:2], np.int64) if seed is None else seed
        low, high = settings.long_side
        varied = colour_jitter(image, rng) if settings.jitter else image
        crop, label = scale_and_crop(varied, label, settings.crop, (low, high), rng)
        shown = [c for c in of_image if seed is None or not settings.crop_tags or (label == c).any()]
        images.append(normalised(crop, clip))
        tags.append(torch.tensor(shown, dtype=torch.int64))
        seeds.append(torch.from_numpy(label))
    return torch.stack(images), tags, seeds
