"""What subcommands that train frozen networks have in common: a file of settings, and others that replace those."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from ..paths import find_config
from .loop import LoopSettings, TimedTraining, read_settings


def run(args: argparse.Namespace, kind: type[LoopSettings], training: Callable[[Any, str, str], TimedTraining]) -> None:
    """Trains as ``args`` say: ``config_file``, ``settings``, ``output_dir``, ``resume``, ``threads``, ``command``.

    Raises:
        ValueError: names the setting or the file that does not fit.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.threads:
        torch.set_num_threads(args.threads)
    begun = training(read_settings(kind, read_values(args.config_file, args.settings)), args.output_dir, args.command)
    if args.resume:
        begun.resume()
    begun.train()


def read_values(path: str | Path | None, assignments: Sequence[str]) -> dict:
    """The settings of a YAML file, which may lie in the project's folder, some of them replaced."""
    values: dict = {}
    if path is not None:
        try:
            values = yaml.safe_load(Path(find_config(path)).read_text(encoding="utf-8")) or {}
        except yaml.YAMLError as error:
            raise ValueError(f"{path}: no valid YAML: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path}: expected a mapping of settings, got a {type(values).__name__}")
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise ValueError(f"expected NAME=VALUE, got {assignment!r}")
        try:
            values[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"{assignment}: no valid YAML: {error}") from error
    return values
