"""Learning words: what CLIP is asked with, from tags (MCL), from seeds (CAL), and what surrounds a class (SemPLeS)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..encoders.clip import CLIP
from .augment import colour_jitter, scale_and_crop
from .cams import softmax_gradcam
from .losses import cam_activation, contrastive_prompts, multi_label_contrastive, repel, split_picture
from .networks import CLIPNetwork, normalised
from .prompt_bank import PromptBank
from .settings import FitSettings

logger = logging.getLogger(__name__)

# A picture uint8 [H, W, 3], its tags int64 [T], and its seed int64 [H, W] of class ids, or None.
Example = tuple[np.ndarray, Sequence[int], np.ndarray | None]


def learning_rate(settings: FitSettings, iteration: int) -> float:
    """A constant 1e-5 at first, then a cosine down to 0 over the rest."""
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


def seed_loss(background: PromptBank | None = None, refine: float = 0.0) -> Loss:
    """CAL of the maps; with ``refine`` what is inside them is pushed off what surrounds their classes (SemPLeS, c)."""

    def loss(network: CLIPNetwork, images: Tensor, tags: list[Tensor], seeds: list[Tensor]) -> Tensor:
        view = network.clip.look(images)
        others = [network.others(of_image) for of_image in tags]
        maps = softmax_gradcam(view, network.logits(view), tags, others, learn=True)
        total = cam_activation(maps, tags, seeds, ignored=-1)
        if refine and background is not None and any(map(len, tags)):
            inside, _ = _looks(network.clip, maps, images, epsilon=0.1)
            with torch.no_grad():
                prompts = background()[torch.cat(tags)]
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
            _, outside = _looks(network.clip, maps, images, epsilon=1e-4)
        classes = torch.cat(tags)
        return contrastive_prompts(outside, labels[classes], bank()[classes], weight)

    return loss


def _looks(clip: CLIP, maps: list[Tensor], images: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """CLIP's features [n, E] of the pictures under each map and under the rest of it, in the order of the maps."""
    counts = torch.tensor([len(of_image) for of_image in maps], device=images.device)
    pairs = images.repeat_interleave(counts, dim=0)
    inside, outside = split_picture(torch.cat([m.clamp(min=0) for m in maps]), pairs, epsilon)
    side = clip.model.config.vision_config.image_size
    # CLIP's own feature needs its own size.
    sized = [torch.nn.functional.interpolate(x, (side, side), mode="bicubic") if x.shape[-1] != side else x
             for x in (inside, outside)]  # fmt: skip
    return clip.pooled(sized[0]), clip.pooled(sized[1])


def fit_words(
    network: CLIPNetwork,
    bank: PromptBank,
    loss: Loss,
    examples: Callable[[int], Example],
    count: int,
    settings: FitSettings,
    report: Callable[[int, float], None] = lambda iteration, value: None,
) -> None:
    """Learns the words of ``bank`` by stochastic gradient descent.

    Args:
        network: whose texts hold the bank.
        examples: picture i of ``count``.
        report: called after each step with its number and loss.
    """
    optimizer = torch.optim.SGD(
        bank.parameters(), lr=1e-5, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    needed = settings.batch_size
    if count < needed:
        raise ValueError(f"batch_size is {needed}, but there are {count} pictures")
    order: list[int] = []
    epoch = 0
    for iteration in range(settings.stop or settings.iterations):
        optimizer.param_groups[0]["lr"] = learning_rate(settings, iteration)
        optimizer.zero_grad()
        total = 0.0
        for part in range(settings.accumulate):
            if len(order) < needed:
                # Without replacement, epoch after epoch; what is left of one is dropped.
                order = np.random.default_rng([settings.seed, epoch]).permutation(count).tolist()
                epoch += 1
            chosen, order = order[:needed], order[needed:]
            rng = np.random.default_rng([settings.seed, iteration, part, 1])
            images, tags, seeds = _batch(network.clip, [examples(i) for i in chosen], settings, rng)
            value = loss(network, images, tags, seeds) / settings.accumulate
            # Crops in which no class is left say nothing.
            if value.requires_grad:
                value.backward()
            total += value.item()
        optimizer.step()
        report(iteration, total)


def _batch(
    clip: CLIP, examples: Sequence[Example], settings: FitSettings, rng: np.random.Generator
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    images, tags, seeds = [], [], []
    for image, of_image, seed in examples:
        label = np.zeros(image.shape[:2], np.int64) if seed is None else seed
        low, high = settings.long_side
        crop, label = scale_and_crop(colour_jitter(image, rng), label, settings.crop, (low, high), rng)
        shown = [c for c in of_image if not settings.crop_tags or (label == c).any()]
        images.append(normalised(crop, clip))
        tags.append(torch.tensor(shown, dtype=torch.int64))
        seeds.append(torch.from_numpy(label))
    return torch.stack(images), tags, seeds
