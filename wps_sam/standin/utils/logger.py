"""Loggers: stdout on rank 0, a file per rank."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import sys
from typing import Any

from termcolor import colored

from .file_io import PathManager


class _Formatter(logging.Formatter):
    """``[time name]: message`` with warnings and errors marked, and a short name for the root."""

    def __init__(self, head: str, root: str, abbreviation: str) -> None:
        super().__init__(f"{head}%(message)s", datefmt="%m/%d %H:%M:%S")
        self._root, self._abbreviation = root, abbreviation

    def format(self, record: logging.LogRecord) -> str:
        name, mark = record.name, ""
        if name == self._root or name.startswith(f"{self._root}."):
            name = self._abbreviation + name[len(self._root) :]
        if record.levelno >= logging.WARNING:
            mark = colored(record.levelname, "red", attrs=["bold"]) + " "
        return mark + super().format(logging.makeLogRecord({**record.__dict__, "name": name}))


@functools.lru_cache  # a second call with the same arguments must not double every line
def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
) -> logging.Logger:
    """Opens logger ``name``: to stdout on rank 0, and to a file on every rank.

    ``output`` is a folder (the file is ``log.txt``) or a name that ends in .txt or .log; ranks above 0
    add ``.rank<i>``. ``abbrev_name`` replaces the root name in the lines ("d2" for detectron2).
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    abbrev_name = abbrev_name or ("d2" if name == "detectron2" else name)
    head = "[%(asctime)s %(name)s]: "
    if distributed_rank == 0:
        console = logging.StreamHandler(stream=sys.stdout)
        console.setFormatter(_Formatter(colored(head, "green") if color else head, name, abbrev_name))
        logger.addHandler(console)
    if output is not None:
        filename = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
        file = logging.StreamHandler(_log_file(filename + (f".rank{distributed_rank}" if distributed_rank else "")))
        file.setFormatter(logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", "%m/%d %H:%M:%S"))
        logger.addHandler(file)
    return logger


@functools.lru_cache  # loggers of one run share a file
def _log_file(filename: str) -> Any:
    PathManager.mkdirs(os.path.dirname(filename) or ".")
    stream = PathManager.open(filename, "a")
    atexit.register(stream.close)
    return stream
