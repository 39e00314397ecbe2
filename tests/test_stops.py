"""Requests to stop: at once, or where work can be saved; each handler stays no longer than it is asked to."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

from wps_sam import cli, stops

import pytest


def ask(signum: int) -> None:
    os.kill(os.getpid(), signum)


def test_a_request_is_noted_and_followed_where_asked() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stops.Deferral() as stop:
        stop.follow()
        ask(signal.SIGTERM)
        assert stop.signum == signal.SIGTERM
        # Whoever asks twice does not want to wait.
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        with pytest.raises(stops.Stopped) as stopped, stop.at_once():
            pytest.fail("the request came before")
    assert stops.exit_code(stopped.value) == 143
    assert signal.getsignal(signal.SIGINT) is before


def test_to_one_of_several_processes_a_request_may_come_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the terminal or the scheduler, and from torchrun."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        assert not stops.started_by_torchrun()
        monkeypatch.setenv(name, "0")
    assert stops.started_by_torchrun()
    with stops.Deferral() as stop:
        ask(signal.SIGTERM)
        ask(signal.SIGTERM)
        ask(signal.SIGINT)
        assert stop.signum == signal.SIGTERM


def test_inside_at_once_nothing_is_waited_for() -> None:
    with stops.Deferral() as stop:
        with pytest.raises(stops.Stopped), stop.at_once():
            ask(signal.SIGINT)
            pytest.fail("came too late")
        assert stop.signum == signal.SIGINT


def test_a_worker_ignores_ctrl_c_alone() -> None:
    fork = multiprocessing.get_context("fork")
    lives = fork.Event()

    def work() -> None:
        lives.set()
        time.sleep(60)

    with stops.Deferral():
        worker = fork.Process(target=work)
        worker.start()
        lives.wait(30)
        for signum in (signal.SIGINT, signal.SIGTERM):
            os.kill(worker.pid, signum)  # type: ignore[arg-type]
            worker.join(0.2 if signum == signal.SIGINT else 30)
            assert worker.exitcode == (None if signum == signal.SIGINT else -signal.SIGTERM)


def test_what_is_ignored_stays_so_and_other_threads_handle_nothing() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stops.handled(stops.raise_stopped):
            ask(signal.SIGINT)
            assert signal.getsignal(signal.SIGTERM) is stops.raise_stopped
    finally:
        signal.signal(signal.SIGINT, before)
    with ThreadPoolExecutor(1) as pool:
        # In the thread signal.signal() would raise a ValueError.
        pool.submit(stops.handled(stops.raise_stopped).__enter__).result()
    assert signal.getsignal(signal.SIGTERM) is not stops.raise_stopped


@pytest.mark.parametrize(
    ("signum", "code", "line"),
    [(signal.SIGTERM, 143, "stopped by SIGTERM\n"), (signal.SIGINT, 130, "stopped by SIGINT\n")],
)
def test_every_subcommand_ends_in_one_line(
    signum: int, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from wps_sam.cli import report

    monkeypatch.setattr(report, "run", lambda args: ask(signum))
    assert cli.run_command("report", ["folder"]) == code
    assert capsys.readouterr().err == line
