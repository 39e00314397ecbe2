"""Scalars of a training run, and their writers: JSON lines, TensorBoard, console."""

from __future__ import annotations

import datetime
import json
import logging
import os
from collections import defaultdict
from typing import Any

import torch
from fvcore.common.history_buffer import HistoryBuffer

from .file_io import PathManager

_STORAGES: list[EventStorage] = []


def get_event_storage() -> EventStorage:
    """The storage of the innermost ``with EventStorage(...)`` around the caller."""
    if not _STORAGES:
        raise AssertionError("get_event_storage() has to be called inside a 'with EventStorage(...)' context")
    return _STORAGES[-1]


class EventStorage:
    """Histories of named scalars of one run; ``iter`` is the current iteration."""

    def __init__(self, start_iter: int = 0) -> None:
        self.iter = start_iter
        self._history: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._smoothing_hints: dict[str, bool] = {}
        self._latest: dict[str, tuple[float, int]] = {}
        self._images: list[tuple[str, Any, int]] = []

    def put_scalar(self, name: str, value: Any, smoothing_hint: bool = True, cur_iter: int | None = None) -> None:
        """Adds a number. ``smoothing_hint``: noisy, to be shown as a median, unlike a learning rate."""
        cur_iter = self.iter if cur_iter is None else cur_iter
        self._history[name].update(float(value), cur_iter)
        self._latest[name] = (float(value), cur_iter)
        if self._smoothing_hints.setdefault(name, smoothing_hint) != smoothing_hint:
            raise AssertionError(f"scalar {name!r} was put with another smoothing_hint before")

    def put_scalars(self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs: Any) -> None:
        """Adds several numbers, as ``put_scalar``."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_image(self, img_name: str, img_tensor: Any) -> None:
        """Adds a picture for TensorBoard: RGB [3, H, W], uint8 or float from 0 to 1, a tensor or an array."""
        self._images.append((img_name, img_tensor, self.iter))

    def take_images(self) -> list[tuple[str, Any, int]]:
        """(name, picture, iteration) of those put since the last call."""
        taken, self._images = self._images, []
        return taken

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
        smoothed = dict(self._latest)
        for name, (_, iteration) in self._latest.items():
            if self._smoothing_hints[name]:
                smoothed[name] = (self._history[name].median(self.count_samples(name, window_size)), iteration)
        return smoothed

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """How many values of ``name`` came in the ``window_size`` iterations up to its last one."""
        iterations = [iteration for _, iteration in self._history[name].values()[-window_size:]]
        return sum(iteration > iterations[-1] - window_size for iteration in iterations)

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


class _NewScalars:
    """Scalars put since the last call: those put rarely would otherwise be written again and again."""

    def __init__(self, window_size: int) -> None:
        self._window_size, self._last_write = window_size, -1

    def take(self) -> list[tuple[int, str, float]]:
        """(iteration, name, value), in the order in which the names first came."""
        latest = get_event_storage().latest_with_smoothing_hint(self._window_size).items()
        new = [(iteration, name, value) for name, (value, iteration) in latest if iteration > self._last_write]
        self._last_write = max([iteration for iteration, _, _ in new], default=self._last_write)
        return new


class JSONWriter(EventWriter):
    """Appends one JSON object per iteration to a file: ``{"iteration": i, name: value, ...}``."""

    def __init__(self, json_file: str, window_size: int = 20) -> None:
        self._file = PathManager.open(json_file, "a")
        self._new = _NewScalars(window_size)

    def write(self) -> None:
        rows: dict[int, dict[str, float]] = defaultdict(dict)
        for iteration, name, value in self._new.take():
            rows[iteration][name] = value
        for iteration, row in rows.items():
            self._file.write(json.dumps({**row, "iteration": iteration}, sort_keys=True) + "\n")
        self._file.flush()
        # A killed run keeps the rows before its last checkpoint.
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class TensorboardXWriter(EventWriter):
    """Writes scalars and pictures as TensorBoard events to ``log_dir``."""

    def __init__(self, log_dir: str, window_size: int = 20) -> None:
        self._log_dir = log_dir
        self._writer: Any = None
        self._new = _NewScalars(window_size)

    def write(self) -> None:
        if self._writer is None:
            # Imported late: TensorBoard takes seconds.
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self._log_dir)
        for iteration, name, value in self._new.take():
            self._writer.add_scalar(name, value, iteration)
        for name, picture, iteration in get_event_storage().take_images():
            self._writer.add_image(name, picture, iteration)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Logs losses, time, learning rate, memory and, given ``max_iter``, the time to the end."""

    def __init__(self, max_iter: int | None = None, window_size: int = 20) -> None:
        self.logger = logging.getLogger(__name__)
        self._max_iter, self._window_size = max_iter, window_size

    def write(self) -> None:
        storage = get_event_storage()
        # The last step's hooks write once more after the end: nothing new.
        if storage.iter == self._max_iter:
            return
        histories = storage.histories()
        count = {name: storage.count_samples(name, self._window_size) for name in histories}
        parts = [f"iter: {storage.iter}"]
        if self._max_iter is not None and "time" in histories:
            seconds = histories["time"].median(1000) * (self._max_iter - storage.iter - 1)
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
            parts.insert(0, f"eta: {datetime.timedelta(seconds=int(seconds))}")
        parts += [f"{n}: {h.median(count[n]):.4g}" for n, h in histories.items() if "loss" in n]
        for name in ("time", "data_time"):
            if name in histories:
                mean, last = histories[name].avg(count[name]), histories[name].latest()
                parts.append(f"{name}: {mean:.4f}  last_{name}: {last:.4f}")
        if "lr" in histories:
            parts.append(f"lr: {histories['lr'].latest():.5g}")
        if torch.cuda.is_available():
            parts.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        self.logger.info(" %s", "  ".join(parts))
