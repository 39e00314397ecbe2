"""How fast things are, against the stock way of doing them: behind tools/benchmark.py."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from .measuring import MEMORY_ENVIRONMENT, Contest, Memory, measure
from .report import describe_machine, describe_schedule, machine, markdown, pair_reports, write_json
from .subjects import SUBJECTS, VARIANTS, Settings

logger = logging.getLogger(__name__)

__all__ = [
    "SUBJECTS",
    "VARIANTS",
    "Settings",
    "describe_machine",
    "describe_schedule",
    "markdown",
    "run_benchmark",
    "write_json",
]


def run_benchmark(
    settings: Settings, *, memory: bool = True, peak_tflops: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Measures one subject: first all times, then the peak memory of every side in a process of its own.

    Args:
        memory: also measure memory, which runs every side once more.
        peak_tflops: {"fp32" | "bf16": the device's peak rate in 10^12 operations a second}, of which the share
            is stated. Operations are counted of encoders, on a GPU, and where a peak is given.

    Returns:
        One dictionary a pair of sides; see :func:`wps_sam.benchmark.report.pair_reports`.
    """
    os.makedirs(settings.folder, exist_ok=True)
    device = settings.torch_device
    info = machine(device)
    pairs = []
    for index, contest in enumerate(SUBJECTS[settings.subject](settings)):
        logger.info("%s: %s", contest.what, "; ".join(side.name for side in contest.sides))
        count_flops = device.type == "cuda" or bool(peak_tflops) or settings.subject == "encoder"
        measurements = measure(contest, device, settings.repeats, settings.warmup, count_flops)
        if memory:
            for side in contest.sides:
                measurements[side.name].memory = _memory_in_a_process(settings, index, contest, side.name)
        pairs += pair_reports(settings, contest, measurements, info, peak_tflops or {})
    return pairs


def _memory_in_a_process(settings: Settings, index: int, contest: Contest, side: str) -> Memory | None:
    """See :func:`measure_memory`; a fresh process has no memory left over from other sides to run in."""
    request = json.dumps({"settings": asdict(settings), "contest": index, "side": side})
    done = subprocess.run(
        [sys.executable, "-m", "wps_sam.benchmark.peak_memory", request],
        capture_output=True,
        text=True,
        env={**os.environ, **MEMORY_ENVIRONMENT},
    )
    if done.returncode:
        raise RuntimeError(
            f"{contest.what}, {side}: the process that measures memory ended with code {done.returncode}:\n"
            f"{done.stderr[-2000:]}"
        )
    found = json.loads(done.stdout.splitlines()[-1])
    return None if found is None else Memory(*found)
