"""Loggers: stdout on rank 0, a file per rank."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import sys
from typing import Any

from tabulate import tabulate
from termcolor import colored

from .file_io import PathManager

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
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
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


def create_small_table(small_dict: dict[str, Any]) -> str:
    """A table of one row: keys above values."""
    keys, values = tuple(small_dict.keys()), [tuple(small_dict.values())]
    return tabulate(
        values, headers=keys, tablefmt="pipe", floatfmt=".3f", stralign="center", numalign="center"
    )
