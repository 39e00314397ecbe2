"""Results as text, and results against what is expected."""

from __future__ import annotations

import logging
import pprint
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..config import CfgNode


def print_csv_format(results: Mapping[str, Any]) -> None:
    """Logs two lines per task, names and values, to be copied into a table."""
    logger = logging.getLogger(__name__)
    for task, values in results.items():
        if isinstance(values, Mapping):
            # Per-class values would make the line unreadable.
            shown = [(name, value) for name, value in values.items() if "-" not in name]
            logger.info("copypaste: Task: %s", task)
            logger.info("copypaste: %s", ",".join(name for name, _ in shown))
            logger.info("copypaste: %s", ",".join(f"{value:.4f}" for _, value in shown))
        else:
            logger.info("copypaste: %s=%s", task, values)


def verify_results(cfg: CfgNode, results: Mapping[str, Any]) -> bool:
    """Checks TEST.EXPECTED_RESULTS, rows of (task, metric, value, tolerance).

    Raises:
        SystemExit: with code 1 if one is missed.
    """
    expected = cfg.TEST.EXPECTED_RESULTS
    if not expected:
        return True
    logger = logging.getLogger(__name__)
    missed = []
    for task, metric, value, tolerance in expected:
        actual = results.get(task, {}).get(metric)
        if actual is None or not np.isfinite(actual) or abs(actual - value) > tolerance:
            missed.append((task, metric, value, tolerance, actual))
    if missed:
        logger.error("Result verification failed! (task, metric, expected, tolerance, actual): %s", missed)
        logger.error("Actual results: %s", pprint.pformat(results))
        sys.exit(1)
    logger.info("Results verification passed.")
    return True


def flatten_results_dict(results: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a": {"b": 1}}`` to ``{"a/b": 1}``."""
    flat: dict[str, Any] = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}/{inner}": v for inner, v in flatten_results_dict(value).items()})
        else:
            flat[name] = value
    return flat
