"""SemPLeS (arXiv 2401.11791) as published, on WeakTr, in three stages.

Maps match their labels; prompts learn what surrounds a class; maps are pushed off it. Written from the formulas: its
own code is under a non-commercial licence, and not used.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor, nn

from ..encoders.clip import CLIP
from ..encoders.prompt_bank import PromptBank
from .fitting import keep, resume
from .losses import contrastive_prompts, label_matching, refinement, split_picture
from .networks import ImageLevelNetwork
from .settings import MapSettings, SemplesSettings
from .weaktr import WeakTr, learned_parameters, multi_scale_maps

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Added to the range of a map, see :func:`split_picture`.
EPSILON = {"match": 0.1, "background": 1e-4, "refine": 0.1}
BACKGROUND_PATTERN = "a photo of [30]<.>"


class WeakTrNetwork(ImageLevelNetwork):
    """WeakTr's maps of several scales."""

    def __init__(self, model: WeakTr, scales: Sequence[float]) -> None:
        self.model, self.scales, self.num_classes = model, tuple(scales), model.num_classes

    def maps(self, image: np.ndarray, tags: Tensor, settings: MapSettings | None = None) -> Tensor:
        """[T, H, W] in 0..1."""
        device = self.model.cls_token.device
        mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        pixels = torch.from_numpy(image.copy()).to(device).permute(2, 0, 1).float() / 255
        return multi_scale_maps(self.model, (pixels - mean) / std, self.scales)[tags.to(device)].cpu()


def rate_of(epoch: int, epochs: int) -> float:
    """Of the learning rate: a cosine by epochs, one late, so that the first two are at the full rate."""
    return (1 + math.cos(math.pi * max(epoch - 1, 0) / epochs)) / 2


def fit_stage(
    stage: str,
    model: WeakTr,
    clip: CLIP,
    labels: Tensor,
    bank: PromptBank | None,
    examples: Callable[[int], tuple[np.ndarray, Sequence[int]]],
    count: int,
    settings: SemplesSettings,
    state: Path | None = None,
    report: Callable[[int], object] = lambda epoch: None,
    score: Callable[[WeakTr], float] | None = None,
) -> list[float]:
    """Trains one stage: "match" and "refine" the maps of ``model``, "background" the words of ``bank``.

    Returns the mean loss of every epoch.

    Args:
        labels: text features [C, E] of the classes.
        bank: a prompt a class; None in "match".
        examples: picture uint8 [H, W, 3] and tags of i of ``count``.
        state: a file from which it goes on if it is there, and to which it is saved after every epoch.
        report: called after each epoch with its number.
        score: of "match" and "refine", the model ends as it was after the epoch of which this is largest.

    Raises:
        ValueError: there are fewer pictures than a batch takes.
    """
    of_stage = getattr(settings, stage)
    if count < of_stage.batch_size:
        raise ValueError(f"semples.{stage}.batch_size is {of_stage.batch_size}, but there are {count} pictures")
    trained = list(bank.parameters()) if stage == "background" and bank else learned_parameters(model)
    rate = of_stage.learning_rate * of_stage.batch_size / 512
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=settings.weight_decay)
    # Drop path stays on, as published: the maps that learn are noisy.
    model.train(stage != "background")
    augment = _augmentation(settings.side, strong=stage != "background")
    learned: nn.Module = bank if stage == "background" and bank else model
    best = _Best(model) if score else None
    kept = nn.ModuleList([learned, best]) if best else learned
    of_epochs = resume(state, kept, optimizer)
    for epoch in range(len(of_epochs), settings.epochs):
        for group in optimizer.param_groups:
            group["lr"] = rate * rate_of(epoch, settings.epochs)
        order = np.random.default_rng([settings.seed, epoch]).permutation(count).tolist()
        losses = []
        for start in range(0, count - of_stage.batch_size + 1, of_stage.batch_size):
            chosen = order[start : start + of_stage.batch_size]
            images, pairs, classes = _batch(examples, chosen, augment, settings.seed, epoch)
            if not len(classes):
                continue
            device = labels.device
            images, pairs, classes = images.to(device), pairs.to(device), classes.to(device)
            with _seeded(settings.seed, epoch, start):
                loss = _loss(stage, model, clip, labels, bank, images, pairs, classes, settings)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        of_epochs.append(float(np.mean(losses)) if losses else math.nan)
        if score and best:
            best.offer(model.eval(), score(model))
            model.train()
        if state is not None:
            keep(state, kept, optimizer, of_epochs)
        report(epoch)
    if best:
        model.load_state_dict(best.model.state_dict())
    model.eval()
    return of_epochs


class _Best(nn.Module):
    """A model as it was when its ``score`` was largest; of equal ones the first."""

    score: Tensor

    def __init__(self, model: WeakTr) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.register_buffer("score", torch.tensor(-math.inf, dtype=torch.float64))

    def offer(self, model: WeakTr, score: float) -> None:
        if score > self.score:
            self.score.fill_(score)
            self.model.load_state_dict(model.state_dict())


def _loss(
    stage: str,
    model: WeakTr,
    clip: CLIP,
    labels: Tensor,
    bank: PromptBank | None,
    images: Tensor,
    pairs: Tensor,
    classes: Tensor,
    settings: SemplesSettings,
) -> Tensor:
    """Of a batch's pairs of a picture and a tag, int64 [n] each, every pair alike."""
    with torch.set_grad_enabled(stage != "background"):
        fine = model(images, frozen_tokens=True).fine[pairs, classes]
        under, around = split_picture(fine, images[pairs], EPSILON[stage])
        outside = clip.pooled(around)
    named = labels[classes]
    if stage == "background":
        assert bank is not None
        return contrastive_prompts(outside, named, bank()[classes], settings.background_weight)
    inside = clip.pooled(under)
    if stage == "match":
        return label_matching(inside, outside, named, settings.match_weight)
    assert bank is not None
    with torch.no_grad():
        prompts = bank()[classes]
    return refinement(inside, outside, named, prompts, settings.match_weight, settings.refine_weight)


def _batch(
    examples: Callable[[int], tuple[np.ndarray, Sequence[int]]],
    chosen: Sequence[int],
    augment: Callable[[Image.Image], Tensor],
    seed: int,
    epoch: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs [B, 3, S, S], and of every pair of a picture and a tag which picture, and which class."""
    images, pairs, classes = [], [], []
    for row, i in enumerate(chosen):
        image, tags = examples(i)
        with _seeded(seed, epoch, i):
            images.append(augment(Image.fromarray(image)))
        pairs += [row] * len(tags)
        classes += list(tags)
    return torch.stack(images), torch.tensor(pairs, dtype=torch.int64), torch.tensor(classes, dtype=torch.int64)


def _augmentation(side: int, strong: bool) -> Callable[[Image.Image], Tensor]:
    """timm's recipe for ImageNet; of the second stage crops and mirror images alone. Normalised."""
    return create_transform(
        side,
        is_training=True,
        color_jitter=0.0,
        auto_augment="rand-m9-mstd0.5-inc1" if strong else None,
        interpolation="bicubic",
        re_prob=0.25 if strong else 0.0,
        re_mode="pixel",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


@contextmanager
def _seeded(*numbers: int) -> Iterator[None]:
    """Random numbers of all libraries that timm draws from, as they were afterwards."""
    seed = int(np.random.default_rng(numbers).integers(2**31))
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
