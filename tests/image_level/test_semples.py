"""SemPLeS's stages: what learns and what stays, the schedule, and the same twice."""

from __future__ import annotations

import copy
import json
import random

from wps_sam.encoders.clip import random_clip
from wps_sam.encoders.prompt_bank import FixedTexts, PromptBank
from wps_sam.image_level.__main__ import main
from wps_sam.image_level.cams import threshold_labels
from wps_sam.image_level.scores import THRESHOLDS
from wps_sam.image_level.semples import WeakTrNetwork, _augmentation, _seeded, fit_stage, rate_of
from wps_sam.image_level.settings import SemplesSettings, StageSettings
from wps_sam.image_level.weaktr import build_weaktr

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

SIZES = dict(dim=96, depth=2, heads=6, image_size=64)
SMALL = StageSettings(batch_size=4, learning_rate=1.0)
SHORT = SemplesSettings(side=32, epochs=2, match=SMALL, background=SMALL, refine=SMALL)
NAMES = ["dog", "cat", "car"]


@pytest.fixture(scope="module")
def clip():
    return random_clip()


@pytest.fixture(scope="module")
def labels(clip):
    return FixedTexts(clip, [f"a photo of {name}." for name in NAMES])()


def example(i):
    """Never a car."""
    image = np.full((80, 90, 3), 60, np.uint8)
    image[20:60, 20:70, i % 2] = 250
    return image, [[0], [1], [0, 1], []][i % 4]


def train(stage, model, clip, labels, bank=None, settings=SHORT, state=None):
    return fit_stage(stage, model, clip, labels, bank, example, 8, settings, state)


def prompts(clip):
    return PromptBank(clip, [""] * 3, "a photo of [4]<.>", shared=False, deviation=0)


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_the_schedule_is_one_epoch_late():
    assert [rate_of(e, 60) for e in (0, 1)] == [1.0, 1.0] and rate_of(31, 60) == pytest.approx(0.5)


@pytest.mark.parametrize("stage", ["match", "refine"])
def test_maps_learn_by_the_convolution_and_the_fusion(clip, labels, stage):
    model = build_weaktr(3, **SIZES)
    before, words = state_of(model), state_of(clip)
    train(stage, model, clip, labels, prompts(clip))
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith(("head", "adaptive_attention_fusion")) for name in moved)
    assert {"head.weight", "adaptive_attention_fusion.attn_head_ffn.0.weight"} <= moved
    assert all(torch.equal(value, words[name]) for name, value in clip.state_dict().items())
    assert not model.training


def test_prompts_learn_alone_and_what_is_absent_only_decays(clip, labels):
    model, bank = build_weaktr(3, **SIZES), prompts(clip)
    noisy = []
    model.register_forward_pre_hook(lambda m, given: noisy.append(m.training))
    train("match", copy.deepcopy(model), clip, labels)
    assert noisy and all(noisy), "drop path stays on, as published"
    noisy.clear()
    before, start = state_of(model), bank.contexts.detach().clone()
    train("background", model, clip, labels, bank, SemplesSettings(**{**SHORT.__dict__, "weight_decay": 0.0}))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert noisy and not any(noisy), "with drop path on two trainings would differ"
    moved = (bank.contexts - start).abs().sum((1, 2))
    assert moved[0] > 0 and moved[1] > 0 and moved[2] == 0
    decayed = prompts(clip)
    train("background", model, clip, labels, decayed)
    assert (decayed.contexts[2] < start[2]).all()


def test_twice_is_the_same_whatever_was_drawn_before(clip, labels):
    first = train("match", build_weaktr(3, **SIZES), clip, labels)
    torch.rand(5), np.random.rand(3), random.random()
    assert train("match", build_weaktr(3, **SIZES), clip, labels) == first


def test_a_stage_that_was_killed_goes_on_exactly(clip, labels, tmp_path):
    whole = build_weaktr(3, **SIZES)
    expected = train("match", whole, clip, labels)
    state = tmp_path / "match.state"
    # After the first of two epochs.
    dies = lambda epoch: (_ for _ in ()).throw(KeyboardInterrupt)  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        fit_stage("match", build_weaktr(3, **SIZES), clip, labels, None, example, 8, SHORT, state, dies)
    again = build_weaktr(3, **SIZES)
    assert train("match", again, clip, labels, state=state) == expected
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), whole.state_dict().values()))


def test_the_best_epoch_on_the_truth_is_kept_also_after_a_kill(clip, labels, tmp_path):
    """Of epochs scored 2, 5, 5, 1 the second: what it was, not what the last has made of it."""
    settings = SemplesSettings(**{**SHORT.__dict__, "epochs": 4})

    def fit(state=None, dies_after=9):
        states, model = [], build_weaktr(3, **SIZES)

        def score(scored):
            assert not scored.training
            states.append(state_of(scored))
            return [2.0, 5.0, 5.0, 1.0][epoch[0]]

        def report(done):
            epoch[0] = done + 1
            if done == dies_after:
                raise KeyboardInterrupt

        try:
            fit_stage("match", model, clip, labels, None, example, 8, settings, state, report, score)
        except KeyboardInterrupt:
            pass
        return states, model

    epoch = [0]
    states, model = fit()
    found = state_of(model)
    assert all(torch.equal(found[name], states[1][name]) for name in found)
    assert not all(torch.equal(found[name], states[3][name]) for name in found), "the last epoch is another"
    epoch = [0]
    fit(tmp_path / "match.state", dies_after=2)
    again = state_of(fit(tmp_path / "match.state")[1])
    assert all(torch.equal(found[name], again[name]) for name in found)


def test_without_its_weight_the_last_stage_is_the_first(clip, labels):
    one, two = (build_weaktr(3, **SIZES) for _ in range(2))
    train("match", one, clip, labels)
    train("refine", two, clip, labels, prompts(clip), SemplesSettings(**{**SHORT.__dict__, "refine_weight": 0.0}))
    assert all(torch.allclose(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values()))


def test_the_augmentation_is_timms_and_leaves_other_random_numbers_alone():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3)).astype(np.uint8))
    state = torch.get_rng_state()
    with _seeded(1, 2):
        one = _augmentation(64, strong=True)(image)
    assert torch.equal(torch.get_rng_state(), state) and one.shape == (3, 64, 64)
    with _seeded(1, 2):
        assert torch.equal(_augmentation(64, strong=True)(image), one)
    names = [type(step).__name__ for step in _augmentation(224, strong=True).transforms]
    assert "RandAugment" in names and "RandomErasing" in names and "ColorJitter" not in names
    weak = [type(step).__name__ for step in _augmentation(224, strong=False).transforms]
    assert "RandAugment" not in weak and "RandomErasing" not in weak and "RandomHorizontalFlip" in weak


def test_too_few_pictures_are_told(clip, labels):
    with pytest.raises(ValueError, match=r"semples.match.batch_size is 64, but there are 8 pictures"):
        train("match", build_weaktr(3, **SIZES), clip, labels, settings=SemplesSettings())


def test_thresholds_name_what_exceeds_them():
    maps = torch.tensor([[[0.9, 0.3], [0.5, 0.0]], [[0.2, 0.35], [0.6, 0.0]]])
    assert threshold_labels(maps, 0.4).tolist() == [[0, 2], [1, 2]]
    assert threshold_labels(maps, 0.3).tolist() == [[0, 1], [1, 2]]
    perfect = torch.eye(3)[torch.tensor([[0, 1], [2, 0]])].permute(2, 0, 1)[:2]
    for tau in (0.01, 0.4, 0.99):
        assert threshold_labels(perfect, tau).tolist() == [[0, 1], [2, 0]]


def test_maps_are_those_of_the_tags():
    network = WeakTrNetwork(build_weaktr(3, **SIZES), (1.0, 1.2))
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3)).astype(np.uint8)
    assert network.maps(image, torch.tensor([2, 0])).shape == (2, 50, 70)
    both, one = network.maps(image, torch.tensor([2, 0])), network.maps(image, torch.tensor([0]))
    assert torch.equal(both[1], one[0])


def test_the_command_line_runs_all_stages(tmp_path, capsys, monkeypatch):
    from wps_sam.image_level import words as words_module

    monkeypatch.setattr(words_module, "build_weaktr", lambda classes, *more: build_weaktr(classes, **SIZES))
    folder = tmp_path / "pictures"
    folder.mkdir()
    labels = np.zeros((48, 64), np.uint8)
    for i in range(5):
        labels[:] = 0
        labels[8:40, 8:40] = 1 + i % 3
        Image.fromarray(labels).save(folder / f"{i}.png")
        Image.fromarray(np.stack([80 * labels] * 3, -1)).save(folder / f"{i}.jpg")
    (tmp_path / "names.txt").write_text("0\n1\n2\n3\n4\n")
    stage = {"batch_size": 4, "learning_rate": 0.1}
    values = {
        "label_maps": str(folder),
        "names": str(tmp_path / "names.txt"),
        "images": str(folder),
        "classes": NAMES,
        "network": "weaktr",
        "weights": "",
        "sam_arch": "vit_tiny",
        "sam_weights": "",
        "superpixels": {"points_per_side": 2, "crop_n_layers": 0, "pred_iou_thresh": -9, "stability_score_thresh": 0},
        "semples": {"side": 32, "epochs": 1, "match": stage, "background": stage, "refine": stage},
    }
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(values))

    def do(*stage):
        code = main([*stage, "--config-file", str(config), "--run", str(tmp_path / "run")])
        return code or capsys.readouterr().out

    assert do("fit", "--words", "refine") == 2
    assert "run the stage fit with --words background first" in capsys.readouterr().err
    for stage in (
        ("tags",), ("masks",), ("fit", "--words", "match", "--tune-with-truth"), ("fit", "--words", "background"),
        ("fit", "--words", "refine"), ("cams", "--words", "refine"), ("seeds", "--seeds", "fine"),
        ("eval", "--what", "refine", "--tune-with-truth", "--subset", "1", "--crf"),
        ("eval", "--what", "fine"), ("show", "--picture", "1"),
    ):  # fmt: skip
        assert do(*stage) != 2, capsys.readouterr().err
    assert (tmp_path / "run" / "show" / "1.png").is_file()
    scored = json.loads((tmp_path / "run" / "eval_refine.json").read_text())["rows"]
    assert list(scored) == ["refine", "refine_crf", "centre", "noise"] and scored["refine_crf"]["at"] in THRESHOLDS
    assert set(json.loads((tmp_path / "run" / "words" / "background_nouns.json").read_text())) == set(NAMES)
    assert do("fit", "--words", "match") == 2 and "its epoch chosen otherwise" in capsys.readouterr().err
    (tmp_path / "run" / "words" / "match.safetensors").unlink()
    config.write_text(
        yaml.safe_dump({**values, "semples": {**values["semples"], "scored": str(tmp_path / "list.txt")}})
    )
    (tmp_path / "list.txt").write_text("JPEGImages/9.jpg\n")
    assert do("fit", "--words", "match", "--tune-with-truth") == 2
    assert "none of the run's pictures is in this list" in capsys.readouterr().err
