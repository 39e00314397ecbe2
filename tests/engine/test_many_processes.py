"""1, 2 and 4 processes are one: gradients, scores, requests to stop; on data sets of fewer pictures than processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from wps_sam.checkpointer import SafeCheckpointer

import pytest
import torch

SCRIPT = Path(__file__).with_name("train_in_worlds.py")


@pytest.fixture(scope="module")
def runs(write_tiny_parts, cfg_for, tmp_path_factory):
    """The folder of the runs, and what was printed. 3 pictures to train and 3 to evaluate, 4 in a step."""
    folder = tmp_path_factory.mktemp("worlds")
    parts = write_tiny_parts(folder / "data", name="few_parts", num_train=3, num_val=3)
    opts = ("SOLVER.IMS_PER_BATCH", 4, "SOLVER.MAX_ITER", 2, "MODEL.DETR_PROMPTER.NUM_QUERIES", 2)
    opts += ("SOLVER.BASE_LR", 0.001, "SOLVER.CHECKPOINT_PERIOD", 100, "MODEL.SAM.WEIGHTS", "shipped")
    opts += ("TEST.ORACLES", False, "TEST.PICTURES", 0, "TEST.PROTOCOLS", ["d2_semseg", "coco_ap"])
    (folder / "config.yaml").write_text(cfg_for(parts, folder / "unused", *opts).dump())
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(folder / "config.yaml"), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.mark.parametrize("name", ["two", "four"])
def test_gradients_and_scores_are_those_of_one_process(runs, name):
    folder, _ = runs
    one, many = (torch.load(folder / run / "gradients.pth", weights_only=True) for run in ("one", name))
    assert one.keys() == many.keys()
    for key, gradient in one.items():
        assert (gradient - many[key]).abs().max() <= 1e-5 + 1e-4 * gradient.abs().max(), key
    # The comparison could fail: a process that counts twice, or half, changes every gradient.
    assert max(float(gradient.abs().max()) for gradient in one.values()) > 1e-2
    ours, theirs = (
        json.loads((folder / run / "evaluation.json").read_text())["few_parts_val"] for run in ("one", name)
    )
    assert ours["d2_semseg"]["mIoU"] > 0
    for protocol, scores in ours.items():
        # Rounding may move a mask's edge by some pixels; a picture that is missed moves whole percents.
        assert scores == pytest.approx(theirs[protocol], abs=0.05, nan_ok=True), protocol


def test_torchrun_trains_the_same(runs):
    folder, _ = runs
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "wps_sam"]
    command += ["train", "--config-file", str(folder / "config.yaml"), "OUTPUT_DIR", str(folder / "torchrun")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    ours, theirs = (SafeCheckpointer.read(str(folder / r / "model_final.pth"))["model"] for r in ("torchrun", "two"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert (folder / "torchrun" / "evaluation.json").read_bytes() == (folder / "two" / "evaluation.json").read_bytes()
    # The runs are not the same because nothing was trained.
    one = SafeCheckpointer.read(str(folder / "one" / "model_final.pth"))["model"]
    assert any(not torch.equal(ours[key], one[key]) for key in ours)


def test_one_process_that_is_asked_stops_both_and_nothing_is_lost(runs):
    folder, printed = runs
    stopped = folder / "stopped"
    assert f"stopped 15 1 of 2 iterations are in {stopped / 'model_0000000.pth'}; the same command with" in printed
    read = (SafeCheckpointer.read(str(folder / run / "model_final.pth"))["model"] for run in ("two", "stopped"))
    undisturbed, resumed = read
    assert all(torch.equal(undisturbed[key], resumed[key]) for key in undisturbed)
    assert (stopped / "evaluation.json").read_bytes() == (folder / "two" / "evaluation.json").read_bytes()
