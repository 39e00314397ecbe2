"""Loggers: stdout on rank 0, a file per rank."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import sys
import time
from collections import Counter
from typing import Any, Optional, Union

from tabulate import tabulate
from termcolor import colored

from .file_io import PathManager

__all__ = ["create_small_table", "log_every_n", "log_every_n_seconds", "log_first_n", "setup_logger"]

_LEVEL_COLORS = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}


class _ColorFormatter(logging.Formatter):
    """``[time name]: message`` with the long root name shortened, and warnings and errors marked."""

    def __init__(self, fmt: str, root: str, abbreviation: str, color: bool) -> None:
        super().__init__(fmt, datefmt="%m/%d %H:%M:%S")
        self._root, self._abbreviation, self._color = root, abbreviation, color

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(logging.makeLogRecord(record.__dict__ | {"name": self._short(record.name)}))
        if record.levelno < logging.WARNING:
            return line
        prefix = record.levelname
        if self._color:
            prefix = colored(prefix, _LEVEL_COLORS.get(record.levelno, "red"), attrs=["bold"])
        return f"{prefix} {line}"

    def _short(self, name: str) -> str:
        if name == self._root or name.startswith(self._root + "."):
            return (self._abbreviation + name[len(self._root) :]).strip(".")
        return name


@functools.lru_cache  # a second call with the same arguments must not double every line
def setup_logger(
    output: Optional[str] = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: Optional[str] = None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
) -> logging.Logger:
    """Opens logger ``name``: to stdout on rank 0, and to a file on every rank.

    ``output`` is a folder (the file is ``log.txt``) or a name that ends in .txt or .log; ranks above 0
    add ``.rank<i>``. ``abbrev_name`` replaces the root name in the lines ("d2" for detectron2).
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = enable_propagation
    if abbrev_name is None:
        abbrev_name = "d2" if name == "detectron2" else name
    plain = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"
    if configure_stdout and distributed_rank == 0:
        head = "[%(asctime)s %(name)s]: "
        handler = logging.StreamHandler(stream=sys.stdout)
        fmt = (colored(head, "green") if color else head) + "%(message)s"
        handler.setFormatter(_ColorFormatter(fmt, name, abbrev_name, color))
        handler.setLevel(logging.DEBUG)
        logger.addHandler(handler)
    if output is not None:
        filename = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
        if distributed_rank > 0:
            filename += f".rank{distributed_rank}"
        PathManager.mkdirs(os.path.dirname(filename) or ".")
        file_handler = logging.StreamHandler(_log_file(filename))
        file_handler.setLevel(logging.DEBUG)
        file_handler.setFormatter(logging.Formatter(plain, datefmt="%m/%d %H:%M:%S"))
        logger.addHandler(file_handler)
    return logger


@functools.lru_cache  # loggers of one run share a file
def _log_file(filename: str) -> Any:
    stream = PathManager.open(filename, "a")
    atexit.register(stream.close)
    return stream


_LOG_COUNTS: Counter = Counter()
_LOG_TIMES: dict[tuple, float] = {}


def _caller() -> tuple[str, tuple]:
    """Module and place of whoever called the log_* function."""
    frame = sys._getframe(2)
    return frame.f_globals.get("__name__", "detectron2"), (frame.f_code.co_filename, frame.f_lineno)


def log_first_n(
    lvl: int, msg: str, n: int = 1, *, name: Optional[str] = None, key: Union[str, tuple[str, ...]] = "caller"
) -> None:
    """Logs only the first ``n`` times; ``key`` ("caller", "message" or both) tells what counts as the same."""
    module, place = _caller()
    kinds = (key,) if isinstance(key, str) else key
    identity = tuple(place if kind == "caller" else (msg,) for kind in kinds)
    _LOG_COUNTS[identity] += 1
    if _LOG_COUNTS[identity] <= n:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n(lvl: int, msg: str, n: int = 1, *, name: Optional[str] = None) -> None:
    """Logs the first and then every ``n``-th time that this line is reached."""
    module, place = _caller()
    _LOG_COUNTS[place] += 1
    if n == 1 or _LOG_COUNTS[place] % n == 1:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n_seconds(lvl: int, msg: str, n: float = 1, *, name: Optional[str] = None) -> None:
    """Logs at most once in ``n`` seconds from this line."""
    module, place = _caller()
    now = time.monotonic()
    if now - _LOG_TIMES.get(place, -float("inf")) >= n:
        _LOG_TIMES[place] = now
        logging.getLogger(name or module).log(lvl, msg)


def create_small_table(small_dict: dict[str, Any]) -> str:
    """A table of one row: keys above values."""
    keys, values = tuple(small_dict.keys()), [tuple(small_dict.values())]
    return tabulate(values, headers=keys, tablefmt="pipe", floatfmt=".3f", stralign="center", numalign="center")
