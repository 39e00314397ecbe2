"""Several processes: what one of them has to tell the user arrives in the first."""

from __future__ import annotations

import argparse
import os
import signal
import time

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
