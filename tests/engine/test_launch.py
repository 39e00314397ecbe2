"""Several processes: what one of them has to tell the user arrives in the first."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import socket
import time

from wps_sam.cli import parse
from wps_sam.engine import launch
from wps_sam.stops import Stopped

import pytest
import torch
from detectron2.utils import comm


def fail_in_the_second(args: argparse.Namespace) -> None:
    if comm.get_rank() == 1:
        raise ValueError("a.json:\n  images[1] is missing")
    comm.synchronize()


@pytest.fixture
def forked(monkeypatch):
    """Processes that need not import PyTorch each."""
    start = torch.multiprocessing.start_processes
    monkeypatch.setattr(torch.multiprocessing, "spawn", lambda *args: start(*args, start_method="fork"))
    return argparse.Namespace(num_machines=1, machine_rank=0, num_processes=2, num_gpus=1, dist_url="auto")


def test_the_message_of_any_process_is_raised_here(forked) -> None:
    with pytest.raises(ValueError, match=r"^a\.json: images\[1\] is missing$"):
        launch(fail_in_the_second, forked)


def test_one_process_is_this_one() -> None:
    args = argparse.Namespace(num_machines=1, num_processes=1, num_gpus=1)
    with pytest.raises(ValueError, match=r"^a\.json:\n"):
        launch(lambda _: (_ for _ in ()).throw(ValueError("a.json:\nb")), args)


# ------------------------------------------------------------------ one that dies, and all that are asked to stop


def be_killed_in_the_second(args: argparse.Namespace) -> None:
    if comm.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    comm.synchronize()


def test_one_that_is_killed_ends_all_and_is_told(forked) -> None:
    began = time.monotonic()
    with pytest.raises(ChildProcessError, match="process 1 was ended by SIGKILL, and with it the run; perhaps the mem"):
        launch(be_killed_in_the_second, forked)
    assert time.monotonic() - began < 60


def have_all_asked_to_stop(args: argparse.Namespace) -> None:
    comm.synchronize()
    try:
        if comm.get_rank() == 0:
            os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(60)
    except Stopped as stop:
        # The other may be done before, and a process that fails has the rest ended by SIGTERM.
        time.sleep(0.3 * (1 - comm.get_rank()))
        raise Stopped(stop.signum, "all is saved" * (comm.get_rank() == 0)) from None


def test_a_request_is_handed_on_to_all_and_what_the_first_says_is_told(forked) -> None:
    with pytest.raises(Stopped, match="^all is saved$") as stopped:
        launch(have_all_asked_to_stop, forked)
    assert stopped.value.signum == signal.SIGTERM


# ------------------------------------------------------------------ processes that torchrun has started


@pytest.fixture
def torchruns(tmp_path, monkeypatch):
    """``torchruns(work)``: the exit codes of two processes, forked with torchrun's variables, whose args are these."""
    (tmp_path / "config.yaml").write_text("MODEL:\n  DEVICE: cpu\n")
    args = parse("train", ["--config-file", str(tmp_path / "config.yaml"), "OUTPUT_DIR", str(tmp_path)])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for name, value in {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))

    def one(work, rank):
        os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(rank)
        launch(work, args)

    def run(work):
        fork = multiprocessing.get_context("fork")
        processes = [fork.Process(target=one, args=(work, rank)) for rank in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        return [process.exitcode for process in processes]

    return run, args


def meet(args: argparse.Namespace) -> None:
    assert (comm.get_rank(), comm.get_world_size()) == (int(os.environ["RANK"]), 2)
    assert comm.all_gather(comm.get_rank()) == [0, 1] and torch.distributed.get_backend() == "gloo"


def test_processes_of_torchrun_are_the_ranks_that_they_are_told(torchruns):
    assert torchruns[0](meet) == [0, 0]


def test_when_one_of_torchruns_processes_dies_the_other_does_not_wait(torchruns):
    began = time.monotonic()
    assert torchruns[0](fail_in_the_second) == [1, 1]
    assert torchruns[0](be_killed_in_the_second) == [1, -signal.SIGKILL]
    assert time.monotonic() - began < 60


def test_torchrun_and_arguments_do_not_both_start_processes(torchruns, monkeypatch):
    monkeypatch.setenv("RANK", "0"), monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ValueError, match="ask for 4 processes, but this is one of 2 that torchrun has started: leave"):
        launch(meet, argparse.Namespace(num_machines=2, num_processes=2, num_gpus=1))


def test_more_processes_than_gpus_are_told(torchruns, monkeypatch):
    monkeypatch.setenv("RANK", "8"), monkeypatch.setenv("LOCAL_RANK", "8")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    args = torchruns[1]
    args.opts = ["MODEL.DEVICE", "cuda"]
    with pytest.raises(ValueError, match="LOCAL_RANK is 8, but this machine has 8 GPUs: give torchrun --nproc-per-n"):
        launch(meet, args)
