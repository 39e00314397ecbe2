"""What the tools that train frozen networks have in common: a file of settings, and settings that replace those."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from .loop import LoopSettings, TimedTraining, read_settings


def settings_parser(description: str | None, kind: type[LoopSettings]) -> argparse.ArgumentParser:
    """The arguments of such a tool, to which others may be added."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config-file", type=Path, metavar="YAML", help=f"settings; see {kind.__name__} for all of them")
    add("--output-dir", required=True)
    add("--resume", action="store_true", help="continue from OUTPUT_DIR/checkpoint.pt")
    add("--threads", type=int, default=0, help="CPU threads of PyTorch; 0: its own choice")
    add("settings", nargs="*", metavar="NAME=VALUE", help="settings that replace those of the file, as YAML")
    return parser


def run(
    tool: str,
    argv: Sequence[str] | None,
    args: argparse.Namespace,
    kind: type[LoopSettings],
    training: Callable[[Any, str, str], TimedTraining],
) -> int:
    """Trains as ``args`` of :func:`settings_parser` say. The exit code of ``tool``, which was called with ``argv``."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    command = shlex.join(["python", f"tools/{tool}", *(sys.argv[1:] if argv is None else argv)])
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        begun = training(read_settings(kind, read_values(args.config_file, args.settings)), args.output_dir, command)
        if args.resume:
            begun.resume()
        begun.train()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def read_values(path: Path | None, assignments: Sequence[str]) -> dict:
    """The settings of a YAML file, some of them replaced."""
    values: dict = {}
    if path is not None:
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        if not isinstance(values, dict):
            raise ValueError(f"{path}: expected a mapping of settings, got a {type(values).__name__}")
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise ValueError(f"expected NAME=VALUE, got {assignment!r}")
        values[name] = yaml.safe_load(value)
    return values
