"""Trainings that are stopped, or whose disk is full, from the command line: what is told, and that nothing is lost."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

from wps_sam.checkpointer import SafeCheckpointer, remove_leftovers
from wps_sam.cli import run_command
from wps_sam.engine.loader import TrainLoader
from wps_sam.stops import Stopped

import pytest
import torch
from toy_parts import ToyParts

EVALUATED = ("TEST.EVAL_PERIOD", 3, "SOLVER.CHECKPOINT_PERIOD", 100)


@pytest.fixture
def run(toy_cfg, tmp_path, capfd):
    """``run("whole", "--resume")``: ``wps-sam train`` into that folder; its exit code, what it printed, its error."""

    def train(name, *arguments, opts=()):
        config = tmp_path / f"{name}.yaml"
        quick = ("TEST.ORACLES", False, "TEST.PICTURES", 0, "TEST.PROTOCOLS", ["d2_semseg"])
        config.write_text(toy_cfg("OUTPUT_DIR", str(tmp_path / name), *quick, *opts).dump())
        code = run_command("train", ["--config-file", str(config), *arguments])
        return code, *capfd.readouterr()

    return train


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return SafeCheckpointer.read(str(folder / "model_final.pth"))["model"]


def assert_same_results(one: Path, other: Path) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert (one / "evaluation.json").read_bytes() == (other / "evaluation.json").read_bytes()


def assert_same_runs(one: Path, other: Path) -> None:
    assert_same_results(one, other)
    assert evaluations(one) == evaluations(other)


def evaluations(folder: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return {line["iteration"]: line["d2_semseg/mIoU"] for line in lines if "d2_semseg/mIoU" in line}


def ask_in(monkeypatch, training: bool, number: int, signum: int) -> None:
    """Asks this process to stop in the model's forward pass of this number, in training or in evaluation."""
    plain, left = ToyParts.forward, [number]

    def forward(self, batched_inputs):
        if self.training == training:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signum)
        return plain(self, batched_inputs)

    monkeypatch.setattr(ToyParts, "forward", forward)


@pytest.mark.parametrize(
    ("signum", "training", "number", "done", "code"),
    [(signal.SIGTERM, True, 4, 4, 143), (signal.SIGINT, False, 2, 3, 130)],
    ids=["SIGTERM in a step", "Ctrl-C in an evaluation"],
)
def test_a_request_saves_a_checkpoint_and_is_told_in_one_line(
    run, tmp_path, monkeypatch, signum, training, number, done, code
):
    assert run("whole", opts=EVALUATED)[0] == 0
    with monkeypatch.context() as patched:
        ask_in(patched, training, number, signum)
        ended, out, err = run("stopped", opts=EVALUATED)
    path = tmp_path / "stopped" / f"model_{done - 1:07d}.pth"
    name = signal.Signals(signum).name
    told = f"stopped by {name}: {done} of 6 iterations are in {path}; the same command with --resume goes on\n"
    assert (ended, err) == (code, told) and "Traceback" not in out
    assert (tmp_path / "stopped" / "last_checkpoint").read_text() == path.name
    ended, out, err = run("stopped", "--resume", opts=EVALUATED)
    assert (ended, err) == (0, "") and f"Starting training from iteration {done}" in out
    # Behind iteration 3 it was, or was to be, evaluated.
    assert evaluations(tmp_path / "stopped").keys() == {2, 6}
    assert_same_runs(tmp_path / "stopped", tmp_path / "whole")


def test_a_torn_checkpoint_falls_back_to_the_one_before(run, tmp_path, monkeypatch):
    opts = ("SOLVER.CHECKPOINT_PERIOD", 2)
    assert run("whole", opts=opts)[0] == 0
    with monkeypatch.context() as patched:
        ask_in(patched, True, 5, signal.SIGTERM)
        assert run("torn", opts=opts)[0] == 143
    last = tmp_path / "torn" / "model_0000004.pth"
    last.write_bytes(last.read_bytes()[:-100])
    (tmp_path / "torn" / "model_0000003.pth").write_bytes(b"")
    dead, alive = (tmp_path / "torn" / f"model_0000005.pth.{pid}.tmp" for pid in (2**30, os.getppid()))
    dead.touch(), alive.touch()
    code, out, err = run("torn", "--resume", opts=opts)
    assert (code, err) == (0, "")
    assert f"{last}: not a readable checkpoint" in out
    assert f"Taking the checkpoint before it, {tmp_path / 'torn' / 'model_0000001.pth'}" in out
    assert not dead.exists() and alive.exists()
    assert_same_runs(tmp_path / "torn", tmp_path / "whole")


def test_a_kill_between_the_last_two_checkpoints_costs_nothing(run, tmp_path):
    assert run("whole")[0] == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    (tmp_path / "killed" / "model_final.pth").unlink()
    (tmp_path / "killed" / "evaluation.json").unlink()
    last = max((tmp_path / "killed").glob("model_0*.pth"))
    (tmp_path / "killed" / "last_checkpoint").write_text(last.name)
    assert run("killed", "--resume")[0] == 0
    assert_same_results(tmp_path / "killed", tmp_path / "whole")


def test_the_state_of_another_optimizer_is_refused(run, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        ask_in(patched, True, 1, signal.SIGTERM)
        assert run("other", opts=("DATASETS.TEST", ()))[0] == 143
    code, _, err = run("other", "--resume", opts=("DATASETS.TEST", (), "SOLVER.BIAS_LR_FACTOR", 2.0))
    assert code == 2 and err.count("\n") == 1
    assert f"{tmp_path / 'other' / 'model_0000000.pth'}: the state of the optimizer does not fit: groups of" in err


def test_machines_that_do_not_see_the_same_checkpoint_are_told(run, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        ask_in(patched, True, 2, signal.SIGTERM)
        assert run("apart", opts=("DATASETS.TEST", ()))[0] == 143
    # The other has an OUTPUT_DIR of its own, which is empty.
    monkeypatch.setattr("wps_sam.engine.trainer.comm.all_gather", lambda said: [said, 0] if said == 2 else [said])
    code, _, err = run("apart", "--resume", opts=("DATASETS.TEST", ()))
    assert code == 2 and f"{tmp_path / 'apart'}: the processes begin at the iterations [2, 0], as not all see" in err


@pytest.mark.parametrize("full", ["metrics.json", "model_0000001.pth"])
def test_a_full_disk_is_told_in_one_line_with_the_path(run, tmp_path, monkeypatch, full):
    folder = tmp_path / "full"
    folder.mkdir()
    (folder / "log.txt").touch()
    plain = ToyParts.forward

    def forward(self, batched_inputs):
        name = full if full == "metrics.json" else f"{full}.{os.getpid()}.tmp"
        if not os.path.lexists(folder / name):
            (folder / name).symlink_to("/dev/full")
        return plain(self, batched_inputs)

    if full == "metrics.json":
        (folder / full).symlink_to("/dev/full")
    monkeypatch.setattr(ToyParts, "forward", forward)
    code, out, err = run("full", opts=("DATASETS.TEST", ()))
    assert code == 2 and err.count("\n") == 1 and "Traceback" not in out
    assert "No space left on device" in err and str(folder / "model_0000001.pth" if "model" in full else folder) in err
    assert "Traceback" in (folder / "log.txt").read_text()


def test_a_folder_that_can_not_be_written_is_told_in_one_line(run):
    code, out, err = run("other", "OUTPUT_DIR", "/proc/no_folder")
    assert code == 2 and err.count("\n") == 1 and "/proc/no_folder" in err and "Traceback" not in out


def test_leftovers_of_the_dead_alone_are_removed(tmp_path):
    names = [f"a.{2**30}.tmp", f"b.{10**30}.tmp", f"c.{os.getpid()}.tmp", "notes.tmp", f"d.{os.getppid()}.tmp"]
    for name in names:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / "nowhere")
    assert sorted(os.listdir(tmp_path)) == sorted(names[3:])


def test_workers_that_are_asked_too_cost_no_step(run, tmp_path, monkeypatch):
    """As SIGTERM to a whole group of processes does: they die, under a step or before the next."""
    workers = ("DATALOADER.NUM_WORKERS", 1, "DATASETS.TEST", (), "SOLVER.CHECKPOINT_PERIOD", 100)
    assert run("whole", opts=workers)[0] == 0
    plain, left = ToyParts.forward, [3]

    def forward(self, batched_inputs):
        left[0] -= 1
        if left[0] == 0:
            for worker in multiprocessing.active_children():
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(worker.pid, signal.SIGKILL)
                worker.join()
        return plain(self, batched_inputs)

    with monkeypatch.context() as patched:
        patched.setattr(ToyParts, "forward", forward)
        code, out, err = run("stopped", opts=workers)
    assert code == 143 and "Traceback" not in out
    told = (
        f"3 of 6 iterations are in {tmp_path / 'stopped' / 'model_0000002.pth'}; the same command with --resume goes on"
    )
    assert err.endswith(f"{told}\n")
    assert run("stopped", "--resume", opts=workers)[0] == 0
    ours, theirs = weights(tmp_path / "stopped"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize(("signum", "expected"), [(0, RuntimeError), (signal.SIGTERM, Stopped)])
def test_a_loader_without_workers_is_no_error_of_a_run_that_is_stopped(signum, expected):
    def die():
        raise RuntimeError("DataLoader worker is killed by signal: Terminated")
        yield

    loader = TrainLoader(die(), None, None, {})
    loader.stop.signum = signum
    with pytest.raises(expected):
        list(loader)
