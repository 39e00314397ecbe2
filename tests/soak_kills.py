#!/usr/bin/env python
"""Kills trainings, or the making of feature caches, at random moments, continues each, and compares what is left.

    python tests/soak_kills.py training --kills 200
    python tests/soak_kills.py caching --kills 100

A run is killed (SIGKILL) and continued until it finishes, then the next is begun. The moment is drawn evenly over the
time that an undisturbed run takes. Weights and evaluation, or every byte of the cache, have to be those of the
undisturbed run. Prints figures as JSON; exits with code 1 where something differs.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from wps_sam.checkpointer import SafeCheckpointer
from wps_sam.data import feature_store

import soak_work


def arguments(what: str, config: Path, output: Path) -> list[str]:
    """Of the subcommand that begins a run in ``output``, or goes on with it."""
    if what == "training":
        return ["train", "--resume", "--config-file", str(config), "OUTPUT_DIR", str(output)]
    return ["cache", "--config-file", str(config), "--output", str(output)]


def result(what: str, output: Path) -> Any:
    """What has to be the same."""
    if what == "caching":
        return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}
    state = SafeCheckpointer.read(str(output / "model_final.pth"))["model"]
    scores = (output / "evaluation.json").read_bytes()
    return scores, {name: (str(value.dtype), value.numpy().tobytes()) for name, value in state.items()}


def campaign(what: str, kills: int, seed: int, folder: Path) -> dict[str, Any]:
    if what == "training":
        soak_work.prepare(folder, 6, 2, "SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 1, "TEST.EVAL_PERIOD", 3)
    else:
        soak_work.prepare(folder, 9, 2)
        # A shard for each three pictures: many, as of a large data set.
        feature_store.MAX_RECORDS_PER_SHARD = 3
    config, log, draw = folder / "config.yaml", folder / "log", random.Random(seed)
    began = time.monotonic()
    soak_work.finish(soak_work.start(log, *arguments(what, config, folder / "whole")), log)
    seconds, expected = time.monotonic() - began, result(what, folder / "whole")
    figures: dict[str, Any] = {"what": what, "seconds_undisturbed": round(seconds, 1), "kills": 0, "runs": 0}
    figures |= {"killed_while_writing": 0, "different": 0}
    most, of_this = 0, 0
    while True:
        output = folder / "killed"
        process = soak_work.start(log, *arguments(what, config, output))
        if figures["kills"] < kills:
            process.join(draw.uniform(0, seconds))
        else:
            process.join()
        if process.exitcode is None:
            process.kill()
            process.join()
            figures["kills"], of_this = figures["kills"] + 1, of_this + 1
            figures["killed_while_writing"] += any(".tmp" in path.name for path in output.rglob("*"))
        elif process.exitcode:
            raise SystemExit(f"failed with exit code {process.exitcode}: {log}\n{log.read_text()[-2000:]}")
        else:
            figures["runs"] += 1
            figures["different"] += result(what, output) != expected
            most, of_this = max(most, of_this), 0
            shutil.rmtree(output)
            if figures["kills"] >= kills:
                return {**figures, "most_kills_of_a_run": most, "seconds": round(time.monotonic() - began)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["training", "caching"])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = campaign(args.what, args.kills, args.seed, Path(folder))
    print(json.dumps(figures))
    return int(figures["different"] > 0)


if __name__ == "__main__":
    sys.exit(main())
