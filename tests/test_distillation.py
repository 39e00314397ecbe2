"""A small network learns what a large one sees; what comes out loads as MODEL.SEMANTIC."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path

from wps_sam.encoders.semantic import build_semantic_encoder
from wps_sam.encoders.semantic_networks import read_network
from wps_sam.pretraining import Distiller, DistillSettings, read_settings
from wps_sam.pretraining.distillation import Student, copy_same, teacher_map, window

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def photos(tmp_path):
    """A folder of 60 pictures of coloured squares, so that two are held out."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k in range(60):
        picture = np.full((40, 64, 3), rng.integers(256, size=3), np.uint8)
        picture[8:30, 10:40] = rng.integers(256, size=3)
        Image.fromarray(picture).save(folder / f"{k:02d}.png")
    return folder


@pytest.fixture
def toy(photos):
    return DistillSettings(
        teacher="timm/mobilenetv2_100",
        student="mobilenetv2_035",
        pictures=(str(photos),),
        **{"crop_size": 32, "picture_size": 64, "batch_size": 4, "minutes": 0.0, "iterations": 3, "val_pictures": 2},
    )


def test_the_student_comes_nearer_and_is_exported(toy, tmp_path):
    distiller = Distiller(replace(toy, iterations=60, learning_rate=3e-3, warmup_iterations=5), str(tmp_path / "out"))
    before = distiller.validate()
    distiller.train()
    after = distiller.validate(whole=True)
    assert len(distiller.held_out) == 2 and len(distiller.files) == 58
    assert all(after[name] > before[name] + 0.05 for name in before) and after["val/cosine_2"] > 0.4, (before, after)
    encoder = build_semantic_encoder("timm", str(distiller.export_path.parent), 0, 64)
    assert encoder.features == {"semantic_8": (16, 8, 8), "semantic_16": (32, 4, 4), "semantic_32": (112, 2, 2)}
    # In half precision, and the averaged weights.
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = distiller.average.module.eval().network(images)[0]
    assert torch.allclose(encoder.network(images)[0], expected, atol=0.05)
    about = json.loads((distiller.export_path.parent / "config.json").read_text())
    assert about["architecture"] == "mobilenetv2_035" and about["distilled"]["iterations"] == 60


def test_a_resumed_run_equals_an_undisturbed_one(toy, tmp_path):
    whole = Distiller(toy, str(tmp_path / "whole"))
    whole.train()
    first = Distiller(toy, str(tmp_path / "cut"))
    first.step(next(first.batches()))
    first.save()
    second = Distiller(toy, str(tmp_path / "cut"))
    second.resume()
    second.train()
    assert second.iteration == 3
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[key]), key


def test_a_cut_teacher_starts_from_its_weights_and_keeps_its_statistics(toy, tmp_path):
    args = (("depth_multiplier", 0.6),)
    settings = replace(toy, student="mobilenetv2_100", student_args=args, cut_from_teacher=True)
    distiller = Distiller(settings, str(tmp_path))
    student, teacher = distiller.student.network.state_dict(), distiller.teacher.state_dict()
    assert len(student) < len(teacher) and all(torch.equal(value, teacher[key]) for key, value in student.items())
    assert distiller.student.network.pixel_mean == distiller.teacher.pixel_mean
    norms = [m for m in distiller.student.network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert distiller.student.training and norms and not any(norm.training for norm in norms)
    distiller.train()
    loaded = read_network("timm", str(distiller.export_path.parent))
    assert len(loaded.state_dict()) == len(student)
    # Uncut, the student is the teacher: nothing is left to learn.
    same = Distiller(replace(settings, student_args=()), str(tmp_path / "same"))
    assert float(same.loss(next(same.batches()))[0]) < 1e-6
    with pytest.raises(ValueError, match="no tensor of the teacher's"):
        copy_same(distiller.teacher, nn.Linear(2, 2))


def test_batch_norms_of_a_new_student_learn_their_own_statistics():
    network = read_network("timm/mobilenetv2_035", "")
    student = Student(network, [8, 8, 8]).train()
    assert all(m.training for m in student.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize(
    ("stride", "strides", "expected"),
    [(8, [8, 16, 32], 0), (8, [4, 8, 16], 1), (16, [4, 8, 16], 2), (32, [4, 8, 16], 2), (8, [16], 0), (32, [16], 0)],
)
def test_which_map_teaches_which(stride, strides, expected):
    assert teacher_map(stride, strides) == expected


def test_a_window_lies_in_the_picture_and_grey_beside_it():
    image = np.full((10, 40, 3), 200, np.uint8)
    found = window(image, 2.0, 32, np.random.default_rng(0))
    assert found.shape == (3, 32, 32) and (found[:, :20] == 200).all() and (found[:, 20:] == 127).all()


def test_the_tool_and_its_messages(photos, tmp_path, capsys):
    run = runpy.run_path(str(ROOT / "tools" / "distill_semantic.py"))["main"]
    more = ["teacher=timm/mobilenetv2_100", "student=mobilenetv2_035", f"pictures=[{photos}]", "crop_size=32"]
    more += ["minutes=0", "iterations=1", "batch_size=2", "val_pictures=1"]
    assert run(["--output-dir", str(tmp_path / "out"), *more]) == 0
    assert (tmp_path / "out" / "semantic" / "model.safetensors").is_file()
    assert run(["--output-dir", str(tmp_path / "out"), "--resume", *more, "iterations=2"]) == 0
    for wrong, message in (
        (["crop_size=30"], "crop_size: expected a multiple of 32, got 30"),
        (["pictures=[nowhere]"], "nowhere"),
        (["student=no_such_network"], "no_such_network"),
    ):
        assert run(["--output-dir", str(tmp_path / "wrong"), *more, *wrong]) == 2
        assert message in capsys.readouterr().err


def test_every_configuration_is_read():
    (file,) = (ROOT / "configs" / "distill_semantic").glob("*.yaml")
    settings = read_settings(DistillSettings, yaml.safe_load(file.read_text()))
    assert settings.student == "mobilenetv2_100" and dict(settings.student_args)["depth_multiplier"] == 0.6
