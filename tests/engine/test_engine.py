"""The engine around a toy model: checks before training, exact resume, several processes, results."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

from wps_sam import engine
from wps_sam.checkpointer import SafeCheckpointer
from wps_sam.cli import parse
from wps_sam.config import CHOICES, add_wps_sam_config, check_config
from wps_sam.data import register_descriptions
from wps_sam.encoders.build_sam import SHIPPED_WEIGHTS
from wps_sam.engine.evaluate import verify
from wps_sam.engine.pictures import WatchedPictures
from wps_sam.engine.setup import check_output_dir
from wps_sam.engine.trainer import drop_metrics_from
from wps_sam.evaluation import PROTOCOLS
from wps_sam.masks import read_part_map, read_picture
from wps_sam.visualization import side_by_side

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from toy_parts import ToyParts

# What "auto" stands for with parts that belong to no named objects.
FITTING = ["d2_semseg", "pin41", "wps_image_part", "wps_authors", "coco_ap"]
# Draws random numbers in the mapper, so that an order or a seed that went astray shows.
AUGMENTED = ("INPUT.RANDOM_FLIP", "horizontal", "INPUT.CROP.ENABLED", True)


class Killed(Exception):
    pass


def train(cfg, resume=False, stop_at=None):
    """Trains and returns the trained weights; ``stop_at`` ends the run in the middle of that iteration."""
    if not resume:
        torch.manual_seed(7)  # in place of default_setup; a resumed run must not need it
    trainer = engine.Trainer(cfg)
    trainer.resume_or_load(resume)
    if stop_at is not None:

        def stop(model, inputs):
            if trainer.iter == stop_at:
                raise Killed

        trainer.model.register_forward_pre_hook(stop)
        with pytest.raises(Killed):
            trainer.train()
    else:
        trainer.train()
    return {key: value.clone() for key, value in trainer.checkpointer.model.state_dict().items()}


def assert_same_weights(a, b, tolerance=0.0):
    assert a.keys() == b.keys()
    for key in a:
        assert (a[key] - b[key]).abs().max() <= tolerance, key


# ------------------------------------------------------------------ checks


@pytest.mark.parametrize("key", sorted(CHOICES))
def test_unknown_choices_are_refused_with_the_allowed_ones(key):
    cfg = get_cfg()
    add_wps_sam_config(cfg)
    check_config(cfg)
    node = cfg
    *path, name = key.split(".")
    for part in path:
        node = node[part]
    node[name] = ["no such thing"] if isinstance(node[name], list) else "no such thing"
    with pytest.raises(ValueError, match=rf"{key} is 'no such thing'; allowed: {CHOICES[key][0]!r}"):
        check_config(cfg)


def test_unknown_protocols_are_refused_by_the_config_check(tiny_cfg):
    check_config(tiny_cfg("TEST.PROTOCOLS", ["auto", *PROTOCOLS]))
    with pytest.raises(ValueError, match=r"TEST\.PROTOCOLS is 'mean'; allowed: 'auto', 'd2_semseg'"):
        check_config(tiny_cfg("TEST.PROTOCOLS", ["mean"]))


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("MODEL.PROMPTER.NUM_CLASSES", -1), "NUM_CLASSES is -1; set the number"),
        (("SOLVER.MAX_EPOCHS", -1), "MAX_EPOCHS is -1; expected 0, or how often"),
        (("SOLVER.EARLY_STOPPING", -1), "EARLY_STOPPING is -1; expected 0 or more"),
        (("TEST.PICTURES", -1), "PICTURES is -1; expected 0 or more"),
        (("SOLVER.AMP.ENABLED", True), "AMP.ENABLED needs MODEL.DEVICE cuda, not 'cpu'"),
        (("TEST.EXPECTED_RESULTS", [["d2_semseg", "mIoU", 50.0]]), r"each entry is \[protocol, metric, value,"),
    ],
)
def test_impossible_values_are_refused(tiny_cfg, opts, message):
    with pytest.raises(ValueError, match=message):
        check_config(tiny_cfg(*opts))


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (
            ("MODEL.PROMPTER.NUM_CLASSES", 40),
            "is 40, but data set tiny_parts_train has 3 part classes: set MODEL.PROMPTER.NUM_CLASSES 3",
        ),
        (
            ("DATASETS.TEST", ("tiny_parts_vla",)),
            r"'tiny_parts_vla', which is not registered \(did you mean tiny_parts_val\?\); known: .*tiny_parts_train, "
            r"tiny_parts_val, .*ade_obj",
        ),
        (("MODEL.SAM.ARCH", "vit_x"), "MODEL.SAM.ARCH: unknown SAM 'vit_x'; expected one of vit_tiny, vit_b"),
    ],
)
def test_setup_checks_the_config_against_the_data(tiny_cfg, tmp_path, opts, message):
    with pytest.raises(ValueError, match=message):
        engine.setup(arguments(tiny_cfg(*opts), tmp_path))


@pytest.mark.parametrize(
    ("opts", "flags", "message"),
    [
        (("SOLVER.MAX_ITER", 0), (), "SOLVER.MAX_ITER is 0; expected 1 step or more"),
        (("DATASETS.TRAIN", ()), (), "DATASETS.TRAIN is empty"),
        (("DATASETS.TEST", ()), ("--eval-only",), "DATASETS.TEST is empty: there is nothing to evaluate on"),
        (("MODEL.SAM.WEIGHTS", "nowhere.pth"), (), "MODEL.SAM.WEIGHTS nowhere.pth: the file does not exist"),
        (("MODEL.WEIGHTS", "nowhere.pth"), (), "MODEL.WEIGHTS nowhere.pth: the file does not exist"),
        (
            ("MODEL.WEIGHTS", str(SHIPPED_WEIGHTS)),
            (),
            "is a SAM, expected a trained part model; MODEL.SAM.WEIGHTS takes",
        ),
    ],
)
def test_setup_tells_what_can_lead_nowhere_and_writes_nothing(tiny_cfg, tmp_path, opts, flags, message):
    with pytest.raises(ValueError, match=message):
        engine.setup(arguments(tiny_cfg(*opts), tmp_path, *flags))
    assert not (tmp_path / "output").exists()


def test_the_configuration_is_in_the_log_and_not_on_the_console(tiny_cfg, tmp_path, capsys):
    cfg = engine.setup(arguments(tiny_cfg("DATASETS.TEST", ()), tmp_path))
    printed = capsys.readouterr().out
    assert "DATASETS.TEST is empty: nothing will be evaluated" in printed and "NUM_QUERIES" not in printed
    assert f"Environment and configuration are in {cfg.OUTPUT_DIR}" in printed
    assert "NUM_QUERIES" in (Path(cfg.OUTPUT_DIR) / "log.txt").read_text()


def test_evaluation_without_weights_takes_the_last_checkpoint(toy_cfg, log):
    cfg = toy_cfg("SOLVER.MAX_ITER", 1)
    with pytest.raises(ValueError, match="MODEL.WEIGHTS is empty, and OUTPUT_DIR .* holds no last_checkpoint"):
        engine.evaluate_only(cfg)
    train(cfg)
    engine.evaluate_only(cfg)
    assert f"Weights: {cfg.OUTPUT_DIR}/model_final.pth, the last checkpoint of OUTPUT_DIR" in log.text


def test_a_missing_gpu_is_named(tiny_cfg, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch finds no CUDA device: add MODEL.DEVICE cpu"):
        engine.setup(arguments(tiny_cfg("MODEL.DEVICE", "cuda"), tmp_path))


def test_data_sets_must_name_their_classes_alike(toy_cfg, tiny_parts):
    DatasetCatalog.register("other_classes", list)
    MetadataCatalog.get("other_classes").thing_classes = ["Animal Head", "Animal Tail", "Car Body"]
    try:
        with pytest.raises(ValueError, match="class 1 is 'Animal Body' in the first and 'Animal Tail' in the second"):
            engine.check_classes(toy_cfg(), (tiny_parts.split("train"), "other_classes"))
    finally:
        DatasetCatalog.remove("other_classes")
        MetadataCatalog.remove("other_classes")


def test_more_parts_than_queries_names_image_and_number(toy_cfg):
    with pytest.raises(ValueError, match=r"NUM_QUERIES is 1, but .*n00000000_0\.JPEG has 2 parts: set .* 2 or more"):
        engine.Trainer.build_train_loader(toy_cfg("MODEL.DETR_PROMPTER.NUM_QUERIES", 1))
    dense = toy_cfg("MODEL.DETR_PROMPTER.NUM_QUERIES", 1, "MODEL.PROMPTER.NAME", "DensePrompter")
    engine.Trainer.build_train_loader(dense)


def arguments(cfg, folder, *more) -> argparse.Namespace:
    path = Path(folder) / "config.yaml"
    path.write_text(cfg.dump())
    return parse("train", ["--config-file", str(path), *more])


# ------------------------------------------------------------------ training


def test_images_without_annotations_are_left_out_and_counted(write_tiny_parts, tiny_cfg, tmp_path, log):
    parts = write_tiny_parts(tmp_path / "data", name="with_empty", num_train=3, num_empty=2)
    register_descriptions([str(parts.description)])
    loader = engine.Trainer.build_train_loader(tiny_cfg("DATASETS.TRAIN", (parts.split("train"),)))
    assert loader.order.num_images == 3
    assert "with_empty_train: 5 images, of which 2 without annotations are left out" in log.text


@pytest.mark.parametrize(("name", "kind"), [("Adam", torch.optim.Adam), ("AdamW", torch.optim.AdamW)])
def test_the_optimizer_holds_all_trained_parameters_with_decay(toy_cfg, name, kind):
    model = nn.ModuleDict({"frozen": nn.Linear(2, 2), "trained": nn.Linear(2, 2), "norm": nn.LayerNorm(2)})
    model["frozen"].requires_grad_(False)
    cfg = toy_cfg("SOLVER.OPTIMIZER", name, "SOLVER.WEIGHT_DECAY", 0.3)
    optimizer = engine.Trainer.build_optimizer(cfg, model)
    assert type(optimizer) is kind
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.parameters() if p.requires_grad}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.3}


def test_a_model_without_anything_to_train_is_refused(toy_cfg):
    with pytest.raises(ValueError, match="nothing of Linear is trained by this config: evaluate it, --eval-only"):
        engine.Trainer.build_optimizer(toy_cfg(), nn.Linear(2, 2).requires_grad_(False))


def test_full_model_clipping_scales_all_gradients_together(toy_cfg):
    # Gradients (3) and (4): norm 5, clipped to 1 they are 0.6 and 0.8. Detectron2's "norm" would make both 1.
    opts = ("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 1.0)
    for kind, expected in (("full_model", [0.6, 0.8]), ("norm", [1.0, 1.0])):
        cfg = toy_cfg(*opts, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", kind)
        module = nn.ParameterList([nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))])
        optimizer = engine.Trainer.build_optimizer(cfg, module)
        module[0].grad, module[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
        optimizer.step()
        assert [p.grad.item() for p in module] == pytest.approx(expected, abs=1e-5)


def test_embeddings_have_a_weight_decay_of_their_own(toy_cfg):
    model = nn.ModuleDict({"words": nn.Embedding(3, 2), "head": nn.Linear(2, 2)})
    by_size = {}
    for value in (None, 0.0):
        optimizer = engine.Trainer.build_optimizer(toy_cfg("SOLVER.WEIGHT_DECAY_EMBED", value), model)
        by_size[value] = {p.numel(): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert by_size[None] == {6: 1e-4, 4: 1e-4, 2: 1e-4}
    assert by_size[0.0] == {6: 0.0, 4: 1e-4, 2: 1e-4}


@pytest.mark.parametrize("warmup", [0, 2])
def test_poly_schedule(toy_cfg, warmup):
    """lr * (1 - t / T)^0.9, after a linear warm-up if there is one."""
    cfg = toy_cfg("SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR", "SOLVER.MAX_ITER", 10, "SOLVER.WARMUP_ITERS", warmup,
                  "SOLVER.BASE_LR", 2.0)  # fmt: skip
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = engine.Trainer.build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    expected = [2.0 * (1 - t / 10) ** 0.9 for t in range(10)]
    assert rates[warmup:] == pytest.approx(expected[warmup:])
    if warmup:
        assert rates[:2] == pytest.approx([0.0, expected[2] / 2])


def test_gradient_clipping_of_detectron2_applies(toy_cfg):
    model = nn.Linear(1, 1, bias=False)
    cfg = toy_cfg("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.5)
    optimizer = engine.Trainer.build_optimizer(cfg, model)
    model.weight.grad = torch.tensor([[8.0]])
    optimizer.step()
    assert model.weight.grad == 0.5


@pytest.mark.parametrize(("num_workers", "resumed_workers"), [(0, 0), (2, 2), (0, 2)])
def test_a_stopped_and_resumed_run_ends_with_the_same_weights(toy_cfg, tmp_path, num_workers, resumed_workers):
    """Stopped in iteration 3, after the checkpoint of iteration 1; the evaluation in between draws random numbers."""
    common = (*AUGMENTED, "DATASETS.TEST", (), "DATALOADER.NUM_WORKERS")
    whole = train(toy_cfg(*common, num_workers, "OUTPUT_DIR", str(tmp_path / "whole")))
    stopped = (*common, num_workers, "OUTPUT_DIR", str(tmp_path / "stopped"))
    train(toy_cfg(*stopped), stop_at=3)
    torch.rand(5)
    resumed = train(toy_cfg(*stopped, "DATALOADER.NUM_WORKERS", resumed_workers), resume=True)
    assert_same_weights(whole, resumed)
    assert not torch.equal(resumed["head.weight"], train(toy_cfg(*stopped, "SEED", 8))["head.weight"])


def test_an_unseeded_run_resumes_with_its_own_seed(toy_cfg):
    cfg = toy_cfg("SEED", -1, "DATASETS.TEST", ())
    train(cfg, stop_at=4)
    trainer = engine.Trainer(cfg)
    drawn_anew = trainer.data_loader.order.seed
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 4
    assert trainer.data_loader.order.first_position == 8
    assert trainer.data_loader.order.seed != drawn_anew


def test_evaluation_and_workers_do_not_change_training(toy_cfg, tmp_path):
    plain = train(toy_cfg(*AUGMENTED, "DATASETS.TEST", (), "OUTPUT_DIR", str(tmp_path / "a")))
    evaluated = toy_cfg(*AUGMENTED, "TEST.EVAL_PERIOD", 2, "DATALOADER.NUM_WORKERS", 1)
    assert_same_weights(plain, train(evaluated))


def test_metrics_continue_where_the_checkpoint_ends(tmp_path, log):
    """Iterations 4 and 5 came after the checkpoint and are written again; the last line was cut by the kill."""
    path = tmp_path / "metrics.json"
    lines = [json.dumps({"iteration": i}) + "\n" for i in range(6)]
    path.write_text("".join(lines) + '{"iterat')
    with path.open("a") as writer:
        drop_metrics_from(str(path), 4)
        writer.write("new\n")
    assert path.read_text() == "".join(lines[:4]) + "new\n"
    drop_metrics_from(str(tmp_path / "not_there.json"), 4)
    # An evaluation's line may stand behind those of later losses.
    path.write_text("".join([lines[0], lines[5], lines[2]]))
    drop_metrics_from(str(path), 4)
    assert path.read_text() == lines[0] + lines[2]
    # A killed write and the next line in one.
    path.write_text(lines[0] + '{"itera' + lines[1] + lines[2] + "7\n")
    drop_metrics_from(str(path), 4)
    assert path.read_text() == lines[0] + lines[2]
    assert "2 lines that a kill left half written are dropped" in log.text


def test_a_resumed_checkpoint_must_fit_and_a_changed_data_set_is_told(toy_cfg, write_tiny_parts, tmp_path, log):
    train(toy_cfg("DATASETS.TEST", ()), stop_at=3)
    parts = write_tiny_parts(tmp_path / "more", name="more_parts", num_train=8)
    register_descriptions([str(parts.description)])
    engine.Trainer(toy_cfg("DATASETS.TRAIN", (parts.split("train"),))).resume_or_load(resume=True)
    assert "had 6 images when the checkpoint was written and has 8 now" in log.text
    other = toy_cfg("MODEL.META_ARCHITECTURE", "WPSSAM")
    with pytest.raises(ValueError, match=r"model_0000001\.pth: does not fit the model"):
        engine.Trainer(other).resume_or_load(resume=True)


def test_a_nan_loss_stops_with_iteration_losses_and_images(toy_cfg, tmp_path, monkeypatch):
    trainer = engine.Trainer(toy_cfg("DATALOADER.NUM_WORKERS", 0))
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    plain = ToyParts.forward

    def forward(self, batched_inputs):
        losses = plain(self, batched_inputs)
        return {**losses, "loss_toy": losses["loss_toy"] * math.nan} if self.training else losses

    monkeypatch.setattr(ToyParts, "forward", forward)
    message = r"at iteration 0: {'loss_toy': nan, 'loss_norm': .*}, with the images \['.*\.JPEG', '.*\.JPEG'\]"
    with pytest.raises(FloatingPointError, match=message):
        trainer.train()
    assert_same_weights(before, trainer.model.state_dict())
    assert not list(tmp_path.rglob("*.pth"))


@pytest.mark.parametrize("prompter", ["DETRPrompter", "DensePrompter"])
def test_weights_that_are_nan_reach_the_guard_in_every_prompter(tiny_cfg, prompter):
    """DETRPrompter's matching used to stop first, in scipy, naming neither the iteration nor the pictures."""
    trainer = engine.Trainer(tiny_cfg("MODEL.PROMPTER.NAME", prompter, "DATALOADER.NUM_WORKERS", 0))
    with torch.no_grad():
        next(p for name, p in trainer.model.prompter.named_parameters() if "class_head" in name).fill_(math.nan)
    with pytest.raises(FloatingPointError, match=r"at iteration 0: .*with the images \['.*\.JPEG'"):
        trainer.train()


def test_a_failure_in_the_last_iteration_is_not_evaluated(toy_cfg, tmp_path):
    train(toy_cfg("SOLVER.MAX_ITER", 2), stop_at=1)
    assert not list(tmp_path.rglob("evaluation.json"))


# ------------------------------------------------------------------ results


def test_evaluation_json_holds_all_data_sets_protocols_and_oracles(toy_cfg, tiny_parts, log):
    names = (tiny_parts.split("val"), tiny_parts.split("train"))
    cfg = toy_cfg("DATASETS.TEST", names, "TEST.ORACLES", True)
    Path(cfg.OUTPUT_DIR).mkdir()
    results = engine.evaluate(cfg, ToyParts(cfg))
    written = json.loads((Path(cfg.OUTPUT_DIR) / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert tuple(written) == tuple(results) == names
    for name in names:
        oracles = ("oracle_box_prompt", "oracle_filled_box", "oracle_true_names", "oracle_true_boxes")
        assert list(written[name]) == [*FITTING, *oracles]
        assert written[name]["d2_semseg"]["mIoU"] == 0
        assert written[name]["wps_authors"]["mIoU"] is None
        floor, half = written[name]["oracle_filled_box"]["mIoU"], written[name]["oracle_box_prompt"]["mIoU"]
        assert 80 < floor < 100
        assert 0 < half < floor
        # A model that finds nothing names nothing.
        assert written[name]["oracle_true_names"]["mIoU"] == written[name]["oracle_true_boxes"]["mIoU"] == 0
        assert f"Results on {name}:\nAll numbers in percent" in log.text
    assert list(engine.evaluate(cfg, ToyParts(cfg), oracles=False)[names[0]]) == FITTING


def test_oracles_are_asked_once_at_the_end(toy_cfg, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "wps_sam.engine.trainer.evaluate",
        lambda cfg, model, oracles, watcher, data: asked.append(oracles) or {"set": {}},
    )
    train(toy_cfg("TEST.ORACLES", True, "TEST.EVAL_PERIOD", 2))
    assert asked == [False, False, True]


def test_results_of_several_data_sets_have_their_names_in_metrics_json(toy_cfg, tiny_parts):
    names = (tiny_parts.split("val"), tiny_parts.split("train"))
    cfg = toy_cfg("DATASETS.TEST", names, "TEST.PROTOCOLS", ["pin41"], "SOLVER.MAX_ITER", 1)
    train(cfg)
    lines = (Path(cfg.OUTPUT_DIR) / "metrics.json").read_text().splitlines()
    assert all(f"{name}/pin41/mIoU" in json.loads(lines[-1]) for name in names)


def test_expected_results(toy_cfg):
    one = toy_cfg("TEST.EXPECTED_RESULTS", [["d2_semseg", "mIoU", 50.0, 1.0]])
    verify(one, {"d2_semseg": {"mIoU": 50.5}})
    with pytest.raises(SystemExit) as stopped:
        verify(one, {"d2_semseg": {"mIoU": 48.5}})
    assert stopped.value.code == 1
    with pytest.raises(ValueError, match="names 'd2_semseg'; evaluated: pin41"):
        verify(one, {"pin41": {"mIoU": 50.5}})
    two = toy_cfg("DATASETS.TEST", ("a", "b"), "TEST.EXPECTED_RESULTS", [["b/pin41", "mIoU", 50.0, 1.0]])
    verify(two, {"a": {"pin41": {"mIoU": 0.0}}, "b": {"pin41": {"mIoU": 50.5}}})


# ------------------------------------------------------------------ several processes


def train_in_each_process(args: argparse.Namespace) -> None:
    """Run by every process: a whole run, a stopped and resumed one, and one without random numbers."""
    folder = Path(args.dist_url)
    cfg = engine.setup(args)
    cfg.defrost()

    def run(name, *opts, **kwargs):
        one = cfg.clone()
        one.merge_from_list(["OUTPUT_DIR", str(folder / name), *opts])
        weights = train(one, **kwargs)
        torch.save(weights, folder / f"{name}_{comm.get_rank()}.pth")

    run("whole", "DATASETS.TEST", ())
    run("stopped", "DATASETS.TEST", (), stop_at=3)
    run("stopped", "DATASETS.TEST", (), resume=True)
    run("plain", "MODEL.DETR_PROMPTER.PROMPT_WEIGHT", 0.0)


def test_two_processes_resume_exactly_and_train_and_evaluate_as_one(toy_cfg, tmp_path):
    cfg = toy_cfg(*AUGMENTED)
    args = arguments(cfg, tmp_path, "--num-processes", "2", "--dist-url", str(tmp_path))
    engine.launch(train_in_each_process, args)

    def load(name, rank=0):
        return torch.load(tmp_path / f"{name}_{rank}.pth", weights_only=True)

    assert_same_weights(load("whole"), load("whole", rank=1))
    assert_same_weights(load("whole"), load("stopped"))
    one = toy_cfg(*AUGMENTED, "MODEL.DETR_PROMPTER.PROMPT_WEIGHT", 0.0, "OUTPUT_DIR", str(tmp_path / "one"))
    assert_same_weights(load("plain"), train(one), tolerance=1e-6)
    two_folder, one_folder = tmp_path / "plain", tmp_path / "one"
    assert (two_folder / "evaluation.json").read_text() == (one_folder / "evaluation.json").read_text()
    losses = [last_loss(folder / "metrics.json") for folder in (two_folder, one_folder)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def last_loss(path):
    return [json.loads(line)["total_loss"] for line in path.read_text().splitlines() if "total_loss" in line][-1]


def test_the_best_weights_are_kept_beside_the_last_and_a_resumed_run_knows_their_score(toy_cfg, tmp_path, monkeypatch):
    """Scores 3, 9, 5: the second evaluation's weights are kept, also after a stop behind it, when it is made again."""
    scores = iter([3.0, 9.0, 9.0, 5.0])
    monkeypatch.setattr(
        "wps_sam.engine.trainer.evaluate",
        lambda cfg, *args, **more: {cfg.DATASETS.TEST[0]: {"d2_semseg": {"mIoU": next(scores)}}},
    )
    cfg = toy_cfg("TEST.EVAL_PERIOD", 2, "SOLVER.CHECKPOINT_PERIOD", 2, "OUTPUT_DIR", str(tmp_path / "run"))
    train(cfg, stop_at=4)
    best = tmp_path / "run" / "model_best.pth"
    kept = best.read_bytes()
    final = train(cfg, resume=True)
    assert best.read_bytes() == kept and (tmp_path / "run" / "last_checkpoint").read_text() == "model_final.pth"
    content = SafeCheckpointer.read(str(best))
    assert content["trainer"]["class_names"] == MetadataCatalog.get("tiny_parts_train").thing_classes
    assert any(not torch.equal(value, final[key]) for key, value in content["model"].items())


# ------------------------------------------------------------------ early stopping


def scored(monkeypatch, *scores):
    """Evaluations have these scores, on the main process; returns the iterations after which they were asked for."""
    left, asked = iter(scores), []

    def evaluate(cfg, model, oracles, watcher, data):
        asked.append(oracles)
        score = next(left)
        return {cfg.DATASETS.TEST[0]: {"d2_semseg": {"mIoU": score}}} if comm.is_main_process() else {}

    monkeypatch.setattr("wps_sam.engine.trainer.evaluate", evaluate)
    return asked


STOPS = ("TEST.EVAL_PERIOD", 1, "SOLVER.EARLY_STOPPING", 2, "SOLVER.MAX_ITER", 6, "TEST.ORACLES", True)


def test_early_stopping_ends_with_the_best_weights(toy_cfg, tmp_path, monkeypatch):
    """3, 9, 5, 9: equal is no better, so after two in vain it stops; the last evaluation is of the best weights."""
    asked = scored(monkeypatch, 3.0, 9.0, 5.0, 9.0, 9.0)
    cfg = toy_cfg(*STOPS, "SOLVER.CHECKPOINT_PERIOD", 1, "OUTPUT_DIR", str(tmp_path / "run"))
    weights = train(cfg)
    assert asked == [False, False, False, False, True]
    read = {
        name: SafeCheckpointer.read(str(tmp_path / "run" / f"{name}.pth")) for name in ("model_best", "model_final")
    }
    assert_same_weights(weights, read["model_best"]["model"])
    assert_same_weights(weights, read["model_final"]["model"])
    after_two = SafeCheckpointer.read(str(tmp_path / "run" / "model_0000001.pth"))["model"]
    assert_same_weights(weights, after_two)
    assert (tmp_path / "run" / "last_checkpoint").read_text() == "model_final.pth"
    assert not (tmp_path / "run" / "model_0000004.pth").exists()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    assert max(line["iteration"] for line in lines) == 4


def test_a_run_that_stopped_early_stays_stopped(toy_cfg, tmp_path, monkeypatch):
    scored(monkeypatch, 9.0, 5.0, 5.0, 9.0, 9.0)
    cfg = toy_cfg(*STOPS, "OUTPUT_DIR", str(tmp_path / "run"))
    weights = train(cfg)
    # One evaluation, of the same weights.
    assert_same_weights(weights, train(cfg, resume=True))


def test_a_resumed_run_counts_on(toy_cfg, tmp_path, monkeypatch):
    """Stopped behind the first evaluation in vain, which is made again as its checkpoint was written before it; one
    more ends the run."""
    scored(monkeypatch, 9.0, 5.0, 5.0, 5.0, 9.0)
    cfg = toy_cfg(*STOPS, "SOLVER.CHECKPOINT_PERIOD", 1, "OUTPUT_DIR", str(tmp_path / "run"))
    train(cfg, stop_at=2)
    train(cfg, resume=True)
    content = SafeCheckpointer.read(str(tmp_path / "run" / "model_final.pth"))
    assert content["trainer"]["stopped_early"] and content["trainer"]["iteration"] == 2


@pytest.mark.parametrize("scores", [[1.0, 2.0, 1.0, 2.0, 3.0, 1.0], [math.nan] * 6, [9.0] * 6])
def test_what_gets_better_in_time_or_has_no_score_or_does_not_ask_goes_on(toy_cfg, tmp_path, monkeypatch, scores):
    """The last: without SOLVER.EARLY_STOPPING."""
    asked = scored(monkeypatch, *scores)
    more = () if scores[0] != 9 else ("SOLVER.EARLY_STOPPING", 0)
    # In the first, 1 and 2 come after the better 2: equal is no better, but 3 comes just in time.
    train(toy_cfg(*STOPS, "SOLVER.EARLY_STOPPING", 3, *more, "OUTPUT_DIR", str(tmp_path / "run")))
    assert len(asked) == 6
    assert not SafeCheckpointer.read(str(tmp_path / "run" / "model_final.pth"))["trainer"]["stopped_early"]


def stop_early_in_each_process(args: argparse.Namespace) -> None:
    folder = Path(args.dist_url)
    cfg = engine.setup(args)
    with pytest.MonkeyPatch.context() as monkeypatch:
        asked = scored(monkeypatch, 9.0, 5.0, 5.0, 9.0)
        torch.save(train(cfg), folder / f"weights_{comm.get_rank()}.pth")
    assert len(asked) == 4


def test_two_processes_stop_together(toy_cfg, tmp_path):
    cfg = toy_cfg(*STOPS, "TEST.ORACLES", False, "OUTPUT_DIR", str(tmp_path / "run"))
    args = arguments(cfg, tmp_path, "--num-processes", "2", "--dist-url", str(tmp_path))
    engine.launch(stop_early_in_each_process, args)
    best = SafeCheckpointer.read(str(tmp_path / "run" / "model_best.pth"))["model"]
    for rank in (0, 1):
        assert_same_weights(best, torch.load(tmp_path / f"weights_{rank}.pth", weights_only=True))


def test_early_stopping_needs_evaluations_on_the_way(toy_cfg, tmp_path):
    with pytest.raises(ValueError, match=r"EARLY_STOPPING is 2, but nothing is evaluated on the way: set TEST\.EVAL_P"):
        engine.setup(arguments(toy_cfg(*STOPS, "TEST.EVAL_PERIOD", 0), tmp_path))


# ------------------------------------------------------------------ pictures on the way


def pictures_of(folder):
    """{tag: [(step, size)]} of the pictures in the event files of a run."""
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    return {tag: [(e.step, (e.width, e.height)) for e in events.Images(tag)] for tag in events.Tags()["images"]}


def test_tensorboard_shows_the_same_pictures_after_each_evaluation(toy_cfg, tmp_path):
    cfg = toy_cfg("TEST.EVAL_PERIOD", 3, "TEST.PICTURES", 2, "OUTPUT_DIR", str(tmp_path / "run"))
    train(cfg)
    found = pictures_of(tmp_path / "run")
    # The first and the last of four.
    assert list(found) == ["tiny_parts_val/n00000000_0", "tiny_parts_val/n00000001_3"]
    for shown in found.values():
        assert [step for step, _ in shown] == [2, 6] and max(shown[0][1]) <= 1000
    assert "n00000000_0" not in (tmp_path / "run" / "metrics.json").read_text()


def test_no_pictures_without_tensorboard_or_when_none_are_asked_for(toy_cfg, tmp_path, monkeypatch):
    watched = []
    monkeypatch.setattr("wps_sam.engine.trainer.WatchedPictures", lambda *args: watched.append(args))
    engine.Trainer(toy_cfg("TEST.PICTURES", 0))
    engine.Trainer(toy_cfg("DATASETS.TEST", ()))
    assert not watched
    engine.Trainer(toy_cfg())
    assert watched == [("tiny_parts_val", 4)]
    monkeypatch.setattr("wps_sam.engine.trainer.TensorboardXWriter", type("NoWriter", (), {}))
    engine.Trainer(toy_cfg())
    assert len(watched) == 1


def test_what_is_drawn_is_what_was_predicted(toy_cfg):
    toy_cfg()
    records = DatasetCatalog.get("tiny_parts_val")
    watched = WatchedPictures("tiny_parts_val", 3)
    sem_seg = torch.zeros(4, 64, 64)
    sem_seg[2, :, :32] = 1
    sem_seg[3, :, 32:] = 1
    for record in records:
        watched.process([record], [{"sem_seg": sem_seg}])
    watched.evaluate()
    drawn = dict(watched.draw())
    # Of four pictures three, spread over them; the largest is no wider than what a run can keep.
    assert [name.split("_")[-1] for name in drawn] == ["0", "2", "3"]
    names, truth = (
        MetadataCatalog.get("tiny_parts_val").thing_classes,
        read_part_map(records[0], MetadataCatalog.get("tiny_parts_val")),
    )
    expected = side_by_side(read_picture(records[0]), truth, sem_seg.argmax(0).numpy(), names)
    small = Image.fromarray(expected)
    small.thumbnail((1000, 1000))
    assert np.array_equal(next(iter(drawn.values())), np.asarray(small))
    watched.reset()
    assert not list(watched.draw())


def test_the_console_shows_no_module_tree_and_the_log_does(toy_cfg, tmp_path, capsys):
    cfg = engine.setup(arguments(toy_cfg("OUTPUT_DIR", str(tmp_path / "run")), tmp_path))
    engine.Trainer.build_model(cfg)
    assert "ToyParts(" not in capsys.readouterr().out
    assert "ToyParts(" in (tmp_path / "run" / "log.txt").read_text()


def test_a_finished_run_is_not_written_over(toy_cfg, tmp_path):
    cfg = toy_cfg("OUTPUT_DIR", str(tmp_path / "run"), "DATASETS.TEST", ())
    train(cfg)
    (tmp_path / "run" / "log.txt").touch()
    args = argparse.Namespace(eval_only=False, resume=False)
    with pytest.raises(ValueError, match=r"holds a finished run, .* choose another, such as OUTPUT_DIR .*run_2"):
        check_output_dir(cfg, args)
    args.resume = True
    check_output_dir(cfg, args)
    # Nor are the checkpoints of one that was stopped.
    (tmp_path / "run" / "model_final.pth").unlink()
    check_output_dir(cfg, args)
    args.resume = False
    with pytest.raises(ValueError, match=r"checkpoints of an unfinished run, .* go on with it by --resume, or choose"):
        check_output_dir(cfg, args)
    (tmp_path / "run" / "last_checkpoint").unlink()
    check_output_dir(cfg, args)


def test_own_data_without_a_data_set_is_told_what_to_give(tmp_path):
    args = parse("train", ["--config-file", "configs/own_data.yaml", "OUTPUT_DIR", str(tmp_path / "output")])
    with pytest.raises(ValueError, match=r"own_data\.yaml names no data set: give DATASETS\.DESCRIPTIONS '\["):
        engine.setup(args)
    assert not (tmp_path / "output").exists()


def test_a_configuration_of_the_project_is_found_from_any_folder_by_detectron2_too(tiny_cfg, tmp_path, monkeypatch):
    """It opens the file by the name that it is given."""
    seen = []
    module = sys.modules["wps_sam.engine.setup"]
    monkeypatch.setattr(module, "default_setup", lambda cfg, args: seen.append(Path(args.config_file)))
    monkeypatch.chdir(tmp_path)
    cfg = tiny_cfg()
    opts = ["DATASETS.DESCRIPTIONS", str(cfg.DATASETS.DESCRIPTIONS), "DATASETS.TRAIN", str(cfg.DATASETS.TRAIN)]
    opts += ["DATASETS.TEST", "()", "OUTPUT_DIR", str(tmp_path / "output")]
    engine.setup(parse("train", ["--config-file", "configs/own_data.yaml", *opts]))
    assert [path.is_file() for path in seen] == [True]
