"""Times several ways to do the same work, in turn and in one process, and measures their peak memory."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

# A side that takes milliseconds is run more than once a round, until this time is over or so often: the first run
# after that of another side finds the other's data in the processor's caches.
SLICE_SECONDS = 2.0
SLICE_RUNS = 20
# For processes in which memory is measured: glibc gives every large array back at once. Its own threshold grows, a
# user's padding may be large, and the room that is kept would hide later arrays.
MEMORY_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TOP_PAD_": "131072"}

_MIB = 2**20
_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Task:
    """Work to be timed.

    ``run`` may return a tensor, what the work made, to be compared between sides: floats by their largest
    difference, integers by the share that differs. ``prepare`` comes before every run and is not timed. ``sizes`` of
    what does the work are reported as they are.
    """

    run: Callable[[], Tensor | None]
    prepare: Callable[[], None] | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Side:
    """One way to do the work of a contest.

    ``build`` gets everything ready for one; ``items`` are done by one run (of the contest's ``unit``). Where the
    arithmetic is the point, ``counts_as`` names the side whose operations count: work that a trick adds
    or saves is no achievement of the machine.
    """

    name: str
    build: Callable[[], Task]
    items: int
    counts_as: str | None = None


@dataclass(frozen=True)
class Contest:
    """Sides that are run in turn, and the pairs (baseline, ours) of them that are compared."""

    what: str
    unit: str
    sides: tuple[Side, ...]
    pairs: tuple[tuple[str, str], ...]

    def side(self, name: str) -> Side:
        return next(side for side in self.sides if side.name == name)


class Memory(NamedTuple):
    """Of one run, in MiB: how far it went above what was there before, and the most in use at once."""

    growth: float
    total: float


@dataclass
class Measurement:
    """Of one side: seconds of each run; its first output; floating-point operations of a run, where counted; sizes of
    its task."""

    seconds: list[float] = field(default_factory=list)
    first_output: Tensor | None = None
    flops: int | None = None
    memory: Memory | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    @property
    def quartiles(self) -> tuple[float, float]:
        low, high = np.percentile(self.seconds, [25, 75])
        return float(low), float(high)


def measure(
    contest: Contest, device: torch.device, repeats: int, warmup: int, count_flops: bool
) -> dict[str, Measurement]:
    """Runs all sides ``repeats`` times in turn, the order moving on by one each round, after ``warmup`` runs of each.

    The sides share the process, so that both meet the same machine in the same minute.
    """
    tasks = {side.name: side.build() for side in contest.sides}
    measurements = {name: Measurement() for name in tasks}
    for side in contest.sides:
        task, measurement = tasks[side.name], measurements[side.name]
        measurement.sizes = task.sizes
        # The first run: weights have not been trained on yet, so that outputs can be compared.
        measurement.first_output, measurement.flops = _first_run(task, count_flops and side.counts_as is None)
        for _ in range(warmup - 1):
            _timed(task, device)
    order = list(tasks)
    for _ in range(repeats):
        for name in order:
            measurements[name].seconds += _slice(tasks[name], device)
        order = order[1:] + order[:1]
    if count_flops:
        for side in contest.sides:
            if side.counts_as is not None:
                measurements[side.name].flops = measurements[side.counts_as].flops
    return measurements


def _first_run(task: Task, count_flops: bool) -> tuple[Tensor | None, int | None]:
    if task.prepare is not None:
        task.prepare()
    if not count_flops:
        return task.run(), None
    # Of fused attention on a CPU the counter does not know.
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counter = FlopCounterMode(display=False, custom_mapping={attention: _attention_flops})
    with counter:
        output = task.run()
    return output, counter.get_total_flops()


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _slice(task: Task, device: torch.device) -> list[float]:
    seconds = [_timed(task, device)]
    while len(seconds) < SLICE_RUNS and sum(seconds) < SLICE_SECONDS:
        seconds.append(_timed(task, device))
    return seconds


def _timed(task: Task, device: torch.device) -> float:
    if task.prepare is not None:
        task.prepare()
    _synchronize(device)
    start = time.perf_counter()
    task.run()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def difference(ours: Tensor | None, baseline: Tensor | None) -> float | None:
    """Largest absolute difference of two float outputs; share of unequal entries of two integer ones, 0 to 1."""
    if ours is None or baseline is None:
        return None
    if ours.shape != baseline.shape:
        raise ValueError(f"outputs cannot be compared: {tuple(ours.shape)} and {tuple(baseline.shape)}")
    if ours.is_floating_point():
        return float((ours.float() - baseline.float()).abs().max())
    return float((ours != baseline).float().mean())


def measure_memory(task: Task, device: torch.device) -> Memory | None:
    """Peak memory of the first run: of the GPU, or this process's resident set; None where the system has no /proc.

    A process on a CPU is to be started with :data:`MEMORY_ENVIRONMENT`.
    """
    if task.prepare is not None:
        task.prepare()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        task.run()
        _synchronize(device)
        peak = torch.cuda.max_memory_allocated(device)
        return Memory((peak - before) / _MIB, peak / _MIB)
    if not _CLEAR_REFS.exists():
        return None
    # "5" sets the high-water mark back to what is resident now; building may have needed more than running.
    _CLEAR_REFS.write_text("5")
    before = _resident("VmRSS")
    task.run()
    peak = _resident("VmHWM")
    return Memory((peak - before) / _MIB, peak / _MIB)


def _resident(name: str) -> int:
    """VmRSS or VmHWM in bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    assert found is not None, f"{_STATUS} has no {name}"
    return 1024 * int(found.group(1))
