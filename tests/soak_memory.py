#!/usr/bin/env python
"""Memory of training, caching, evaluation and predict over many pictures, as curves.

    python tests/soak_memory.py --pictures 10000
    python tests/soak_memory.py predict --pictures 10000

Prints for each tenth of a work's time the most memory, in MiB, that its process and its workers held (resident, shared
pages counted once for each). Exits with code 1 where the last tenth needs over a tenth more than the third one, from
which on all should be in place. Linux only.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import soak_work

WORKS = ("training", "caching", "evaluation", "predict")


def works(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Name and arguments of each; the later ones use what the earlier ones left."""
    config, run = ["--config-file", str(folder / "config.yaml")], folder / "run"
    yield "training", ["train", *config, "OUTPUT_DIR", str(run), "DATASETS.TEST", "()"]
    yield "caching", ["cache", *config, "--output", str(folder / "features"), "DATASETS.TEST", "()"]
    weights = ["MODEL.WEIGHTS", str(run / "model_final.pth")]
    sets = ["DATASETS.TEST", "('soak_parts_train',)"]
    yield "evaluation", ["eval", *config, "OUTPUT_DIR", str(folder / "evaluated"), *weights, *sets]
    images = str(folder / "data" / "images" / "train")
    yield "predict", ["predict", images, *config, "--weights", weights[1], "--output", str(folder / "found")]


def resident(pid: int) -> int:
    """Bytes of a process and of those that it started."""
    total, waiting = 0, [pid]
    while waiting:
        one = Path("/proc", str(waiting.pop()))
        try:
            lines = (one / "status").read_text().splitlines()
            waiting += map(int, (one / "task" / one.name / "children").read_text().split())
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
    return total


def watch(process: Any) -> list[tuple[float, int]]:
    """(seconds, bytes) until a process ends."""
    began, curve = time.monotonic(), []
    while process.exitcode is None:
        curve.append((time.monotonic() - began, resident(process.pid)))
        process.join(0.1)
    return curve


def tenths(curve: list[tuple[float, int]]) -> list[int]:
    """The most MiB in each tenth of the time; of a tenth without a measurement those of the one before."""
    end = curve[-1][0] + 1e-9
    found: list[int] = []
    for k in range(10):
        inside = [size for seconds, size in curve if k <= 10 * seconds / end < k + 1]
        found.append(max(inside) >> 20 if inside else found[-1])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("works", nargs="*", metavar="WORK", default=WORKS, help=f"of {', '.join(WORKS)}; default: all")
    parser.add_argument("--pictures", type=int, default=10000)
    args = parser.parse_args()
    if unknown := set(args.works) - set(WORKS):
        parser.error(f"{', '.join(unknown)}: expected {', '.join(WORKS)}")
    # The others need its weights.
    steps = args.pictures // 2 if "training" in args.works else 1
    grows = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        soak_work.prepare(folder, args.pictures, 2, "SOLVER.MAX_ITER", steps, "SOLVER.CHECKPOINT_PERIOD", 1000)
        print(f"{args.pictures} pictures; MiB in each tenth of the time")
        for what, command in works(folder):
            if what not in (*args.works, "training"):
                continue
            log = folder / f"{what}.log"
            process = soak_work.start(log, *command)
            curve = watch(process)
            soak_work.finish(process, log)
            if what not in args.works:
                continue
            found = tenths(curve)
            grows = grows or found[-1] > 1.1 * found[2]
            print(f"{what:<12}" + "".join(f"{mib:>6}" for mib in found) + f"   {curve[-1][0]:.0f} s", flush=True)
    return int(grows)


if __name__ == "__main__":
    sys.exit(main())
