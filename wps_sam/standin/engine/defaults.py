"""The usual way to set up, train and predict."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import weakref
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from ..checkpoint import DetectionCheckpointer
from ..config import CfgNode
from ..data import MetadataCatalog, build_detection_test_loader, build_detection_train_loader
from ..data import transforms as T
from ..evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format, verify_results
from ..modeling import build_model
from ..solver import build_lr_scheduler, build_optimizer
from ..utils import comm
from ..utils.collect_env import collect_env_info
from ..utils.env import seed_all_rng
from ..utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from ..utils.file_io import PathManager
from ..utils.logger import setup_logger
from . import hooks
from .train_loop import AMPTrainer, SimpleTrainer, TrainerBase

logger = logging.getLogger(__name__)


def create_ddp_model(model: torch.nn.Module, **kwargs: Any) -> torch.nn.Module:
    """Wraps for several processes; ``kwargs`` go to ``DistributedDataParallel``."""
    if comm.get_world_size() == 1:
        return model
    if next(model.parameters()).is_cuda:
        kwargs.setdefault("device_ids", [comm.get_local_rank()])
    return DistributedDataParallel(model, **kwargs)


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """The arguments of a training script."""
    parser = argparse.ArgumentParser(epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="path to config file")
    add("--resume", action="store_true", help="continue the last checkpoint of OUTPUT_DIR")
    add("--eval-only", action="store_true", help="perform evaluation only")
    add("--num-gpus", type=int, default=1, help="number of gpus *per machine*")
    add("--num-machines", type=int, default=1, help="total number of machines")
    add("--machine-rank", type=int, default=0, help="the rank of this machine (unique per machine)")
    # The same for every run of one user, so that the machines of one run agree without being told.
    port = 2**15 + 2**14 + hash(os.getuid() if sys.platform != "win32" else 1) % 2**14
    add("--dist-url", default=f"tcp://127.0.0.1:{port}", help="where the processes of a run meet")
    opts_help = "KEY VALUE pairs at the end of the command, which override the config file"
    add("opts", nargs=argparse.REMAINDER, help=opts_help)
    return parser


def default_setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Opens the logs, logs environment, arguments and config, saves OUTPUT_DIR/config.yaml, and seeds."""
    rank = comm.get_rank()
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name="fvcore")
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank)
    logger.info("Rank of current process: %d. World size: %d", rank, comm.get_world_size())
    logger.info("Environment info:\n%s", collect_env_info())
    logger.info("Command line arguments: %s", args)
    logger.info("Running with full config:\n%s", cfg.dump())
    if comm.is_main_process():
        with PathManager.open(os.path.join(cfg.OUTPUT_DIR, "config.yaml"), "w") as f:
            f.write(cfg.dump())
    # Every process draws its own augmentations.
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    # Test images come in many sizes, each of which would be timed anew.
    if not getattr(args, "eval_only", False):
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    if cfg.FLOAT32_PRECISION:
        torch.set_float32_matmul_precision(cfg.FLOAT32_PRECISION)


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """Console, ``output_dir``/metrics.json and TensorBoard."""
    PathManager.mkdirs(output_dir)
    json_writer = JSONWriter(os.path.join(output_dir, "metrics.json"))
    return [CommonMetricPrinter(max_iter), json_writer, TensorboardXWriter(output_dir)]


class DefaultPredictor:
    """A model with its weights, for one image at a time.

    Images are uint8 [H, W, 3] in BGR; they are resized as INPUT.*_TEST says and brought to INPUT.FORMAT.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg.clone()
        self.model = build_model(self.cfg)
        self.model.eval()
        if cfg.DATASETS.TEST:
            self.metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
        DetectionCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        self.aug = T.ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)
        self.input_format = cfg.INPUT.FORMAT

    @torch.no_grad()
    def __call__(self, original_image: np.ndarray) -> dict[str, Any]:
        """Returns the model's output for one image."""
        if self.input_format == "RGB":
            original_image = original_image[:, :, ::-1]
        height, width = original_image.shape[:2]
        image = self.aug.get_transform(original_image).apply_image(original_image)
        tensor = torch.as_tensor(image.astype("float32").transpose(2, 0, 1)).to(self.cfg.MODEL.DEVICE)
        return self.model([{"image": tensor, "height": height, "width": width}])[0]


class DefaultTrainer(TrainerBase):
    """Trains the model of a config with its optimiser, schedule, loader, hooks and checkpoints.

    Subclasses replace the ``build_*`` methods.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        model = create_ddp_model(model, broadcast_buffers=False)
        self._trainer = (AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer)(model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = DetectionCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    model = property(lambda self: self._trainer.model)
    optimizer = property(lambda self: self._trainer.optimizer)
    data_loader = property(lambda self: self._trainer.data_loader)

    def resume_or_load(self, resume: bool = True) -> None:
        """Continues OUTPUT_DIR's last checkpoint if asked to and there is one; else loads MODEL.WEIGHTS."""
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            # The checkpoint was written after that iteration.
            self.start_iter = self.iter + 1

    def build_hooks(self) -> list[hooks.HookBase]:
        """Timer, schedule, checkpoints, evaluation, writers."""

        def test() -> dict[str, Any]:
            self._last_eval_results = self.test(self.cfg, self.model)
            return self._last_eval_results

        built: list[hooks.HookBase] = [hooks.IterationTimer(), hooks.LRScheduler()]
        # Before the evaluation, so that one that fails does not cost the checkpoint.
        if comm.is_main_process():
            built.append(hooks.PeriodicCheckpointer(self.checkpointer, self.cfg.SOLVER.CHECKPOINT_PERIOD))
        built.append(hooks.EvalHook(self.cfg.TEST.EVAL_PERIOD, test))
        # Last, to write what the others put.
        if comm.is_main_process():
            built.append(hooks.PeriodicWriter(self.build_writers(), period=20))
        return built

    def build_writers(self) -> list[EventWriter]:
        """``default_writers``."""
        return default_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def train(self) -> Any:  # type: ignore[override]
        """Trains; returns the last results on the main process, after checking TEST.EXPECTED_RESULTS."""
        super().train(self.start_iter, self.max_iter)
        if self.cfg.TEST.EXPECTED_RESULTS and comm.is_main_process():
            verify_results(self.cfg, self._last_eval_results)
            return self._last_eval_results

    def run_step(self) -> None:
        self._trainer.iter = self.iter
        self._trainer.run_step()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        """The model of the config."""
        model = build_model(cfg)
        logger.info("Model:\n%s", model)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        """``detectron2.solver.build_optimizer``."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        """``detectron2.solver.build_lr_scheduler``."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """``detectron2.data.build_detection_train_loader``; a subclass gives the mapper."""
        return build_detection_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """``detectron2.data.build_detection_test_loader``; a subclass gives the mapper."""
        return build_detection_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """A subclass has to say how a data set is evaluated."""
        raise NotImplementedError(f"{cls.__name__}.build_evaluator: no evaluator for {dataset_name}")

    @classmethod
    def test(
        cls, cfg: CfgNode, model: torch.nn.Module, evaluators: list[DatasetEvaluator] | None = None
    ) -> dict[str, Any]:
        """Evaluates on DATASETS.TEST: ``{task: {metric: value}}``, by data set where there are several."""
        results: dict[str, Any] = {}
        for i, name in enumerate(cfg.DATASETS.TEST):
            data_loader = cls.build_test_loader(cfg, name)
            evaluator = evaluators[i] if evaluators is not None else cls.build_evaluator(cfg, name)
            results[name] = inference_on_dataset(model, data_loader, evaluator)
            if comm.is_main_process():
                logger.info("Evaluation results for %s in csv format:", name)
                print_csv_format(results[name])
        return next(iter(results.values())) if len(results) == 1 else results

    @staticmethod
    def auto_scale_workers(cfg: CfgNode, num_workers: int) -> CfgNode:
        """With SOLVER.REFERENCE_WORLD_SIZE, scales batch, learning rate and lengths to the processes there are.

        Batch and rate grow with the number of processes; all numbers of iterations shrink.
        """
        reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
        if reference in (0, num_workers):
            return cfg
        frozen, cfg = cfg.is_frozen(), cfg.clone()
        cfg.defrost()
        scale = num_workers / reference
        cfg.SOLVER.IMS_PER_BATCH = round(cfg.SOLVER.IMS_PER_BATCH * scale)
        cfg.SOLVER.BASE_LR *= scale
        for key in ("MAX_ITER", "WARMUP_ITERS", "CHECKPOINT_PERIOD"):
            cfg.SOLVER[key] = round(cfg.SOLVER[key] / scale)
        cfg.TEST.EVAL_PERIOD = round(cfg.TEST.EVAL_PERIOD / scale)
        cfg.SOLVER.STEPS = tuple(round(step / scale) for step in cfg.SOLVER.STEPS)
        cfg.SOLVER.REFERENCE_WORLD_SIZE = num_workers
        if frozen:
            cfg.freeze()
        return cfg
