"""Scalars of a training run, and their writers: JSON lines, TensorBoard, console."""

from __future__ import annotations

import datetime
import json
import logging
import os
import time
from collections import defaultdict
from typing import Any

import torch
from fvcore.common.history_buffer import HistoryBuffer

from .file_io import PathManager

__all__ = [
    "CommonMetricPrinter",
    "EventStorage",
    "EventWriter",
    "JSONWriter",
    "TensorboardXWriter",
    "get_event_storage",
]

_STORAGES: list[EventStorage] = []


def get_event_storage() -> EventStorage:
    """The storage of the innermost ``with EventStorage(...)`` around the caller."""
    if not _STORAGES:
        raise AssertionError("get_event_storage() has to be called inside a 'with EventStorage(...)' context")
    return _STORAGES[-1]


class EventStorage:
    """Histories of named scalars of one run."""

    def __init__(self, start_iter: int = 0) -> None:
        self.iter = start_iter
        self._history: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._smoothing_hints: dict[str, bool] = {}
        self._latest: dict[str, tuple[float, int]] = {}

    def put_scalar(
        self, name: str, value: Any, smoothing_hint: bool = True, cur_iter: int | None = None
    ) -> None:
        """Adds a number. ``smoothing_hint``: noisy, to be shown as a median, unlike a learning rate."""
        value = float(value)
        cur_iter = self.iter if cur_iter is None else cur_iter
        self._history[name].update(value, cur_iter)
        self._latest[name] = (value, cur_iter)
        if self._smoothing_hints.setdefault(name, smoothing_hint) != smoothing_hint:
            raise AssertionError(f"scalar {name!r} was put with another smoothing_hint before")

    def put_scalars(self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs: Any) -> None:
        """Adds several numbers, as ``put_scalar``."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def history(self, name: str) -> HistoryBuffer:
        """All values of a scalar."""
        if name not in self._history:
            raise KeyError(f"no history of {name!r}; there is one of: {', '.join(sorted(self._history))}")
        return self._history[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        """All scalars with all their values."""
        return self._history

    def latest(self) -> dict[str, tuple[float, int]]:
        """Name to (value, iteration) of the last time it was put."""
        return self._latest

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """As ``latest``; noisy scalars as the median of the last ``window_size`` iterations."""
        return {
            name: (
                self._history[name].median(self.count_samples(name, window_size))
                if self._smoothing_hints[name]
                else value,
                iteration,
            )
            for name, (value, iteration) in self._latest.items()
        }

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """How many values of ``name`` came in the ``window_size`` iterations up to its last one."""
        iterations = [iteration for _, iteration in self._history[name].values()]
        return sum(iteration > iterations[-1] - window_size for iteration in iterations[-window_size:])

    def smoothing_hints(self) -> dict[str, bool]:
        """Name to whether it is noisy."""
        return self._smoothing_hints

    def __enter__(self) -> EventStorage:
        _STORAGES.append(self)
        return self

    def __exit__(self, *exc: Any) -> None:
        if _STORAGES.pop() is not self:
            raise AssertionError("EventStorage contexts were closed in the wrong order")


class EventWriter:
    """Takes what is new in the current ``EventStorage`` somewhere."""

    def write(self) -> None:
        """Writes what was put since the last call."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing comes after this."""


class JSONWriter(EventWriter):
    """Appends one JSON object per iteration to a file: ``{"iteration": i, name: value, ...}``."""

    def __init__(self, json_file: str, window_size: int = 20) -> None:
        self._file = PathManager.open(json_file, "a")
        self._window_size = window_size
        self._last_write = -1

    def write(self) -> None:
        rows: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in (
            get_event_storage().latest_with_smoothing_hint(self._window_size).items()
        ):
            # Scalars that are put rarely would otherwise be repeated in every row.
            if iteration > self._last_write:
                rows[iteration][name] = value
        for iteration in sorted(rows):
            self._file.write(json.dumps({**rows[iteration], "iteration": iteration}, sort_keys=True) + "\n")
            self._last_write = iteration
        self._file.flush()
        # A killed run keeps the rows before its last checkpoint.
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class TensorboardXWriter(EventWriter):
    """Writes scalars as TensorBoard events to ``log_dir``."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs: Any) -> None:
        self._log_dir, self._window_size, self._kwargs = log_dir, window_size, kwargs
        self._writer: Any = None
        self._last_write = -1

    def write(self) -> None:
        if self._writer is None:
            # Imported late: TensorBoard takes seconds.
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self._log_dir, **self._kwargs)
        storage = get_event_storage()
        newest = self._last_write
        for name, (value, iteration) in storage.latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._last_write:
                self._writer.add_scalar(name, value, iteration)
                newest = max(newest, iteration)
        self._last_write = newest

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Logs losses, time, learning rate, memory and, given ``max_iter``, the time to the end."""

    def __init__(self, max_iter: int | None = None, window_size: int = 20) -> None:
        self.logger = logging.getLogger(__name__)
        self._max_iter, self._window_size = max_iter, window_size
        self._last_write: tuple[int, float] | None = None

    def _eta(self, storage: EventStorage) -> str | None:
        if self._max_iter is None:
            return None
        iteration = storage.iter
        if "time" in storage.histories():
            seconds = storage.history("time").median(1000)
            storage.put_scalar(
                "eta_seconds", seconds * (self._max_iter - iteration - 1), smoothing_hint=False
            )
        elif self._last_write is not None and iteration > self._last_write[0]:
            # Without a timer hook, the mean since the last line.
            seconds = (time.perf_counter() - self._last_write[1]) / (iteration - self._last_write[0])
        else:
            self._last_write = (iteration, time.perf_counter())
            return None
        self._last_write = (iteration, time.perf_counter())
        return str(datetime.timedelta(seconds=int(seconds * (self._max_iter - iteration - 1))))

    def write(self) -> None:
        storage = get_event_storage()
        # The last step's hooks write once more after the end: nothing new.
        if self._max_iter is not None and storage.iter == self._max_iter:
            return
        histories = storage.histories()
        eta = self._eta(storage)
        parts = [f" eta: {eta}"] if eta else []
        parts.append(f"iter: {storage.iter}")
        for name, history in histories.items():
            if "loss" in name:
                parts.append(f"{name}: {history.median(storage.count_samples(name, self._window_size)):.4g}")
        for name in ("time", "data_time"):
            if name in histories:
                count = storage.count_samples(name, self._window_size)
                parts.append(
                    f"{name}: {histories[name].avg(count):.4f}  last_{name}: {histories[name].latest():.4f}"
                )
        if "lr" in histories:
            parts.append(f"lr: {histories['lr'].latest():.5g}")
        if torch.cuda.is_available():
            parts.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        self.logger.info("  ".join(parts))
