"""tools/cache_features.py from the command line: says what it will do, does it, checks it, refuses."""

from __future__ import annotations

import json
import logging
import runpy
from pathlib import Path

from wps_sam.data import feature_store, register_descriptions
from wps_sam.engine import features

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from format_1_cache import write_format_1

TOOL = Path(__file__).resolve().parents[2] / "tools" / "cache_features.py"


@pytest.fixture
def log(caplog):
    """Texts logged by the cache, which setup_logger has cut off from the root logger."""
    for module in (features, feature_store):
        module.logger.addHandler(caplog.handler)
        module.logger.setLevel(logging.INFO)
    yield caplog
    for module in (features, feature_store):
        module.logger.removeHandler(caplog.handler)


@pytest.fixture
def run(tiny_cfg, tmp_path):
    """``run("--dtype", "int8", ...)``: the tool on the tiny data sets, for training with flips; its exit code."""
    config = tmp_path / "config.yaml"
    config.write_text(
        tiny_cfg("INPUT.RANDOM_FLIP", "horizontal", "MODEL.SAM.CACHE_DIR", str(tmp_path / "features")).dump()
    )
    tool = runpy.run_path(str(TOOL))["main"]
    return lambda *arguments: tool(["--config-file", str(config), *map(str, arguments)])


def test_makes_checks_and_mends_caches(run, tmp_path, log, capsys):
    """6 pictures in 2 views and 4 in one, 2^18 fp16 values each: 6 and 2 MiB."""
    assert run() == 0
    assert "tiny_parts_train: 6 pictures x original and flipped, fp16; 12 of 12 records, 6.0 MiB" in log.text
    assert "tiny_parts_val: 4 pictures x original, fp16; 4 of 4 records, 2.0 MiB" in log.text
    assert "16/16" in capsys.readouterr().err
    manifest = json.loads((tmp_path / "features" / "tiny_parts_train" / "manifest.json").read_text())
    assert manifest["views"] == ["original", "flipped"] and len(manifest["shards"]) == 2

    files = {path: path.read_bytes() for path in (tmp_path / "features").rglob("*.*")}
    damaged = tmp_path / "features" / "tiny_parts_train" / "flipped-00000.safetensors"
    damaged.write_bytes(files[damaged][:-3] + b"odd")
    log.clear()
    assert run() == 0
    assert "0 of 12 records, 0.0 MiB, are still to be made" in log.text
    assert f"{damaged} is damaged and will be made anew" in log.text
    assert {path: path.read_bytes() for path in (tmp_path / "features").rglob("*.*")} == files


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["INPUT.CROP.ENABLED", "True"], "INPUT.CROP.ENABLED is True: every crop is another picture"),
        (["DATASETS.DESCRIPTIONS", "['nowhere.yaml']"], "nowhere.yaml"),
        (["--num-processes", "1", "MODEL.DEVICE", "cuda"], "MODEL.DEVICE is 'cuda', but torch finds no CUDA device"),
    ],
)
def test_refuses_with_the_reason(run, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err


def test_shards_make_a_cache_in_pieces(run, tmp_path, log, capsys):
    """Of one shard, so that the second of two jobs has nothing to do."""
    val = ("DATASETS.TRAIN", "()")
    assert run(*val, "--shard", "1/2") == 0 and not list(tmp_path.rglob("*.safetensors"))
    assert run(*val, "--shard", "0/2") == 0
    folder = tmp_path / "features" / "tiny_parts_val"
    told = "the shards 0/2 are complete; when all are, the command without --shard finishes the cache"
    assert f"{folder}: {told}" in log.text and not (folder / "manifest.json").exists()
    log.clear()
    assert run(*val) == 0
    assert "0 of 4 records, 0.0 MiB, are still to be made" in log.text and (folder / "manifest.json").exists()
    for odd in ("2/2", "1/0", "1", "-1/2", "a/b"):
        with pytest.raises(SystemExit):
            run(f"--shard={odd}")
        assert f"--shard: expected I/N, such as 0/4 to 3/4, got {odd}" in capsys.readouterr().err
    assert run("--shard", "0/2", "--convert", tmp_path) == 2


def test_leaves_a_cache_of_something_else_alone(run, tmp_path, capsys):
    assert run("--output", tmp_path / "mine", "DATASETS.TRAIN", "()") == 0
    before = (tmp_path / "mine" / "tiny_parts_val" / "original-00000.safetensors").read_bytes()
    assert run("--output", tmp_path / "mine", "--dtype", "int8") == 2
    assert "with the dtype 'fp16', and 'int8' is asked for. Choose another --output" in capsys.readouterr().err
    assert run("--output", tmp_path / "mine", "MODEL.SAM.PADDING", "center") == 2
    assert "with MODEL.SAM.PADDING 'bottom_right', and 'center' is asked for" in capsys.readouterr().err
    assert (tmp_path / "mine" / "tiny_parts_val" / "original-00000.safetensors").read_bytes() == before
    assert run("--batch-size", 0) == 2


def test_converts_caches_of_format_1(run, tiny_cfg, tiny_parts, tmp_path, log, capsys):
    register_descriptions([str(tiny_parts.description)])
    for name in ("tiny_parts_train", "tiny_parts_val"):
        write_format_1(
            tmp_path / "old" / name,
            name,
            features.settings_v1(tiny_cfg()),
            DatasetCatalog.get(name),
            lambda view, number: np.full((256, 32, 32), number, np.float32),
            dtype="int8",
            views=["original"],
        )
    assert run("MODEL.SAM.CACHE_DIR", tmp_path / "old") == 2
    assert (
        f"tools/cache_features.py --config-file FILE --convert {tmp_path / 'old'} --output" in capsys.readouterr().err
    )
    assert run("--convert", tmp_path / "old") == 0
    assert f"{tmp_path / 'features' / 'tiny_parts_train'}: 6 pictures x original, int8; 6 of 6 records" in log.text
    # The flipped view is still to be made, by the encoder.
    log.clear()
    assert run("--dtype", "int8") == 0
    assert "tiny_parts_train: 6 pictures x original and flipped, int8; 6 of 12 records" in log.text
    assert run("--convert", tmp_path / "old", "--dtype", "fp16") == 2
    assert "--dtype is fp16; expected none with --convert" in capsys.readouterr().err
