"""Training: Detectron2's trainer, whose runs can be stopped and continued to the same weights."""

from __future__ import annotations

import json
import logging
import math
import os
import weakref
from contextlib import suppress
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import AMPTrainer, DefaultTrainer, SimpleTrainer, hooks
from detectron2.utils import comm
from detectron2.utils.events import TensorboardXWriter
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from .. import models  # noqa: F401  (registers the meta-architectures)
from ..checkpointer import SafeCheckpointer
from ..data.train_order import seed_everything
from ..stops import Stopped
from .check_test_sets import check_test_set
from .evaluate import (
    Results,
    build_evaluator,
    by_protocol,
    evaluate,
    set_vocabulary,
    training_classes,
    verify,
    warn_of_differences,
)
from .loader import TrainLoader, build_test_loader, build_train_loader
from .pictures import WatchedPictures
from .provenance import made_by
from .setup import warnings_alone_on_the_console
from .solver import build_optimizer, build_poly_schedule, check_optimizer_state

logger = logging.getLogger(__name__)

# Protocol and metric by which the best checkpoint of a run is chosen; the second where no picture has masks.
HEADLINES = (("d2_semseg", "mIoU"), ("coco_ap", "box_AP"))
BEST, FINAL = "model_best", "model_final"


class _StopsEarly(BaseException):
    """Ends Detectron2's loop; no error, which it would log."""


class _StepGuard(hooks.HookBase):
    """Around the model's forward pass in training: seeds it before, and refuses NaN or infinite losses after."""

    def before_train(self) -> None:
        model = self.trainer.model
        self._handles = [model.register_forward_pre_hook(self._seed), model.register_forward_hook(self._check)]

    def after_train(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _seed(self, model: torch.nn.Module, _: Any) -> None:
        if model.training:
            seed_everything(self.trainer.data_loader.order.seed, self.trainer.iter, comm.get_rank())

    def _check(self, model: torch.nn.Module, inputs: tuple[list[dict[str, Any]]], losses: Any) -> None:
        if model.training and not bool(torch.isfinite(torch.stack(list(losses.values())).sum())):
            raise FloatingPointError(
                f"loss became NaN or infinite at iteration {self.trainer.iter}: "
                f"{ {name: value.item() for name, value in losses.items()} }, "
                f"with the images {[record['file_name'] for record in inputs[0]]}. "
                "No weight was changed by this step; a smaller SOLVER.BASE_LR or SOLVER.CLIP_GRADIENTS may help"
            )


class _EvalHook(hooks.EvalHook):
    """Detectron2's, which also evaluates when the very last iteration failed; the other processes would hang.

    After it the training may have to stop early. Before it, and in it, it may be asked to stop: the checkpointer and
    the schedule have been called by then. Where a run is resumed behind an evaluation, this is made again, as nobody
    knows whether it was finished."""

    def before_train(self) -> None:
        start, period = self.trainer.start_iter, self._period
        if 0 < start < self.trainer.max_iter and period > 0 and start % period == 0:
            self.trainer.iter = self.trainer.storage.iter = start - 1
            self._evaluate()

    def after_step(self) -> None:
        self.trainer.follow_stop()
        done = self.trainer.iter + 1
        # The last one is after_train's.
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._evaluate()

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            with self.trainer.stop.at_once():
                super().after_train()

    def _evaluate(self) -> None:
        with self.trainer.stop.at_once():
            self._do_eval()
        if self.trainer.gets_no_better():
            self.trainer.stop_early()


class Trainer(DefaultTrainer):
    """Detectron2's trainer for part data sets, whose runs can be stopped and continued to the same weights.

    No random state outlives a sample or a step (see :func:`seed_everything`), so a checkpoint needs only
    the seed and the place in the data order, next to weights, optimizer, schedule and iteration.
    """

    iter: int

    def __init__(self, cfg: CfgNode) -> None:
        # DefaultTrainer's own constructor hands DistributedDataParallel a GPU's index even on the CPU.
        super(DefaultTrainer, self).__init__()
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        # First the data: its errors are the likeliest, and the large model takes time to build.
        data_loader = self.build_train_loader(cfg)
        # Its first use may be hours away.
        tested = {name: check_test_set(cfg, name) for name in cfg.DATASETS.TEST}
        self.data = {**data_loader.hash_data(), **tested}
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        if comm.get_world_size() > 1:
            device_ids = [torch.cuda.current_device()] if cfg.MODEL.DEVICE.startswith("cuda") else None
            model = DistributedDataParallel(model, device_ids=device_ids, broadcast_buffers=False)
        self._trainer = (AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer)(model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = SafeCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter = 0
        # The best headline score of this run so far, and how many iterations were done when it was reached.
        self.best_score, self.best_after = -math.inf, 0
        self.stopped_early = False
        # Asked of a step, and how many steps are done.
        self.stop, self.done = data_loader.stop, 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TrainLoader:
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        """The model, which knows the classes it will be trained on. Its modules are listed in log.txt."""
        with warnings_alone_on_the_console("detectron2"):
            model = super().build_model(cfg)
        if cfg.DATASETS.TRAIN:
            set_vocabulary(model, cfg.DATASETS.TRAIN[0], training_classes(cfg))
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        """Detectron2's schedules, and WarmupPolyLR."""
        if cfg.SOLVER.WARMUP_ITERS >= cfg.SOLVER.MAX_ITER:
            logger.warning(
                "SOLVER.WARMUP_ITERS is %d and SOLVER.MAX_ITER %d: the learning rate is that of a schedule's end from "
                "the first step on, and next to nothing will be learned; set SOLVER.WARMUP_ITERS %d",
                *(cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.MAX_ITER, cfg.SOLVER.MAX_ITER // 20),
            )
        if cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupPolyLR":
            return build_poly_schedule(cfg, optimizer)
        return super().build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> Any:
        return build_evaluator(cfg, dataset_name)

    @classmethod
    def test(cls, cfg: CfgNode, model: torch.nn.Module, evaluators: Any = None) -> dict[str, Any]:
        """Detectron2's: ``{protocol: {metric: value}}``, by data set if there are several in DATASETS.TEST."""
        if evaluators is not None:
            return super().test(cfg, model, evaluators)
        return by_protocol(evaluate(cfg, model))

    def build_writers(self) -> list[Any]:
        """Detectron2's; on the main process."""
        writers = super().build_writers()
        self._has_tensorboard = any(isinstance(writer, TensorboardXWriter) for writer in writers)
        return writers

    def build_hooks(self) -> list[hooks.HookBase]:
        self._has_tensorboard = False
        built = super().build_hooks()
        test, count = self.cfg.DATASETS.TEST, self.cfg.TEST.PICTURES
        # Each process sees some of the pictures of an evaluation, the main process alone has writers.
        drawn = any(comm.all_gather(self._has_tensorboard)) and count > 0 and len(test) > 0
        pictures = WatchedPictures(test[0], count) if drawn else None

        def evaluate_and_keep() -> dict[str, Any]:
            # The oracles ask the frozen SAM and never change: once, at the end, is enough.
            finished = self.iter >= self.max_iter
            results = evaluate(
                self.cfg, self.model, oracles=self.cfg.TEST.ORACLES and finished, watcher=pictures, data=self.data
            )
            self._keep_best(results)
            for name, picture in pictures.draw() if pictures is not None else ():
                self.storage.put_image(name, picture.transpose(2, 0, 1))
            self._last_eval_results = by_protocol(results)
            set_vocabulary(self.model, self.cfg.DATASETS.TRAIN[0], training_classes(self.cfg))
            return self._last_eval_results

        hook = _EvalHook(self.cfg.TEST.EVAL_PERIOD, evaluate_and_keep if self.cfg.DATASETS.TEST else dict)
        own = [hook if isinstance(h, hooks.EvalHook) else h for h in built]
        return [_StepGuard(), *own]

    def _keep_best(self, results: Results) -> None:
        """BEST.pth: the weights with the best of HEADLINES on the first of DATASETS.TEST, where there are evaluations
        on the way. All processes know its score."""
        of_set = results.get(self.cfg.DATASETS.TEST[0], {})
        score = next((of_set[name][metric] for name, metric in HEADLINES if metric in of_set.get(name, ())), -math.inf)
        score = max(comm.all_gather(score))
        if self.cfg.TEST.EVAL_PERIOD and score > self.best_score:
            self.best_score, self.best_after = score, min(self.iter + 1, self.max_iter)
            about = {**self._trained_on(), "score": score, "after": self.best_after}
            self.checkpointer.save_weights(BEST, about)

    def gets_no_better(self) -> bool:
        """Whether SOLVER.EARLY_STOPPING evaluations in a row, the last of them just now, were no better."""
        done, period = self.iter + 1, self.cfg.TEST.EVAL_PERIOD
        waits = self.cfg.SOLVER.EARLY_STOPPING * period
        evaluated = period > 0 and done % period == 0 and done < self.max_iter
        return evaluated and 0 < waits <= done - self.best_after and math.isfinite(self.best_score)

    def stop_early(self) -> None:
        """Makes the best weights the final ones, as if this had been the last iteration."""
        done = self.iter + 1
        logger.info(
            "Stopping after %d iterations: since the evaluation after %d (%.2f) none was better. Its weights become "
            "%s.pth",
            *(done, self.best_after, self.best_score, FINAL),
        )
        self.stopped_early = True
        SafeCheckpointer(self.checkpointer.model, strict=True).load(self._best_file())
        self.checkpointer.save(FINAL)
        self.iter = self.max_iter = done
        raise _StopsEarly

    def follow_stop(self) -> None:
        """Behind a step: raises Stopped in all processes if one of them was asked to stop."""
        self.done = self.iter + 1
        if comm.get_world_size() > 1:
            asked = torch.tensor(self.stop.signum, device=self.cfg.MODEL.DEVICE)
            dist.all_reduce(asked, dist.ReduceOp.MAX)
            self.stop.signum = int(asked)
        self.stop.follow()

    def _save_and_tell(self, stop: Stopped) -> Stopped:
        """Writes a checkpoint behind the last finished step; the request to stop with what to tell of it."""
        if not comm.is_main_process() or not self.done or self.iter >= self.max_iter:
            return stop
        # Not the one that is under way where workers died.
        self.iter = self.done - 1
        name = f"model_{self.iter:07d}"
        if self.checkpointer.last_saved != name:
            self.checkpointer.save(name)
        path = os.path.join(self.cfg.OUTPUT_DIR, f"{name}.pth")
        done = f"{self.iter + 1} of {self.max_iter} iterations are in {path}"
        return Stopped(stop.signum, f"{done}; the same command with --resume goes on")

    def _last_name(self) -> str:
        return os.path.basename(self.checkpointer.get_checkpoint_file())

    def _best_file(self) -> str:
        return os.path.join(self.cfg.OUTPUT_DIR, f"{BEST}.pth")

    def _trained_on(self) -> dict[str, Any]:
        """With it PartPredictor needs nothing but a checkpoint: the data set may be elsewhere."""
        class_names = list(MetadataCatalog.get(self.cfg.DATASETS.TRAIN[0]).thing_classes)
        return {"class_names": class_names, "exif": self.data_loader.exif, "made_by": made_by(self.data)}

    def train(self) -> dict[str, Any] | None:
        """Trains and evaluates; on the main process returns the last results, after TEST.EXPECTED_RESULTS.

        Raises:
            SystemExit: with code 1 when an expected result is missed.
            OSError: names the file or folder that can't be written.
            Stopped: on request, after a checkpoint was written.
        """
        with suppress(_StopsEarly), self.stop:
            try:
                if 0 < self.max_iter <= self.start_iter and self._last_name() != f"{FINAL}.pth":
                    # Killed between the last step's checkpoint and this one, which no later step would write.
                    self.checkpointer.save(FINAL)
                super(DefaultTrainer, self).train(self.start_iter, self.max_iter)
            except Stopped as stop:
                raise self._save_and_tell(stop) from None
            except OSError as error:
                # A disk that is full does not say where.
                if not error.errno or error.filename is not None:
                    raise
                raise OSError(error.errno, os.strerror(error.errno), self.cfg.OUTPUT_DIR) from error
        if not comm.is_main_process() or not self.cfg.DATASETS.TEST:
            return None
        verify(self.cfg, self._last_eval_results)
        return self._last_eval_results

    def resume_or_load(self, resume: bool = True) -> None:
        """Continues the last checkpoint of OUTPUT_DIR if asked to and there is one; else loads MODEL.WEIGHTS."""
        self.checkpointer.strict = resume and self.checkpointer.has_checkpoint()
        super().resume_or_load(resume)
        begins = comm.all_gather(self.start_iter)
        if len(set(begins)) > 1:
            raise ValueError(
                f"{self.cfg.OUTPUT_DIR}: the processes begin at the iterations {begins}, as not all see the same last "
                "checkpoint; put OUTPUT_DIR on a disk that all machines share"
            )
        if self.start_iter and os.path.isfile(self._best_file()):
            # Not of the last checkpoint, which is written before the evaluation.
            best = SafeCheckpointer.read(self._best_file())["trainer"]
            self.best_score, self.best_after = best["score"], best.get("after", self.start_iter)
        if self.stopped_early:
            logger.info("The training stopped early after %d iterations: nothing is left to train", self.start_iter)
            self.start_iter = self.max_iter
        if self.start_iter and comm.is_main_process():
            drop_metrics_from(os.path.join(self.cfg.OUTPUT_DIR, "metrics.json"), self.start_iter)

    def state_dict(self) -> dict[str, Any]:
        order = self.data_loader.order
        steps = self.iter + 1 - self.start_iter
        return {
            **super().state_dict(),
            **self._trained_on(),
            "stopped_early": self.stopped_early,
            "data_order": {
                "seed": order.seed,
                "position": order.first_position + steps * order.batch_size,
                "num_images": order.num_images,
            },
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        check_optimizer_state(state_dict["_trainer"]["optimizer"], self.optimizer, self.checkpointer.loaded)
        super().load_state_dict(state_dict)
        warn_of_differences(state_dict.get("made_by"), made_by(self.data), "This run was begun")
        self.stopped_early = state_dict.get("stopped_early", False)
        order, saved = self.data_loader.order, state_dict["data_order"]
        if saved["num_images"] != order.num_images:
            logger.warning(
                "the training set had %d images when the checkpoint was written and has %d now: "
                "this run can't end as the undisturbed one would have",
                saved["num_images"],
                order.num_images,
            )
        order.start_at(saved["seed"], saved["position"])


def drop_metrics_from(path: str, iteration: int) -> None:
    """Drops the lines of ``metrics.json`` that a resumed run will write again, and what a kill left half written.

    Lines are not in the order of their iterations: Detectron2 writes an evaluation's after later losses.
    """
    if not os.path.exists(path):
        return
    with open(path, "r+b") as file:
        lines = [*file]
        iterations = [_iteration(line) for line in lines]
        kept = [line for line, of_line in zip(lines, iterations) if of_line is not None and of_line < iteration]
        # In place: Detectron2's writer has the file open, for appending.
        file.seek(0)
        file.writelines(kept)
        file.truncate()
    if None in iterations:
        logger.warning("%s: %d lines that a kill left half written are dropped", path, iterations.count(None))


def _iteration(line: bytes) -> int | None:
    """Of a line of metrics.json; None if it is no whole one."""
    try:
        return int(json.loads(line)["iteration"]) if line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError):
        return None
