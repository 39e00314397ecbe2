"""Training and evaluation from the feature cache are those of the live encoder; making it survives anything."""

from __future__ import annotations

import io
import json
import math
import os
import random
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

from wps_sam import engine
from wps_sam.checkpointer import write_atomically
from wps_sam.config import check_config
from wps_sam.data import feature_store, register_descriptions
from wps_sam.engine import features
from wps_sam.engine.features import cache_features, convert_features, settings_v1, spec_of
from wps_sam.shares import WHOLE, Share

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from format_1_cache import payload, write_format_1
from safetensors.torch import load_file

DENSE = ("MODEL.PROMPTER.NAME", "DensePrompter", "MODEL.DENSE_PROMPTER.COMPANION_DIM", 8)
NO_TEST = ("DATASETS.TEST", ())


@pytest.fixture
def cfg(tiny_cfg, tiny_parts):
    register_descriptions([str(tiny_parts.description)])
    flips = ("INPUT.RANDOM_FLIP", "horizontal", "MODEL.SAM.WEIGHTS", "shipped")
    return lambda *opts: tiny_cfg(*flips, *opts)


@pytest.fixture
def cached(cfg, tmp_path_factory):
    """``cached("fp32")``: config entries for the features of the tiny data sets, made once for all tests. Read only."""

    def made(dtype):
        folder = tmp_path_factory.getbasetemp() / f"features_{dtype}"
        if not (folder / "tiny_parts_val" / "manifest.json").is_file():
            cache_features(cfg(), folder, dtype)
        return ("MODEL.SAM.FEATURES", "cache", "MODEL.SAM.CACHE_DIR", str(folder))

    return made


class Stopped(Exception):
    pass


def train(cfg, resume=False, stop_at=None):
    """Trains; returns the losses of every step, what the model was given, and the model."""
    torch.manual_seed(7)
    trainer = engine.Trainer(cfg)
    trainer.resume_or_load(resume)
    losses, inputs = [], []

    def record(model, given, output):
        if trainer.iter == stop_at:
            raise Stopped
        if model.training:
            losses.append({name: float(value) for name, value in output.items()})
            inputs.extend(given[0])

    trainer.model.register_forward_hook(record)
    if stop_at is None:
        trainer.train()
    else:
        with pytest.raises(Stopped):
            trainer.train()
    return losses, inputs, trainer.model


def assert_same_losses(ours, theirs, tolerance=1e-5):
    assert len(ours) == len(theirs)
    for of_step, expected in zip(ours, theirs):
        assert of_step == pytest.approx(expected, abs=tolerance, rel=0)


@pytest.mark.parametrize("prompter", [(), DENSE], ids=["DETRPrompter", "DensePrompter"])
def test_the_losses_are_those_of_live_training(cfg, cached, prompter):
    opts = (*prompter, *NO_TEST, "SOLVER.MAX_ITER", 6)
    expected, seen, _ = train(cfg(*opts))
    losses, given, model = train(cfg(*opts, *cached("fp32")))
    assert_same_losses(losses, expected)
    for dtype, tolerance in (("fp16", 0.02), ("int8", 0.05)):
        assert_same_losses(train(cfg(*opts, *cached(dtype)))[0], expected, tolerance)
    assert not any("image_encoder" in name for name, _ in model.named_parameters())
    # Pixels travel only where a companion looks at them.
    assert all(("image" in x) == bool(prompter) and "image_embedding" in x for x in given)
    for ours, theirs in zip(given, seen):
        assert ours["instances"].image_size == theirs["instances"].image_size
        assert torch.equal(ours["instances"].gt_boxes.tensor, theirs["instances"].gt_boxes.tensor)
    # The comparison could have failed: both views of a picture were drawn, and they differ.
    last = {x["file_name"]: x["image_embedding"] for x in given}
    assert any(not torch.equal(x["image_embedding"], last[x["file_name"]]) for x in given)


SEMANTIC = ("MODEL.SEMANTIC.NAME", "timm/mobilenetv2_035")
CROPS = ("INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "relative_range", "INPUT.CROP.SIZE", [0.5, 0.5])


@pytest.mark.parametrize("prompter", [(), DENSE], ids=["DETRPrompter", "DensePrompter"])
def test_semantic_features_and_crops_are_those_of_live_training(cfg, tmp_path, prompter):
    opts = (*prompter, *NO_TEST, *SEMANTIC, *CROPS, "INPUT.RANDOM_VIEWS", 2, "SOLVER.MAX_ITER", 5)
    cached = ("MODEL.SAM.FEATURES", "cache", "MODEL.SAM.CACHE_DIR", str(tmp_path))
    expected, seen, model = train(cfg(*opts))
    cache_features(cfg(*opts), tmp_path, "fp32")
    losses, given, from_cache = train(cfg(*opts, *cached))
    assert_same_losses(losses, expected)
    assert model.semantic is not None and from_cache.semantic is None
    assert {"semantic_8", "semantic_16", "semantic_32", "image_embedding"} <= given[0].keys()
    # Labels move with the crops, of which there are others than the whole picture.
    sizes = set()
    for ours, theirs in zip(given, seen):
        sizes.add(ours["instances"].image_size)
        assert ours["instances"].image_size == theirs["instances"].image_size
        assert torch.equal(ours["instances"].gt_boxes.tensor, theirs["instances"].gt_boxes.tensor)
    assert len(sizes) > 1
    # Evaluation sees whole pictures, which the cache of a run without crops holds as well.
    assert features.views_of(cfg(*opts), is_train=False) == ["original"]
    for other, message in (
        (("MODEL.SEMANTIC.IMAGE_SIZE", 256), r"made with MODEL\.SEMANTIC 'timm/mobilenetv2_035, sha256:.*asked for"),
        (("MODEL.SEMANTIC.NAME", ""), r"made with MODEL\.SEMANTIC 'timm.*, and None is asked for"),
        (("INPUT.CROP.SIZE", [0.9, 0.9]), r"made with INPUT\.CROP .*\[0\.5, 0\.5\].*\[0\.9, 0\.9\].*asked for"),
        (("INPUT.RANDOM_VIEWS", 3), r"holds the views .*random_1.* asks for 'random_2'"),
    ):
        with pytest.raises(ValueError, match=message):
            engine.Trainer.build_train_loader(cfg(*opts, *cached, *other))


def test_a_crop_that_is_another_one_shows_in_the_losses(cfg, tmp_path, monkeypatch):
    opts = (*NO_TEST, *CROPS, "INPUT.RANDOM_VIEWS", 2, "SOLVER.MAX_ITER", 4)
    cached = ("MODEL.SAM.FEATURES", "cache", "MODEL.SAM.CACHE_DIR", str(tmp_path))
    cache_features(cfg(*opts), tmp_path, "fp32")
    expected, _, _ = train(cfg(*opts, *cached))
    monkeypatch.setattr("wps_sam.data.mapper.random_view", lambda number: f"random_{1 - number}")
    losses, _, _ = train(cfg(*opts, *cached))
    assert max(abs(a["loss_class"] - b["loss_class"]) for a, b in zip(losses, expected)) > 1e-3


@pytest.mark.parametrize("opts", [("INPUT.RANDOM_VIEWS", 2), (*CROPS, "INPUT.RANDOM_VIEWS", -1)])
def test_a_number_of_crops_that_makes_no_sense_is_refused(cfg, opts):
    with pytest.raises(ValueError, match=r"INPUT\.RANDOM_VIEWS is -?\d; expected 0, or with INPUT\.CROP\.ENABLED"):
        check_config(cfg(*opts))


def test_a_flip_that_is_missed_shows_in_the_losses(cfg, cached, monkeypatch):
    opts = (*NO_TEST, "SOLVER.MAX_ITER", 6, *cached("fp32"))
    expected, _, _ = train(cfg(*opts))
    monkeypatch.setattr("wps_sam.data.mapper.VIEW_OF", {True: "original", False: "original"})
    losses, _, _ = train(cfg(*opts))
    assert max(abs(a["loss_class"] - b["loss_class"]) for a, b in zip(losses, expected)) > 1e-3


def test_evaluation_and_checkpoints_are_interchangeable(cfg, cached):
    learns = ("SOLVER.BASE_LR", 0.001, "MODEL.DETR_PROMPTER.NUM_QUERIES", 2, "SOLVER.MAX_ITER", 8)
    learns += ("TEST.ORACLES", True, "TEST.PROTOCOLS", ["d2_semseg", "wps_image_part"])
    live, fp32 = cfg(*learns), cached("fp32")
    expected, _, undisturbed = train(live)
    written = json.loads(Path(live.OUTPUT_DIR, "evaluation.json").read_text())["tiny_parts_val"]
    # What is unknown, such as the OSI of a class that is never predicted, is null there.
    scores = {p: {k: math.nan if v is None else v for k, v in of.items()} for p, of in written.items()}
    assert scores["d2_semseg"]["mIoU"] > 0 and scores["oracle_box_prompt"]["mIoU"] > 0
    shipped = undisturbed.state_dict()
    # One half from the cache and one live: the checkpoint of one continues and is scored as the other.
    for first, second in ((fp32, ()), ((), fp32)):
        shutil.rmtree(live.OUTPUT_DIR)
        begun, _, _ = train(cfg(*learns, *first), stop_at=4)
        ended, _, model = train(cfg(*learns, *second), resume=True)
        assert_same_losses([*begun, *ended], expected)
        state = model.state_dict()
        assert state.keys() == shipped.keys()
        assert torch.equal(state["encoder_sha256"], shipped["encoder_sha256"])
        weights = ("MODEL.WEIGHTS", os.path.join(live.OUTPUT_DIR, "model_final.pth"))
        evaluated = engine.evaluate_only(cfg(*learns, *first, *weights))["tiny_parts_val"]
        for protocol, expected_scores in scores.items():
            assert evaluated[protocol] == pytest.approx(expected_scores, abs=0.01, nan_ok=True), protocol


FAMILIES = ("mobile_test", "hq_test", "sam2_test", "edgetam_test", "sam3_test")
DENSE_FROM_MASKS = (
    *("MODEL.PROMPTER.NAME", "DensePrompter", "MODEL.DENSE_PROMPTER.STRIDE", 16),
    *("WEAK_LABELS.TYPE", "as_annotated"),
)


@pytest.fixture
def cfg_on(cfg, tiny_encoders):
    """``cfg_on("sam2_test", ...)``: on a tiny encoder, whose pictures need no 512 pixels."""
    return lambda arch, *opts: cfg("MODEL.SAM.ARCH", arch, "MODEL.SAM.WEIGHTS", tiny_encoders[arch], *opts)


@pytest.fixture
def cached_on(cfg_on, tmp_path_factory):
    """As ``cached``: ``cached_on("sam2_test")``."""

    def made(arch, *opts, dtype="fp32"):
        folder = tmp_path_factory.getbasetemp() / "_".join(("features_on", arch, dtype, *map(str, opts[1::2])))
        if not (folder / "tiny_parts_val" / "manifest.json").is_file():
            # As many at once as in training: of the same pictures the last bits are the same, too.
            cache_features(cfg_on(arch, *opts), folder, dtype, batch_size=2)
        return ("MODEL.SAM.FEATURES", "cache", "MODEL.SAM.CACHE_DIR", str(folder), *opts)

    return made


@pytest.mark.parametrize("prompter", [(), DENSE_FROM_MASKS], ids=["DETRPrompter", "DensePrompter"])
@pytest.mark.parametrize("arch", FAMILIES)
def test_every_family_trains_from_the_store_as_live(cfg_on, cached_on, arch, prompter):
    """20 steps, the flipped view among them, and of one the evaluation with both oracles."""
    opts = (*prompter, "SOLVER.MAX_ITER", 20, "SOLVER.CHECKPOINT_PERIOD", 20)
    evaluates = arch == "sam2_test" and not prompter
    opts += ("TEST.ORACLES", True, "TEST.PROTOCOLS", ["d2_semseg"]) if evaluates else NO_TEST
    found = {}
    for how, more in (("live", ()), ("cache", cached_on(arch))):
        config = cfg_on(arch, *opts, *more)
        losses, inputs, model = train(config)
        written = Path(config.OUTPUT_DIR, "evaluation.json")
        found[how] = losses, json.loads(written.read_text())["tiny_parts_val"] if written.is_file() else {}
        assert ("image" in inputs[0]) == (how == "live")
        assert (set(model.backbone.spec.features) <= inputs[0].keys()) == (how == "cache")
        shutil.rmtree(config.OUTPUT_DIR)
    (expected, live), (losses, cached) = found.values()
    assert len(losses) == 20
    for of_step, of_live in zip(losses, expected):
        assert of_step == pytest.approx(of_live, rel=1e-5, abs=1e-6)
    assert cached.keys() == live.keys() and ("oracle_box_prompt" in cached) == evaluates
    for protocol, of_live in live.items():
        for name, value in of_live.items():
            assert cached[protocol][name] == pytest.approx(value, abs=0.01), (protocol, name)


def test_a_store_of_the_coarse_level_alone(cfg_on, cached_on):
    """A quarter of the size; masks are decoded with zeros in place of the finer maps, as live."""
    coarse, few = ("MODEL.SAM.LEVELS", "coarse"), (*DENSE_FROM_MASKS, *NO_TEST, "SOLVER.MAX_ITER", 3)
    cached = cached_on("sam2_test", *coarse)
    manifest = json.loads(Path(cached[3], "tiny_parts_train", "manifest.json").read_text())
    assert manifest["features"] == {"image_embedding": [256, 4, 4]}
    expected, _, _ = train(cfg_on("sam2_test", *few, *coarse))
    losses, given, model = train(cfg_on("sam2_test", *few, *cached))
    assert_same_losses(losses, expected)
    assert "image_embedding" in given[0] and not any(name.startswith("high_res") for name in given[0])
    # With the finer maps the same prompts get other masks, in all else nothing differs.
    whole = train(cfg_on("sam2_test", *few, *cached_on("sam2_test")))[0][0]
    differs = [name for name in whole if abs(whole[name] - losses[0][name]) > 1e-4]
    assert differs == ["loss_mask"]
    rounded = train(cfg_on("sam2_test", *few, *cached_on("sam2_test", dtype="int8")))[0][0]
    assert rounded == pytest.approx(whole, rel=0.05) and rounded != pytest.approx(whole, rel=1e-5)
    # What was trained with one serves the other.
    assert build_model(cfg_on("sam2_test", *few)).load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match=r"features of the shapes .* and .*high_res_0.* is asked for"):
        engine.Trainer.build_train_loader(cfg_on("sam2_test", *few, *cached, "MODEL.SAM.LEVELS", "all"))


@pytest.mark.parametrize(
    ("arch", "reason"),
    [
        ("hq_test", "without hq_features SAM-HQ is SAM"),
        ("mobile_test", "mobile_test has nothing but the embedding"),
    ],
)
def test_the_coarse_level_is_refused_where_it_makes_no_sense(cfg_on, arch, reason):
    with pytest.raises(ValueError, match=rf"MODEL\.SAM\.LEVELS is 'coarse', but {reason}"):
        check_config(cfg_on(arch, "MODEL.SAM.LEVELS", "coarse"))


def test_without_an_encoder_no_picture_is_encoded_unawares(cfg, cached):
    model = build_model(cfg(*cached("fp32"))).eval()
    with pytest.raises(ValueError, match=r"no image_embedding; set MODEL\.SAM\.FEATURES live"):
        model([{"image": torch.zeros(3, 512, 512, dtype=torch.uint8)}])


# ------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("MODEL.SAM.WEIGHTS", ""), r"made with MODEL\.SAM\.WEIGHTS 'sha256:.*', and 'sha256:.*' is asked for"),
        (("MODEL.SAM.PADDING", "center"), r"made with MODEL\.SAM\.PADDING 'bottom_right', .* 'center'"),
        (("MODEL.SAM.ARCH", "vit_b", "MODEL.SAM.WEIGHTS", ""), r"made with MODEL\.SAM\.ARCH 'vit_tiny', .* 'vit_b'"),
        (("MODEL.SAM.PRECISION", "bf16"), r"made with MODEL\.SAM\.PRECISION 'fp32', and 'bf16'"),
        (("MODEL.PIXEL_MEAN", [1.0, 2.0, 3.0]), r"MODEL\.PIXEL_MEAN \[123\.675, .*and \[1\.0, 2\.0, 3\.0\]"),
        (("MODEL.SAM.CACHE_DIR", "nowhere"), r"nowhere/tiny_parts_train: no finished feature cache"),
    ],
)
def test_a_cache_made_otherwise_is_refused(cfg, cached, opts, message, monkeypatch):
    # The real hash of a ViT-B takes seconds, and another architecture is told first.
    if "vit_b" in opts:
        monkeypatch.setattr("wps_sam.encoders.sam.image_encoder_hash", lambda *_: "other")
    with pytest.raises(ValueError, match=message):
        engine.Trainer.build_train_loader(cfg(*cached("fp32"), *opts))


def test_the_cache_of_another_data_set_is_refused_before_training(cfg, cached, tmp_path):
    """Also that of DATASETS.TEST, which is not needed before the first evaluation."""
    folder = Path(cached("fp32")[-1])
    shutil.copytree(folder / "tiny_parts_train", tmp_path / "tiny_parts_train")
    shutil.copytree(folder / "tiny_parts_train", tmp_path / "tiny_parts_val")
    with pytest.raises(ValueError, match="with the data set 'tiny_parts_train', and 'tiny_parts_val' is"):
        engine.Trainer(cfg("MODEL.SAM.FEATURES", "cache", "MODEL.SAM.CACHE_DIR", str(tmp_path)))


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("INPUT.CROP.ENABLED", True), r"INPUT\.CROP\.ENABLED is True: every crop is another picture"),
        (("INPUT.DATASET_MAPPER_NAME", "part_masks"), r"INPUT\.DATASET_MAPPER_NAME is 'part_masks': only inputs"),
    ],
)
def test_what_can_not_be_cached_is_refused(cfg, tmp_path, opts, message):
    with pytest.raises(ValueError, match=message):
        cache_features(cfg(*opts), tmp_path)
    with pytest.raises(ValueError, match=message):
        check_config(cfg(*opts, "MODEL.SAM.FEATURES", "cache"))


def test_a_disk_that_is_too_small_is_refused_before_anything_is_made(cfg, tmp_path, monkeypatch):
    """12 + 4 embeddings of 2^18 fp16 values in 3 shards, whose headers take less than 256 bytes a record and 512."""
    needed = 16 * (2**19 + 256) + 3 * 512
    free = needed - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 1 << 40, free))
    with pytest.raises(ValueError, match=r"the features need 8\.0 MiB more, but only 8\.0 MiB of the disk are free"):
        cache_features(cfg(), tmp_path / "features")
    assert not list(tmp_path.rglob("*.safetensors"))
    free = needed
    cache_features(cfg(), tmp_path / "features")
    shards = list(tmp_path.rglob("*.safetensors"))
    assert len(shards) == 3 and 16 * 2**19 < sum(p.stat().st_size for p in shards) <= needed


# ------------------------------------------------------------------ caches of format 1


def embedding_of(view, number):
    rng = np.random.default_rng([number, view == "flipped"])
    return rng.normal(size=(256, 32, 32)).astype(np.float32)


@pytest.fixture
def write_old(cfg, tmp_path):
    """Format-1 caches of the tiny data sets, of made-up embeddings."""

    def write_old(dtype="fp16"):
        for name, views in (("tiny_parts_train", ("original", "flipped")), ("tiny_parts_val", ("original",))):
            records = DatasetCatalog.get(name)
            folder = tmp_path / "old" / name
            write_format_1(folder, name, settings_v1(cfg()), records, embedding_of, dtype, views, records_per_shard=4)
        return tmp_path / "old"

    return write_old


@pytest.mark.parametrize("dtype", ["fp16", "fp32", "int8"])
def test_a_converted_cache_holds_the_old_bytes_and_is_trained_from(cfg, write_old, tmp_path, monkeypatch, dtype):
    with monkeypatch.context() as context:
        context.setattr(features, "build_model", lambda _: pytest.fail("the encoder is not needed"))
        convert_features(cfg(), write_old(dtype), tmp_path / "new")
    tensors = load_file(tmp_path / "new" / "tiny_parts_train" / "flipped-00000.safetensors")
    for number in range(6):
        parts = ("image_embedding.offset", "image_embedding.scale") if dtype == "int8" else ()
        stored = [tensors[f"{number:04d}.{name}"] for name in (*parts, "image_embedding")]
        assert b"".join(t.numpy().tobytes() for t in stored) == payload(embedding_of("flipped", number), dtype)
    losses, given, _ = train(cfg(*NO_TEST, "MODEL.SAM.FEATURES", "cache", "MODEL.SAM.CACHE_DIR", str(tmp_path / "new")))
    assert len(losses) == 4
    numbers = {record["file_name"]: i for i, record in enumerate(DatasetCatalog.get("tiny_parts_train"))}
    for x in given:
        both = [torch.from_numpy(embedding_of(view, numbers[x["file_name"]])) for view in ("original", "flipped")]
        assert min(float((x["image_embedding"] - one).abs().max()) for one in both) < 0.02


def test_conversion_goes_on_and_says_what_does_not_fit(cfg, write_old, tmp_path):
    old = write_old()
    convert_features(cfg(), old, tmp_path / "new")
    whole = contents(tmp_path / "new")
    (tmp_path / "new" / "tiny_parts_val" / "manifest.json").unlink()
    (tmp_path / "new" / "tiny_parts_train" / "original-00000.safetensors").unlink()
    convert_features(cfg(), old, tmp_path / "new")
    assert contents(tmp_path / "new") == whole
    with pytest.raises(ValueError, match="with MODEL.SAM.PADDING 'bottom_right', and 'center' is asked for"):
        convert_features(cfg("MODEL.SAM.PADDING", "center"), old, tmp_path / "other")
    with pytest.raises(ValueError, match=r"is of format 1, expected 2.* --convert .*old --output ANOTHER"):
        convert_features(cfg(), old, old)
    with pytest.raises(ValueError, match=r"is of format 2, expected 1"):
        convert_features(cfg(), tmp_path / "new", tmp_path / "newer")
    shutil.rmtree(old / "tiny_parts_val")
    with pytest.raises(ValueError, match=r"old/tiny_parts_val: no finished feature cache"):
        convert_features(cfg(), old, tmp_path / "newer")


# ------------------------------------------------------------------ several processes, and none that lives


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def make_a_share(rank, cfg, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    cache_features(cfg, f"{folder}/features", "fp32")
    dist.destroy_process_group()


def test_two_processes_write_what_one_does(cfg, cached, tmp_path, monkeypatch):
    # The data sets are registered in this process, so that its children are forked.
    mp.start_processes(make_a_share, args=(cfg(), str(tmp_path)), nprocs=2, start_method="fork")
    assert contents(tmp_path / "features") == contents(cached("fp32")[-1])


class SlowEncoder:
    """In place of the model: a picture's mean colours, spread over a small embedding, after 4 ms."""

    # As it would else be the writing that takes the time.
    FEATURES: ClassVar = {"image_embedding": [16, 32, 32]}
    feature_names = tuple(FEATURES)
    backbone = SimpleNamespace(spec=SimpleNamespace(features=FEATURES))

    def __init__(self, cfg):
        self.started = False

    def eval(self):
        return self

    def embed(self, batch):
        threading.Event().wait(0.004)
        embeddings = [x["image"].float().mean((1, 2)).sum().expand(16, 32, 32) for x in batch]
        return {"image_embedding": torch.stack(embeddings)}, None


def write_slowly(path, write):
    """In two halves, 8 ms apart: the time that a shard of larger embeddings takes."""

    def write_halves(file):
        whole = io.BytesIO()
        write(whole)
        half = len(whole.getvalue()) // 2
        file.write(whole.getvalue()[:half])
        file.flush()
        threading.Event().wait(0.008)
        file.write(whole.getvalue()[half:])

    write_atomically(path, write_halves)


def make_and_die(cfg, folder, seconds, share=WHOLE, mirror=None):
    """Killed as by the kernel, this long after the first embedding was asked for."""
    embed = SlowEncoder.embed

    def embed_and_count_down(self, batch):
        if not self.started:
            self.started = True
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return embed(self, batch)

    SlowEncoder.embed = embed_and_count_down
    cache_features(cfg, folder, share=share, mirror=mirror)


def in_a_child(*args):
    """The exit code of :func:`make_and_die` with these arguments."""
    child = mp.get_context("fork").Process(target=make_and_die, args=args)
    child.start()
    child.join(timeout=60)
    assert child.exitcode is not None, "neither finished nor killed"
    return child.exitcode


@pytest.fixture
def many(cfg, write_tiny_parts, tmp_path, monkeypatch):
    """A configuration of 15 shards in two views and one of another data set, encoded and written slowly."""
    parts = write_tiny_parts(tmp_path / "data", name="killed_parts", num_train=30, num_val=2)
    register_descriptions([str(parts.description)])
    monkeypatch.setattr(features, "build_model", SlowEncoder)
    monkeypatch.setattr(feature_store, "write_atomically", write_slowly)
    monkeypatch.setattr(features, "spec_of", lambda *of: replace(spec_of(*of), features=SlowEncoder.FEATURES))
    monkeypatch.setattr(feature_store, "MAX_RECORDS_PER_SHARD", 2)
    yield cfg("DATASETS.TRAIN", (parts.split("train"),), "DATASETS.TEST", (parts.split("val"),))
    for split in ("train", "val"):
        DatasetCatalog.remove(parts.split(split))
        MetadataCatalog.remove(parts.split(split))


def test_killed_at_random_20_times_the_cache_is_the_undisturbed_one(many, tmp_path):
    began = time.perf_counter()
    cache_features(many, tmp_path / "whole")
    # Time for a quarter of the embeddings, however busy the machine is.
    at_most = (time.perf_counter() - began) / 4
    draw, left_behind, shards = random.Random(0), 0, []
    while len(shards) < 20:
        code = in_a_child(many, tmp_path / "killed", draw.uniform(0, at_most))
        if code == 0:
            # Finished too early: from the beginning.
            shutil.rmtree(tmp_path / "killed")
            continue
        assert code == -signal.SIGKILL
        files = contents(tmp_path / "killed")
        left_behind += any(".tmp" in name for name in files)
        shards.append(sum(name.endswith(".safetensors") for name in files))
    # Some were killed in the middle of a shard, and later ones went on where earlier ones stopped.
    assert left_behind and len(set(shards)) > 3
    cache_features(many, tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert len(contents(tmp_path / "whole")) == 2 * 15 + 1 + 2


def test_four_shares_that_are_killed_make_the_undisturbed_cache(many, tmp_path, monkeypatch):
    cache_features(many, tmp_path / "whole")
    draw, killed = random.Random(1), 0
    for number in (3, 0, 2, 1):
        while in_a_child(many, tmp_path / "shares", draw.uniform(0.02, 0.3), Share(number, 4)):
            killed += 1
    assert killed > 3 and not list((tmp_path / "shares").rglob("manifest.json"))
    monkeypatch.setattr(SlowEncoder, "embed", lambda *_: pytest.fail("all features are there"))
    cache_features(many, tmp_path / "shares")
    assert contents(tmp_path / "shares") == contents(tmp_path / "whole")


def test_shares_meet_in_a_mirror(many, tmp_path, monkeypatch):
    """Each on a disk of its own; the first is killed, and goes on where nothing is left on its disk."""
    cache_features(many, tmp_path / "whole")
    url = f"file://{tmp_path}/mirror"
    while not list(tmp_path.glob("mirror/*/*.safetensors")):
        assert in_a_child(many, tmp_path / "killed", 0.3, Share(0, 2), url) in (0, -signal.SIGKILL)
    before = contents(tmp_path / "mirror")
    cache_features(many, tmp_path / "first", share=Share(0, 2), mirror=url)
    assert before.items() <= contents(tmp_path / "first").items() <= contents(tmp_path / "mirror").items()
    # What was made here without the mirror gets there, too.
    cache_features(many, tmp_path / "second", share=Share(1, 2))
    cache_features(many, tmp_path / "second", share=Share(1, 2), mirror=url)
    with monkeypatch.context() as patched:
        patched.setattr(SlowEncoder, "embed", lambda *_: pytest.fail("all features are there"))
        cache_features(many, tmp_path / "last", mirror=url)
    assert contents(tmp_path / "last") == contents(tmp_path / "whole") == contents(tmp_path / "mirror")
    # Another cache's folder is left alone.
    with pytest.raises(ValueError, match=r"last_2/killed_parts_train: holds another feature cache: .*, of an unfin"):
        cache_features(many, tmp_path / "last_2", dtype="int8", mirror=url)
    assert contents(tmp_path / "mirror") == contents(tmp_path / "whole")
    with pytest.raises(ValueError, match="--mirror nothing://a: Protocol not known: nothing"):
        cache_features(many, tmp_path / "last", mirror="nothing://a")


def test_pictures_are_not_opened_in_vain(cfg, write_tiny_parts, tmp_path):
    """Files of the right size and age are enough to train a model that does not look at them itself."""
    parts = write_tiny_parts(tmp_path / "data", name="gone_parts", num_train=4, num_val=2)
    register_descriptions([str(parts.description)])
    try:
        here = ("DATASETS.TRAIN", (parts.split("train"),), *NO_TEST, "MODEL.SAM.CACHE_DIR", str(tmp_path / "f"))
        cache_features(cfg(*here), tmp_path / "f")
        for path in (parts.root / "images" / "train").iterdir():
            stat = path.stat()
            path.write_bytes(bytes(stat.st_size))
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        losses, _, _ = train(cfg(*here, "MODEL.SAM.FEATURES", "cache"))
        assert len(losses) == 4
        # A younger one is read, and is not what the features were made of.
        os.utime(path)
        with pytest.raises(ValueError, match=rf"made with the picture \['{path.name}'"):
            engine.Trainer.build_train_loader(cfg(*here, "MODEL.SAM.FEATURES", "cache"))
    finally:
        for split in ("train", "val"):
            DatasetCatalog.remove(parts.split(split))
            MetadataCatalog.remove(parts.split(split))
