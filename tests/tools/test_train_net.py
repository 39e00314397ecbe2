"""tools/train_net.py from the command line: trains, survives a kill, evaluates, and says when it missed."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "train_net.py"
# Few queries and a high rate, so that some parts are found after a handful of steps.
LEARNS_FAST = ("MODEL.DETR_PROMPTER.NUM_QUERIES", 2, "SOLVER.BASE_LR", 0.001, "SOLVER.MAX_ITER", 8)

KILLED_IN_ITERATION_5 = f"""
import os, runpy, signal, sys
from wps_sam.engine import Trainer
run_step = Trainer.run_step
def run_or_die(trainer):
    if trainer.iter == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    run_step(trainer)
Trainer.run_step = run_or_die
runpy.run_path({str(TOOL)!r}, run_name="__main__")
"""


def write(cfg: CfgNode, path: Path) -> str:
    path.write_text(cfg.dump())
    return str(path)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def run_here(*arguments: str) -> None:
    """The tool's main in this process, which saves starting another one."""
    assert runpy.run_path(str(TOOL))["main"](list(arguments)) == 0


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[key].float() - b[key].float()).abs().max()) for key in a)


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


@pytest.fixture
def config(tiny_cfg, tmp_path):
    return write(tiny_cfg(*LEARNS_FAST, "TEST.ORACLES", True), tmp_path / "config.yaml")


def test_trains_survives_a_kill_and_evaluates(config, tmp_path):
    killed = run("-c", KILLED_IN_ITERATION_5, "--config-file", config, "OUTPUT_DIR", str(tmp_path / "killed"))
    assert killed.returncode == -9, killed.stderr
    assert (tmp_path / "killed" / "last_checkpoint").read_text() == "model_0000003.pth"
    resumed = run(str(TOOL), "--resume", "--config-file", config, "OUTPUT_DIR", str(tmp_path / "killed"))
    assert resumed.returncode == 0, resumed.stderr
    assert "Starting training from iteration 4" in resumed.stdout

    # Undisturbed, and in another process: the same weights to the last bit.
    run_here("--config-file", config, "OUTPUT_DIR", str(tmp_path / "whole"))
    final = tmp_path / "killed" / "model_final.pth"
    assert largest_difference(weights(final), weights(tmp_path / "whole" / "model_final.pth")) == 0

    # What a user sees, and what the next program reads.
    lines_of_interest = ("eta: 0:00:0", "total_loss: ", "copypaste: Task: d2_semseg", "Animal Head  ")
    for text in (*lines_of_interest, "oracle_box_prompt  mIoU"):
        assert text in resumed.stdout
    assert list((tmp_path / "killed").glob("events.out.tfevents.*"))
    evaluation = json.loads((tmp_path / "killed" / "evaluation.json").read_text())
    assert evaluation == json.loads((tmp_path / "whole" / "evaluation.json").read_text())
    scores = evaluation["tiny_parts_val"]
    assert scores["d2_semseg"]["mIoU"] > 0, "found nothing: the comparisons below would mean little"
    assert scores["oracle_box_prompt"]["mIoU"] > 0
    last = metrics(tmp_path / "killed")[-1]
    for protocol in ("d2_semseg", "pin41", "wps_image_part", "wps_authors", "oracle_filled_box"):
        assert last[f"{protocol}/mIoU"] == scores[protocol]["mIoU"]
    assert last["coco_ap/AP50"] == scores["coco_ap"]["AP50"]

    again = tmp_path / "again"
    run_here("--config-file", config, "--eval-only", "MODEL.WEIGHTS", str(final), "OUTPUT_DIR", str(again))
    assert json.loads((again / "evaluation.json").read_text()) == evaluation
    missed = ["TEST.EXPECTED_RESULTS", "[['d2_semseg', 'mIoU', 99.0, 0.5]]", "TEST.PROTOCOLS", "['d2_semseg']"]
    missed += ["TEST.ORACLES", "False", "OUTPUT_DIR", str(tmp_path / "killed")]
    with pytest.raises(SystemExit) as stopped:
        run_here("--config-file", config, "--eval-only", "--resume", *missed)
    assert stopped.value.code == 1


def test_two_processes_train_and_evaluate_as_one_and_say_when_they_missed(config, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    run_here("--config-file", config, "OUTPUT_DIR", str(one))
    expected = ["TEST.EXPECTED_RESULTS", "[['d2_semseg', 'mIoU', 99.0, 0.5]]"]
    result = run(*(str(TOOL), "--config-file", config, "--num-processes", "2", "OUTPUT_DIR", str(two), *expected))
    assert result.returncode == 1, result.stderr
    assert "Result verification failed" in result.stdout
    # Losses, not weights: the gradient of attention's key bias is 0, and Adam makes full steps of its rounding errors.
    assert "total_loss" in metrics(one)[0]
    for ours, theirs in zip(metrics(one), metrics(two), strict=True):
        for name in ("iteration", "total_loss", "loss_class", "loss_box"):
            if name in ours:
                assert ours[name] == pytest.approx(theirs[name], abs=1e-5), name
    # Rounding may move a mask's edge by some pixels; a picture that is missed or counted twice moves whole percents.
    ours, theirs = (json.loads((folder / "evaluation.json").read_text()) for folder in (one, two))
    for protocol, scores in ours["tiny_parts_val"].items():
        assert scores == pytest.approx(theirs["tiny_parts_val"][protocol], abs=0.05, nan_ok=True), protocol
