"""The interface of an evaluator, and the loop that feeds it."""

from __future__ import annotations

import datetime
import logging
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from ..utils.comm import get_world_size, is_main_process


class DatasetEvaluator:
    """Takes inputs and outputs of a model batch by batch, and sums them up."""

    def reset(self) -> None:
        """Begins a new round."""

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Takes one batch and what the model said of it."""

    def evaluate(self) -> Any:
        """Returns ``{task: {metric: value}}`` after all batches, on the main process."""


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators as one."""

    def __init__(self, evaluators: list[DatasetEvaluator]) -> None:
        super().__init__()
        self._evaluators = evaluators

    def reset(self) -> None:
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> dict[str, Any]:
        """All results in one dict; no two evaluators may use the same task."""
        results: dict[str, Any] = OrderedDict()
        for evaluator in self._evaluators:
            result = evaluator.evaluate()
            if is_main_process() and result is not None:
                for task, values in result.items():
                    if task in results:
                        raise AssertionError(f"different evaluators produce results for the same task {task!r}")
                    results[task] = values
        return results


def inference_on_dataset(
    model: Any, data_loader: Iterable, evaluator: DatasetEvaluator | list[DatasetEvaluator] | None
) -> Mapping[str, Any]:
    """Runs the model, in eval mode and without gradients, over the loader, and returns the evaluator's results.

    ``data_loader`` has a length. On other than the main process, and without an evaluator, returns {}.
    """
    logger = logging.getLogger(__name__)
    total = len(data_loader)  # type: ignore[arg-type]
    logger.info("Start inference on %d batches", total)
    if not isinstance(evaluator, DatasetEvaluator):
        evaluator = DatasetEvaluators(evaluator or [])
    evaluator.reset()
    # The first batches wait for worker processes and caches, and would spoil the estimate.
    warmup = min(5, total - 1)
    start = last_log = time.perf_counter()
    with inference_context(model) if isinstance(model, nn.Module) else nullcontext(), torch.no_grad():
        for i, inputs in enumerate(data_loader):
            if i == warmup:
                start = time.perf_counter()
            evaluator.process(inputs, model(inputs))
            now = time.perf_counter()
            if i > warmup and now - last_log >= 5:
                last_log, per_batch = now, (now - start) / (i - warmup + 1)
                eta = datetime.timedelta(seconds=int(per_batch * (total - i - 1)))
                logger.info("Inference done %d/%d. %.4f s/iter. ETA=%s", i + 1, total, per_batch, eta)
    seconds = time.perf_counter() - start
    speed = seconds / max(total - warmup, 1)
    logger.info("Total inference time: %.1f s (%.6f s / iter, %d devices)", seconds, speed, get_world_size())
    # None comes from evaluators on other than the main process.
    return evaluator.evaluate() or {}


@contextmanager
def inference_context(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in eval mode; afterwards as it was."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
