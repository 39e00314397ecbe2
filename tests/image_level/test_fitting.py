"""Learning words: the schedule, the augmentation's odd corners, losses that fall, and nothing else that moves."""

from __future__ import annotations

import math

from wps_sam.encoders.clip import random_clip
from wps_sam.encoders.prompt_bank import FixedTexts, PromptBank
from wps_sam.image_level import fitting
from wps_sam.image_level.augment import _of_channel, colour_jitter, scale_and_crop
from wps_sam.image_level.cams import softmax_gradcam
from wps_sam.image_level.fitting import background_loss, fit_words, learning_rate, seed_loss, tag_loss
from wps_sam.image_level.networks import CLIPNetwork
from wps_sam.image_level.settings import FitSettings

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

NAMES = ["dog", "cat", "car"]
SHORT = FitSettings(iterations=12, warmup=2, batch_size=4, crop=32, long_side=(32, 48), learning_rate=0.5, seed=3)


@pytest.fixture(scope="module")
def clip():
    return random_clip()


def example(i):
    """Class k is a blob of colour k; so are the seeds."""
    c = i % 3
    image = np.full((40, 48, 3), 60, np.uint8)
    seed = np.full((40, 48), 3, np.int64)
    image[8:30, 10:36, c], seed[8:30, 10:36] = 250, c
    return image, [c], seed


def train(clip, loss, bank, settings=SHORT, count=12, state=None):
    return fit_words(CLIPNetwork(clip, bank, 3), bank, loss, example, count, settings, state)


def test_the_schedule_is_flat_and_then_a_cosine():
    settings = FitSettings()
    assert learning_rate(settings, 499) == 1e-5 and learning_rate(settings, 500) == 1e-3
    assert learning_rate(settings, 1150) == pytest.approx(5e-4)
    assert learning_rate(settings, 1799) == pytest.approx(1e-3 * (1 + math.cos(math.pi * 1299 / 1300)) / 2)


def test_dark_values_bounce_back_and_large_ones_stick():
    image = np.full((1, 2, 3), 10, np.uint8)
    image[0, 1] = 250
    darker = cv2.convertScaleAbs(image, alpha=1.0, beta=-25.0)
    assert darker[0, 0, 0] == 15, "|10 - 25|, not 0"
    red = np.array([[[255, 0, 0]]], np.uint8)  # Hue 0: minus 20 is 20, towards yellow, whichever way it is turned.
    assert np.array_equal(_of_channel(red, 0, 1.0, -20.0), _of_channel(red, 0, 1.0, 20.0))


def test_jitter_is_of_the_generator_alone_and_leaves_some_pictures_alone():
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    found = [colour_jitter(image, np.random.default_rng(i)) for i in range(64)]
    again = [colour_jitter(image, np.random.default_rng(i)) for i in range(64)]
    assert all(np.array_equal(a, b) for a, b in zip(found, again))
    # Four steps, each in half of all cases: one in sixteen has none.
    assert 0 < sum(np.array_equal(image, one) for one in found) < 16


def test_crops_are_squares_of_the_scaled_picture_with_their_labels():
    image = np.zeros((100, 50, 3), np.uint8)
    image[:, 25:] = 200
    label = np.where(image[..., 0] > 100, 7, 300).astype(np.int64)
    sides = set()
    for i in range(40):
        crop, of_crop = scale_and_crop(image, label, 64, (128, 132), np.random.default_rng(i))
        assert crop.shape == (64, 64, 3) and of_crop.shape == (64, 64) and set(np.unique(of_crop)) <= {7, 300}
        inside = (of_crop == 7)[:, 4:-4]
        assert np.abs(crop[:, 4:-4, 0][inside].astype(int) - 200).mean() < 12
        sides.add(bool(of_crop[0, 0] == 300))
    assert sides == {True, False}, "mirrored and not"
    small, _ = scale_and_crop(image[:30], label[:30], 64, (10, 12), np.random.default_rng(0))
    assert small.shape == (64, 64, 3), "enlarged until the crop fits"


def test_words_learned_from_tags_lower_the_loss_and_nothing_else_moves(clip):
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    losses = train(clip, tag_loss, PromptBank(clip, NAMES, "[4]{name}.", shared=False))
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    assert all(torch.equal(value, before[name]) for name, value in clip.state_dict().items())
    again = train(clip, tag_loss, PromptBank(clip, NAMES, "[4]{name}.", shared=False))
    assert losses == again


def test_words_learned_from_seeds_lower_the_loss(clip):
    bank = PromptBank(clip, [*NAMES, "", ""], "{name}[4].", shared=False, deviation=0.125)
    settings = FitSettings(**{**SHORT.__dict__, "iterations": 30, "learning_rate": 2.0})
    losses = train(clip, seed_loss(), bank, settings)
    assert np.mean(losses[-6:]) < np.mean(losses[:6])


def test_backgrounds_learn_alone_and_only_of_classes_that_are_there(clip):
    texts = FixedTexts(clip, [*NAMES, "sky"])
    bank = PromptBank(clip, [""] * 3, "a photo of [5]<.>", shared=False, deviation=0)
    start = bank.contexts.detach().clone()
    loss = background_loss(texts()[:3], bank, 0.02)
    network = CLIPNetwork(clip, texts, 3)
    settings = FitSettings(**{**SHORT.__dict__, "weight_decay": 0.0, "iterations": 4, "batch_size": 1, "warmup": 0})
    # Of three pictures, only those with a dog.
    fit_words(network, bank, loss, lambda i: example(0), 3, settings)
    moved = (bank.contexts - start).abs().sum((1, 2))
    assert moved[0] > 0 and not moved[1:].any()


@pytest.fixture(scope="module")
def one_crop(clip):
    """A network, its bank, what surrounds classes, and a crop of one class with its seed."""
    bank = PromptBank(clip, [*NAMES, ""], "{name}[4].", shared=False, deviation=0.125)
    surroundings = PromptBank(clip, [""] * 3, "a photo of [5]<.>", shared=False, deviation=0)
    _, tags, seed = example(1)
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    given = (pixels, [torch.tensor(tags)], [torch.from_numpy(seed[:32, :32])])
    return CLIPNetwork(clip, bank, 3), bank, surroundings, given


def test_semples_losses_on_clips_maps_are_their_formulas(clip, one_crop):
    """Stages a and c, step by step: the map stretched with 0.1, the picture under and around it, cosines."""
    network, bank, surroundings, (pixels, tags, seeds) = one_crop
    labels = FixedTexts(clip, NAMES)()
    view = clip.look(pixels)
    (found,) = softmax_gradcam(view, network.logits(view), tags, [network.others(tags[0])])
    large = F.interpolate(found[None].clamp(min=0), (32, 32), mode="bilinear", align_corners=True)[0]
    mask = (large - large.min()) / (large.max() - large.min() + 0.1)
    inside, outside = clip.pooled(mask * pixels)[0], clip.pooled((1 - mask) * pixels)[0]
    cosine = [(a @ b).item() for a, b in ((inside, labels[1]), (outside, labels[1]), (inside, surroundings()[1]))]
    cosine = [min(max(c, 1e-4), 0.9999) for c in cosine]
    match = -math.log(cosine[0]) - 2.4 * math.log(1 - cosine[1])

    def value(*weights):
        loss = seed_loss(*weights, 2.4, labels, surroundings)(network, pixels, tags, seeds)
        assert torch.autograd.grad(loss, bank.contexts, retain_graph=True)[0].abs().sum() > 0
        return loss.item()

    assert value(0.0, 1.0, 0.0) == pytest.approx(match, rel=1e-4)
    swapped = -math.log(cosine[1]) - 2.4 * math.log(1 - cosine[0])
    assert abs(swapped - match) > 1e-3, "the inside for the outside would be told"
    assert value(0.0, 1.0, 0.3) == pytest.approx(match - 0.3 * math.log(1 - cosine[2]), rel=1e-4)
    activation = seed_loss()(network, pixels, tags, seeds).item()
    assert value(1.0, 0.0, 0.0) == activation
    assert value(0.5, 1.0, 0.0) == pytest.approx(0.5 * activation + match, rel=1e-4)


def test_every_pair_of_a_picture_and_a_tag_weighs_alike(clip, one_crop):
    """Two tags of one picture and one of another: a mean of three, not of pictures."""
    network, _, _, (pixels, _, seeds) = one_crop
    both = torch.cat([pixels, pixels.flip(3)])
    loss = seed_loss(0.0, 1.0, 0.0, 2.4, FixedTexts(clip, NAMES)())
    one, other = torch.tensor([0, 2]), torch.tensor([1])
    together = loss(network, both, [one, other], seeds * 2)
    apart = [loss(network, both[i : i + 1], [t], seeds).item() for i, t in ((0, one), (1, other))]
    assert together.item() == pytest.approx((2 * apart[0] + apart[1]) / 3, rel=1e-4)
    assert abs(together.item() - sum(apart) / 2) > 1e-5


def test_semples_on_clips_maps_needs_no_seeds(clip):
    """Without CAL nothing reads a seed, and every tag counts, wherever the crop lies."""
    settings = FitSettings(**{**SHORT.__dict__, "iterations": 3, "crop_tags": True})
    bank = PromptBank(clip, [*NAMES, ""], "{name}[4].", shared=False)
    start = bank.contexts.detach().clone()
    seen: list[list[int]] = []
    of_maps = seed_loss(0.0, 1.0, 0.0, 2.4, FixedTexts(clip, NAMES)())

    def loss(network, images, tags, seeds):
        seen.extend(t.tolist() for t in tags)
        return of_maps(network, images, tags, seeds)

    fit_words(CLIPNetwork(clip, bank, 3), bank, loss, lambda i: (*example(i)[:2], None), 4, settings)
    assert sorted(map(tuple, seen)) == sorted([(0,), (1,), (2,), (0,)] * 3) and not torch.equal(bank.contexts, start)


def test_crops_without_any_class_say_nothing(clip):
    bank = PromptBank(clip, [*NAMES, ""], "{name}[4].", shared=False)
    start = bank.contexts.detach().clone()
    settings = FitSettings(**{**SHORT.__dict__, "iterations": 2, "crop_tags": True, "weight_decay": 0.0})
    nothing = (np.zeros((40, 40, 3), np.uint8), [0], np.full((40, 40), 3))
    fit_words(CLIPNetwork(clip, bank, 3), bank, seed_loss(), lambda i: nothing, 8, settings)
    assert torch.equal(bank.contexts, start)


def test_words_that_were_killed_go_on_exactly(clip, tmp_path, monkeypatch):
    whole = PromptBank(clip, NAMES, "[4]{name}.")
    expected = train(clip, tag_loss, whole)
    monkeypatch.setattr(fitting, "SAVE_SECONDS", -1.0)
    state = tmp_path / "tags.state"

    def dies(iteration):
        if iteration == 6:
            raise KeyboardInterrupt

    bank = PromptBank(clip, NAMES, "[4]{name}.")
    with pytest.raises(KeyboardInterrupt):
        fit_words(CLIPNetwork(clip, bank, 3), bank, tag_loss, example, 12, SHORT, state, dies)
    again = PromptBank(clip, NAMES, "[4]{name}.")
    assert train(clip, tag_loss, again, state=state) == expected and torch.equal(again.contexts, whole.contexts)


def test_adamw_moves_prompts_that_start_far_away(clip):
    """SemPLeS's start in 0..1 with its own optimiser: a step is as large as its rate."""
    bank = PromptBank(clip, NAMES, "a photo of [4]<.>", shared=False, deviation=0)
    start = bank.contexts.detach().clone()
    settings = FitSettings(**{**SHORT.__dict__, "optimizer": "adamw", "warmup": 0, "learning_rate": 0.025})
    train(clip, tag_loss, bank, settings)
    assert (bank.contexts - start).abs().mean() > 0.05


def test_too_few_pictures_are_told(clip):
    with pytest.raises(ValueError, match="batch_size is 4, but there are 3 pictures"):
        train(clip, tag_loss, PromptBank(clip, NAMES, "[4]{name}."), count=3)
