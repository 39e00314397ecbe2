"""What happens around the steps of a training."""

from __future__ import annotations

import datetime
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.timer import Timer

from ..evaluation.testing import flatten_results_dict
from ..solver import LRScheduler as _LRScheduler
from ..utils import comm
from ..utils.events import EventWriter
from .train_loop import HookBase

__all__ = [
    "EvalHook",
    "HookBase",
    "IterationTimer",
    "LRScheduler",
    "PeriodicCheckpointer",
    "PeriodicWriter",
]


class IterationTimer(HookBase):
    """Puts the seconds of each step as ``time``, and logs the mean at the end.

    The first ``warmup_iter`` steps do not count. It goes first in the list, to see what the other hooks cost.
    """

    def __init__(self, warmup_iter: int = 3) -> None:
        self._warmup_iter = warmup_iter
        self._step_timer, self._total_timer = Timer(), Timer()
        self._start_time = time.perf_counter()

    def before_train(self) -> None:
        self._start_time = time.perf_counter()
        self._total_timer.reset()
        self._total_timer.pause()

    def before_step(self) -> None:
        self._step_timer.reset()
        self._total_timer.resume()

    def after_step(self) -> None:
        done = self.trainer.iter - self.trainer.start_iter + 1
        if done >= self._warmup_iter:
            self.trainer.storage.put_scalars(time=self._step_timer.seconds())
        else:
            self._start_time = time.perf_counter()
            self._total_timer.reset()
        self._total_timer.pause()

    def after_train(self) -> None:
        steps = self.trainer.storage.iter + 1 - self.trainer.start_iter - self._warmup_iter
        stepping = self._total_timer.seconds()
        if steps > 0 and stepping > 0:
            total = time.perf_counter() - self._start_time
            logging.getLogger(__name__).info(
                "Overall training speed: %d iterations in %s (%.4f s / it); %s on hooks",
                steps,
                datetime.timedelta(seconds=int(stepping)),
                stepping / steps,
                datetime.timedelta(seconds=int(total - stepping)),
            )


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

    def __init__(
        self, optimizer: torch.optim.Optimizer | None = None, scheduler: _LRScheduler | None = None
    ) -> None:
        self._optimizer, self._scheduler = optimizer, scheduler

    def before_train(self) -> None:
        self._optimizer = self._optimizer or self.trainer.optimizer  # type: ignore[attr-defined]
        groups = self._optimizer.param_groups
        # The rate that most groups have; where all differ, that of the group with most parameters.
        rates = Counter(group["lr"] for group in groups)
        rate, count = rates.most_common(1)[0]
        if count > 1:
            self._group = next(i for i, group in enumerate(groups) if group["lr"] == rate)
        else:
            self._group = max(range(len(groups)), key=lambda i: len(groups[i]["params"]))

    @property
    def scheduler(self) -> _LRScheduler:
        """The schedule given, or the trainer's."""
        return self._scheduler or self.trainer.scheduler  # type: ignore[attr-defined]

    def after_step(self) -> None:
        assert self._optimizer is not None
        rate = self._optimizer.param_groups[self._group]["lr"]
        self.trainer.storage.put_scalar("lr", rate, smoothing_hint=False)
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

    def __init__(
        self, eval_period: int, eval_function: Callable[[], Any], eval_after_train: bool = True
    ) -> None:
        self._period, self._func, self._eval_after_train = eval_period, eval_function, eval_after_train

    def _do_eval(self) -> None:
        results = self._func()
        if results:
            numbers: dict[str, float] = {}
            for name, value in flatten_results_dict(results).items():
                try:
                    numbers[name] = float(value)
                except (TypeError, ValueError) as error:
                    raise ValueError(f"evaluation result {name!r} is {value!r}, expected a number") from error
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
