"""What trainings here have in common: settings, a schedule by the clock, checkpoints, averaged weights."""

from __future__ import annotations

import datetime
import json
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from wps_sam.checkpointer import remove_leftovers
from wps_sam.outputs import adopt_output, check_outputs, write_output
from wps_sam.stops import Deferral, Stopped
from wps_sam.user_errors import did_you_mean

import torch
from detectron2.utils.events import EventStorage, JSONWriter, TensorboardXWriter
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoopSettings:
    """Length and pace of a training. ``minutes`` and ``iterations`` (0: no limit) set its length; the learning rate
    follows a cosine over whichever is nearer its end, so that a run on a busy machine finishes its schedule."""

    batch_size: int = 16
    iterations: int = 0
    minutes: float = 45.0
    learning_rate: float = 6e-4
    warmup_iterations: int = 150
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    ema: float = 0.998
    bf16: bool = False
    seed: int = 0
    workers: int = 0
    checkpoint_minutes: float = 5.0
    val_pictures: int = 40
    log_every: int = 20

    def __post_init__(self) -> None:
        self.require(self.iterations > 0 or self.minutes > 0, "iterations and minutes", "one to be positive")

    def require(self, condition: bool, names: str, expected: str) -> None:
        """ValueError that names the settings, "one and another", unless ``condition`` holds."""
        if not condition:
            values = ", ".join(repr(getattr(self, name)) for name in names.split(" and "))
            raise ValueError(f"{names}: expected {expected}, got {values}")


Settings = TypeVar("Settings", bound=LoopSettings)


def read_settings(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Settings from a mapping as a YAML file gives it; ValueError names an unknown key or a value of another type."""
    defaults = {field.name: field.default for field in fields(kind)}
    unknown = sorted(values.keys() - defaults.keys())
    if unknown:
        near = did_you_mean(unknown[0], defaults)
        raise ValueError(f"unknown settings {', '.join(unknown)}{near}; expected some of {', '.join(defaults)}")
    read = {name: _convert(name, value, defaults[name]) for name, value in values.items()}
    return kind(**read)


def _convert(name: str, value: Any, default: Any) -> Any:
    """``value`` in the type of ``default``."""
    try:
        if name == "sources":
            return tuple((str(key), float(weight)) for key, weight in value.items())
        if name == "student_args":
            return tuple((str(key), item) for key, item in value.items())
        if isinstance(default, tuple):
            return tuple(type(default[0])(v) for v in value)
        if isinstance(default, float) and not isinstance(value, bool):
            # YAML reads 4e-4, without a point, as a text.
            return float(value)
    except (AttributeError, TypeError, ValueError):
        pass
    else:
        if type(value) is type(default):
            return value
    kind = "mapping of names to weights" if name == "sources" else type(default).__name__
    raise ValueError(f"{name}: expected a {kind}, got {value!r}")


def endless_batches(
    data: Dataset, settings: LoopSettings, iteration: int, collate: Callable[[list], Any] | None = None
) -> Iterator[Any]:
    """Batches of items 0, 1, 2 ... of ``data``, from those of ``iteration`` on."""
    count = settings.batch_size
    endless = ([i * count + k for k in range(count)] for i in iter(range(iteration, 1 << 60)))
    loader: DataLoader = DataLoader(data, batch_sampler=endless, num_workers=settings.workers, collate_fn=collate)
    return iter(loader)


class TimedTraining(ABC):
    """A training loop with checkpoints, from which it continues exactly.

    Args:
        settings: of the loop.
        model: what is trained; its weights are averaged exponentially.
        output_dir: is made.
        command: that started it, to be noted.
    """

    # Files that must not be written over.
    inputs: list[str]

    def __init__(self, settings: LoopSettings, model: nn.Module, output_dir: str, command: str = "") -> None:
        self.settings, self.command, self.inputs = settings, command, []
        self.output_dir = Path(output_dir)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.output_dir)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.train().to(self.device)
        self.average = AveragedModel(self.model, avg_fn=self._average)
        # The start counts as the first of the averaged models.
        self.average.update_parameters(self.model)
        decayed: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in self.model.named_parameters():
            (others if self.undecayed(name, parameter) else decayed).append(parameter)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": settings.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=settings.learning_rate,
            betas=(0.9, 0.98),
        )
        self.iteration = 0
        self.seconds = 0.0

    # -- what differs

    @property
    @abstractmethod
    def export_path(self) -> Path:
        """Where the weights go at the end."""

    @abstractmethod
    def undecayed(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether a parameter has no weight decay."""

    @abstractmethod
    def batches(self) -> Iterator[Any]:
        """Those from ``iteration`` on."""

    @abstractmethod
    def loss(self, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch, and figures, "loss" among them."""

    @abstractmethod
    def validate(self, whole: bool = False) -> dict[str, float]:
        """Figures of the averaged weights; ``whole``: at the end, of all there is."""

    @abstractmethod
    def export(self, **figures: str) -> None:
        """Writes the averaged weights to ``export_path``, with the last figures."""

    # -- state

    @property
    def checkpoint_path(self) -> Path:
        """Where the state for an exact resume lies."""
        return self.output_dir / "checkpoint.pt"

    def save(self) -> None:
        """Writes the checkpoint atomically: a killed run leaves the previous one whole."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "iteration": self.iteration,
            "seconds": self.seconds,
        }
        write_output(self.checkpoint_path, lambda file: torch.save(state, file))

    def resume(self) -> None:
        """Continues from the checkpoint in ``output_dir``; ValueError where there is none."""
        if not self.checkpoint_path.is_file():
            raise ValueError(f"{self.checkpoint_path}: no checkpoint to resume from")
        state = torch.load(self.checkpoint_path, map_location=self.device, weights_only=True)
        if "model" not in state or "n_averaged" not in state["average"]:
            raise ValueError(
                f"{self.checkpoint_path}: written by an earlier version, whose state was kept otherwise; start a new "
                f"run from its exported weights: weights={self.export_path}"
            )
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.iteration, self.seconds = state["iteration"], state["seconds"]
        for path in (self.checkpoint_path, self.export_path):
            if path.is_file():
                adopt_output(path)

    def about(self) -> dict[str, Any]:
        """What an exported file says of its training."""
        return {
            "command": self.command,
            "settings": json.dumps(asdict(self.settings)),
            "seed": self.settings.seed,
            "iterations": self.iteration,
            "minutes": f"{self.seconds / 60:.1f}",
            "date": datetime.date.today().isoformat(),
        }

    # -- loop

    def _progress(self) -> float:
        by_time = self.seconds / (60 * self.settings.minutes) if self.settings.minutes > 0 else 0.0
        by_count = self.iteration / self.settings.iterations if self.settings.iterations > 0 else 0.0
        return max(by_time, by_count)

    def _learning_rate(self) -> float:
        warmup = min(1.0, (self.iteration + 1) / max(1, self.settings.warmup_iterations))
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, self._progress())))
        return self.settings.learning_rate * warmup * cosine

    def _average(self, average: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        """An exponential average over ``count`` models; a young one must not remember the random start."""
        keep = min(self.settings.ema, (1 + int(count)) / (10 + int(count)))
        return average.lerp(current, 1 - keep)

    def step(self, batch: Any) -> dict[str, float]:
        """One update; returns the parts of the loss."""
        rate = self._learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss, stats = self.loss(batch)
        if not math.isfinite(stats["loss"]):
            raise FloatingPointError(
                f"iteration {self.iteration}: the loss is {stats['loss']}; lower learning_rate or disable bf16"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self.optimizer.step()
        self.iteration += 1
        self.average.update_parameters(self.model)
        return {**stats, "grad_norm": float(norm), "lr": rate}

    def _stop(self, signum: int) -> NoReturn:
        self.save()
        done = f"{self.iteration} iterations are in {self.checkpoint_path}"
        raise Stopped(signum, f"{done}; the same command with --resume goes on")

    def train(self) -> None:
        """Trains to the end of the schedule, then exports the averaged weights.

        Raises:
            Stopped: on request, after a checkpoint was written.
        """
        check_outputs([self.checkpoint_path, self.export_path], self.inputs)
        last_checkpoint = self.seconds
        writers = [JSONWriter(str(self.output_dir / "metrics.json")), TensorboardXWriter(str(self.output_dir))]
        figures: dict[str, float] = {}
        mark = time.perf_counter()
        with EventStorage(self.iteration) as storage, Deferral() as stop:
            # Inside, so that the workers that it starts are left alone by Ctrl-C.
            batches = self.batches()
            while self._progress() < 1:
                try:
                    batch = next(batches)
                except RuntimeError:
                    # The workers may have been asked to stop, too, and did.
                    if stop.signum:
                        self._stop(stop.signum)
                    raise
                stats = self.step(batch)
                now = time.perf_counter()
                self.seconds, mark = self.seconds + now - mark, now
                storage.iter = self.iteration
                storage.put_scalars(**stats, minutes=self.seconds / 60)
                last = self._progress() >= 1
                if stop.signum and not last:
                    self._stop(stop.signum)
                due = last or self.seconds - last_checkpoint >= 60 * self.settings.checkpoint_minutes
                if due:
                    last_checkpoint = self.seconds
                    self.save()
                    figures = self.validate(whole=last)
                    # A figure of the last validation is no noise to be smoothed.
                    storage.put_scalars(**figures, smoothing_hint=False)
                if due or self.iteration % self.settings.log_every == 0:
                    for writer in writers:
                        writer.write()
                    recent = storage.latest_with_smoothing_hint(self.settings.log_every)
                    logger.info(
                        "iteration %d  %s",
                        self.iteration,
                        "  ".join(f"{name} {value:.4g}" for name, (value, _) in recent.items()),
                    )
        for writer in writers:
            writer.close()
        self.export(**{k: f"{v:.4f}" for k, v in figures.items()})
