"""Requests to stop: SIGTERM, which schedulers and ``kill`` send, and Ctrl-C, which is SIGINT."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """A request to stop that was followed; whatever tidies up after Ctrl-C does so after each.

    Args:
        signum: of the signal.
        message: what is left, in one line for the user.
    """

    def __init__(self, signum: int, message: str = "") -> None:
        super().__init__(message)
        self.signum = signum


def exit_code(stop: KeyboardInterrupt) -> int:
    """That of shells, 128 and the number of the signal: 143 for SIGTERM, 130 for Ctrl-C."""
    return 128 + getattr(stop, "signum", signal.SIGINT)


def one_line(stop: KeyboardInterrupt) -> str:
    """What happened, for the user."""
    name = signal.Signals(getattr(stop, "signum", signal.SIGINT)).name
    return f"stopped by {name}" + (f": {stop}" if str(stop) else "")


@contextmanager
def handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Meanwhile ``handler`` is called with each request, unless it is ignored, as below nohup.

    Python lets the main thread alone handle signals; in others nothing happens.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.getsignal(signum) for signum in _SIGNALS}
    for signum, previous in before.items():
        if previous is not signal.SIG_IGN:
            signal.signal(signum, handler)
    try:
        yield
    finally:
        for signum, previous in before.items():
            signal.signal(signum, previous)


def raise_stopped(signum: int, _: FrameType | None = None) -> None:
    """A handler that ends at once what runs, and lets nothing disturb what tidies up."""
    _once()
    raise Stopped(signum)


def started_by_torchrun() -> bool:
    """Whether this is one of several processes as torchrun starts them, on one machine or on many."""
    return {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def _once() -> None:
    # Somebody who asks once more at a keyboard means it. To one process of several each request may come twice: from
    # the terminal and from the process that started it.
    alone = multiprocessing.parent_process() is None and not started_by_torchrun()
    further = signal.SIG_DFL if alone else signal.SIG_IGN
    for signum in _SIGNALS:
        signal.signal(signum, further)


class Deferral:
    """Inside ``with`` a request is noted in ``signum``, to be followed when work is in a state that can be saved.

    A second one ends the process at once, if it is the only one. Workers that are forked inside, such as those of a
    DataLoader, ignore Ctrl-C, which reaches them, too. SIGTERM ends them, and where it was sent to the whole group of
    processes they die under the work that is to be finished: from the request on that is no error, until it needs them.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._at_once = False
        self._pid = 0
        self._of_children: Any = None

    def __enter__(self) -> Deferral:
        self._pid = os.getpid()
        self._handling = handled(self._note)
        self._handling.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._handling.__exit__(None, None, None)
        if self._of_children is not None:
            signal.signal(signal.SIGCHLD, self._of_children)

    def _note(self, signum: int, _: FrameType | None) -> None:
        if os.getpid() != self._pid:
            if signum == signal.SIGTERM:
                signal.signal(signum, signal.SIG_DFL)
                os.kill(os.getpid(), signum)
            return
        _once()
        # PyTorch's raises an error, wherever the process is, when a worker dies.
        self._of_children = signal.signal(signal.SIGCHLD, lambda *_: None)
        self.signum = signum
        if self._at_once:
            self.follow()

    def follow(self) -> None:
        """Raises :class:`Stopped` if a request came."""
        if self.signum:
            raise Stopped(self.signum)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside a request is followed immediately: nothing there would have to be saved."""
        self._at_once = True
        try:
            self.follow()
            yield
        finally:
            self._at_once = False
