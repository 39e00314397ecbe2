"""What happens around the steps of a training."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer

from ..evaluation.testing import flatten_results_dict
from ..solver import LRScheduler as _LRScheduler
from ..utils import comm
from ..utils.events import EventWriter
from .train_loop import HookBase


class IterationTimer(HookBase):
    """Puts the seconds of each step as ``time``, and logs the mean at the end.

    The first ``warmup_iter`` steps do not count. It goes first in the list, to see what the other hooks cost.
    """

    def __init__(self, warmup_iter: int = 3) -> None:
        self._warmup_iter = warmup_iter
        self._start = 0.0
        self._steps, self._seconds = 0, 0.0

    def before_step(self) -> None:
        self._start = time.perf_counter()

    def after_step(self) -> None:
        if self.trainer.iter - self.trainer.start_iter + 1 >= self._warmup_iter:
            seconds = time.perf_counter() - self._start
            self.trainer.storage.put_scalars(time=seconds)
            self._steps, self._seconds = self._steps + 1, self._seconds + seconds

    def after_train(self) -> None:
        if self._steps:
            speed = self._seconds / self._steps
            logging.getLogger(__name__).info("Overall training speed: %.4f s / it over %d steps", speed, self._steps)


class PeriodicWriter(HookBase):
    """Lets writers write every ``period`` iterations and at the end."""

    def __init__(self, writers: list[EventWriter], period: int = 20) -> None:
        self._writers, self._period = writers, period

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self._period == 0 or self.trainer.iter == self.trainer.max_iter - 1:
            for writer in self._writers:
                writer.write()

    def after_train(self) -> None:
        for writer in self._writers:
            # What other hooks put after the last step, such as the last evaluation.
            writer.write()
            writer.close()


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """fvcore's, as a hook: saves every ``period`` iterations, and ``model_final`` at the end."""

    def before_train(self) -> None:
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        self.step(self.trainer.iter)


class LRScheduler(HookBase):
    """Puts the learning rate as ``lr`` and moves the schedule on after each step."""

    def __init__(self, optimizer: torch.optim.Optimizer | None = None, scheduler: _LRScheduler | None = None) -> None:
        self._optimizer, self._scheduler = optimizer, scheduler

    def before_train(self) -> None:
        self._optimizer = self._optimizer or self.trainer.optimizer  # type: ignore[attr-defined]
        rates = Counter(group["lr"] for group in self._optimizer.param_groups)
        rate, count = rates.most_common(1)[0]

        def rank(group: dict[str, Any]) -> tuple[bool, int]:
            # Of the groups with the commonest rate the first; where all differ, the one with most parameters.
            return (group["lr"] == rate, 0) if count > 1 else (True, len(group["params"]))

        self._group = max(self._optimizer.param_groups, key=rank)

    @property
    def scheduler(self) -> _LRScheduler:
        """The schedule given, or the trainer's."""
        return self._scheduler or self.trainer.scheduler  # type: ignore[attr-defined]

    def after_step(self) -> None:
        self.trainer.storage.put_scalar("lr", self._group["lr"], smoothing_hint=False)
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.scheduler.load_state_dict(state_dict)


class EvalHook(HookBase):
    """Evaluates every ``eval_period`` iterations and, if the training got there, at its end.

    ``eval_function`` takes nothing and returns a nested dict of numbers, which are put as
    ``task/metric``; it runs in all processes.
    """

    def __init__(self, eval_period: int, eval_function: Callable[[], Any], eval_after_train: bool = True) -> None:
        self._period, self._func, self._eval_after_train = eval_period, eval_function, eval_after_train

    def _do_eval(self) -> None:
        results = self._func()
        if results:
            numbers: dict[str, Any] = {name: float(value) for name, value in flatten_results_dict(results).items()}
            self.trainer.storage.put_scalars(**numbers, smoothing_hint=False)
        # A slow main process must not let the others run into a time-out later.
        comm.synchronize()

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        # The last one is after_train's.
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._do_eval()

    def after_train(self) -> None:
        # At least the last iteration ran: after an error, no time is spent on evaluating.
        if self._eval_after_train and self.trainer.iter + 1 >= self.trainer.max_iter:
            self._do_eval()
        # It often holds the trainer: a cycle would keep the model alive.
        del self._func
