"""What the soak scripts have in common: a small data set and configuration, subcommands as processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

from wps_sam import engine  # noqa: F401  (what is imported here need not be in every process)
from wps_sam.cli import run_command

from conftest import build_tiny_cfg, write_tiny_dataset
from detectron2.config import CfgNode

# Forked, so that Python and PyTorch are started once. What has computed gradients can't be forked: nothing is trained
# in this process.
_FORK = multiprocessing.get_context("fork")


def prepare(folder: Path, num_train: int, num_val: int, *opts: Any) -> CfgNode:
    """Writes a data set of pictures of 64 x 64 and ``folder``/config.yaml, the shipped SAM and the paper's prompter."""
    parts = write_tiny_dataset(folder / "data", name="soak_parts", num_train=num_train, num_val=num_val)
    more = (
        "MODEL.SAM.WEIGHTS",
        "shipped",
        "INPUT.RANDOM_FLIP",
        "horizontal",
        "TEST.PROTOCOLS",
        ["d2_semseg", "coco_ap"],
    )
    cfg = build_tiny_cfg(parts, folder / "unused", *more, *opts)
    (folder / "config.yaml").write_text(cfg.dump())
    return cfg


def start(log: Path, name: str, *arguments: str) -> Any:
    """``wps-sam NAME ARGUMENTS`` in a process, whose output goes to the file ``log``."""

    def work() -> None:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.exit(run_command(name, list(arguments)))

    process = _FORK.Process(target=work)
    process.start()
    return process


def finish(process: Any, log: Path) -> None:
    """Waits for a process that has to succeed."""
    process.join()
    if process.exitcode:
        raise SystemExit(f"failed with exit code {process.exitcode}: {log}\n{log.read_text()[-2000:]}")
