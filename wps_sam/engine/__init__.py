"""Training and evaluation: from command-line arguments to metrics.json, evaluation.json and checkpoints."""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.engine import (
    AMPTrainer,
    DefaultTrainer,
    SimpleTrainer,
    default_argument_parser,
    default_setup,
    hooks,
)
from detectron2.engine import launch as launch_gpus
from detectron2.evaluation import inference_on_dataset, print_csv_format, verify_results
from detectron2.solver import LRMultiplier, WarmupParamScheduler, get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from fvcore.common.param_scheduler import ParamScheduler, PolynomialDecayParamScheduler
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from .. import models  # noqa: F401  (registers WPSSAM)
from .features import open_features
from ..checkpointer import SafeCheckpointer, write_atomically
from ..config import is_open_vocabulary, read_config
from ..data.mapper import PartDatasetMapper
from ..data.sources.descriptions import register_descriptions
from ..data.feature_store import FeatureReaders
from ..data.sources.coco import check_part_maps_once
from ..data.part_mask_mapper import PartMaskMapper
from ..data.train_order import TrainOrder, seed_everything
from ..evaluation import (
    BoxPromptOracle,
    FilledBoxOracle,
    GroundTruth,
    build_evaluators,
    format_results_table,
    oracle_scores,
    unseen_classes,
)
from ..structures import vocabulary_of

logger = logging.getLogger(__name__)

# {data set: {protocol: {metric: percent}}}
Results = dict[str, dict[str, dict[str, float]]]

OPTIMIZERS = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}


# ------------------------------------------------------------------ set-up


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's arguments, and ``--num-processes`` for machines without GPU."""
    parser = default_argument_parser()
    parser.add_argument(
        "--num-processes",
        type=int,
        default=0,
        help="processes *per machine* on the CPU (gloo); needs MODEL.DEVICE cpu. For GPUs use --num-gpus.",
    )
    return parser


def setup(args: argparse.Namespace) -> CfgNode:
    """Config from file and overrides, checked; loggers, seed and data sets in place.

    Raises:
        ValueError: names the key, its value and what the data or the machine asks for.
    """
    cfg = read_config(args.config_file, args.opts)
    check_device(cfg.MODEL.DEVICE)
    # default_setup opens Detectron2's own loggers only.
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="wps_sam")
    default_setup(cfg, args)
    register_descriptions(cfg.DATASETS.DESCRIPTIONS)
    check_classes(cfg, cfg.DATASETS.TEST if args.eval_only else (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    cfg.freeze()
    return cfg


def check_device(device: str) -> None:
    """Requires the device of MODEL.DEVICE, and processes that were started for it.

    Raises:
        ValueError: says what to set.
    """
    on_gpu = device.startswith("cuda")
    if on_gpu and not torch.cuda.is_available():
        raise ValueError(f"MODEL.DEVICE is {device!r}, but torch finds no CUDA device: add MODEL.DEVICE cpu")
    if comm.get_world_size() > 1 and on_gpu != (dist.get_backend() == "nccl"):
        expected = "--num-gpus" if on_gpu else "--num-processes"
        raise ValueError(f"MODEL.DEVICE is {device!r}: ask for its processes with {expected}")


def check_classes(cfg: CfgNode, dataset_names: tuple[str, ...]) -> None:
    """Requires one list of classes in all data sets, as long as the model's.

    A model that takes its classes by name may be tested on others than it is trained on; then only the training
    sets have to agree.

    Raises:
        ValueError: names the data set, and the number to set or the first class that differs.
    """
    registered = DatasetCatalog.list()
    by_name = is_open_vocabulary(cfg)
    classes: list[str] | None = None
    for name in dataset_names:
        if name not in registered:
            raise ValueError(
                f"DATASETS names {name!r}, which is not registered; known: {', '.join(sorted(registered))}. "
                "A data set of your own needs its description in DATASETS.DESCRIPTIONS"
            )
        own = list(MetadataCatalog.get(name).thing_classes)
        if by_name:
            if name not in cfg.DATASETS.TRAIN:
                continue
        elif len(own) != cfg.MODEL.PROMPTER.NUM_CLASSES:
            raise ValueError(
                f"MODEL.PROMPTER.NUM_CLASSES is {cfg.MODEL.PROMPTER.NUM_CLASSES}, but data set {name} has "
                f"{len(own)} part classes: set MODEL.PROMPTER.NUM_CLASSES {len(own)}"
            )
        classes = classes or own
        if own != classes:
            i = next(i for i, pair in enumerate(zip(own, classes)) if pair[0] != pair[1])
            raise ValueError(
                f"data sets {dataset_names[0]} and {name} name their classes differently: "
                f"class {i} is {classes[i]!r} in the first and {own[i]!r} in the second"
            )


MAPPERS = {"weak_labels": PartDatasetMapper, "part_masks": PartMaskMapper}


def build_mapper(
    cfg: CfgNode, dataset_name: str, is_train: bool, features: FeatureReaders | None = None
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """INPUT.DATASET_MAPPER_NAME: what turns a record of a data set into a model input.

    ``features``, of :func:`open_features`, are for the mapper "weak_labels" only, as check_config has made sure.
    """
    more = {} if features is None else {"features": features}
    return MAPPERS[cfg.INPUT.DATASET_MAPPER_NAME](cfg, is_train, dataset_name, **more)


def open_test_features(cfg: CfgNode, dataset_name: str) -> FeatureReaders | None:
    """The feature cache of a data set to evaluate on; None with MODEL.SAM.FEATURES live.

    Raises:
        ValueError: see :func:`open_features`.
    """
    if cfg.MODEL.SAM.FEATURES == "live":
        return None
    return open_features(cfg, {dataset_name: DatasetCatalog.get(dataset_name)}, is_train=False)


def check_num_queries(cfg: CfgNode, records: list[dict[str, Any]]) -> None:
    """Requires a query for every part of every training image; only DETRPrompter has a fixed number of them.

    Raises:
        ValueError: names the image with the most parts, and their number.
    """
    learns_prompts = cfg.INPUT.DATASET_MAPPER_NAME == "weak_labels"
    if not learns_prompts or cfg.MODEL.PROMPTER.NAME != "DETRPrompter" or not records:
        return
    fullest = max(records, key=_num_parts)
    if _num_parts(fullest) > cfg.MODEL.PROMPTER.NUM_QUERIES:
        raise ValueError(
            f"MODEL.PROMPTER.NUM_QUERIES is {cfg.MODEL.PROMPTER.NUM_QUERIES}, but {fullest['file_name']} has "
            f"{_num_parts(fullest)} parts: set MODEL.PROMPTER.NUM_QUERIES {_num_parts(fullest)} or more"
        )


def _num_parts(record: dict[str, Any]) -> int:
    """Annotations that training uses: a crowd region is no single part."""
    return sum(not annotation.get("iscrowd", 0) for annotation in record["annotations"])


# ------------------------------------------------------------------ processes


def launch(main: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> None:
    """Runs ``main(args)`` in this process, or in one process for each GPU, or in ``--num-processes`` on the CPU.

    Detectron2's own launch takes NCCL wherever it sees a GPU (always, in version 0.6), so that
    processes on the CPU are started here.
    """
    if not args.num_processes:
        launch_gpus(main, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, (args,))
        return
    world_size = args.num_machines * args.num_processes
    if world_size == 1:
        main(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        # On one machine a file is a safer meeting point than a port, which another run may hold.
        meeting_point = args.dist_url if args.num_machines > 1 else f"file://{folder}/meeting_point"
        torch.multiprocessing.spawn(
            _run_on_cpu, nprocs=args.num_processes, args=(main, args, world_size, meeting_point)
        )


def _run_on_cpu(
    local_rank: int,
    main: Callable[[argparse.Namespace], Any],
    args: argparse.Namespace,
    world_size: int,
    url: str,
) -> None:
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // args.num_processes))
    rank = args.machine_rank * args.num_processes + local_rank
    dist.init_process_group("gloo", init_method=url, world_size=world_size, rank=rank)
    main(args)
    dist.destroy_process_group()


# ------------------------------------------------------------------ training


class _TrainLoader:
    """A data loader whose worker processes start with the first batch, not with the iterator.

    Detectron2 0.6 takes the iterator before a checkpoint is loaded, too early to enter the order elsewhere.
    """

    def __init__(self, loader: DataLoader, order: TrainOrder) -> None:
        self.loader = loader
        self.order = order

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        yield from self.loader


class _StepGuard(hooks.HookBase):
    """Around the model's forward pass in training: seeds it before, and refuses NaN or infinite losses after."""

    def before_train(self) -> None:
        model = self.trainer.model
        self._handles = [
            model.register_forward_pre_hook(self._seed),
            model.register_forward_hook(self._check),
        ]

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
    """Detectron2's, which also evaluates when the very last iteration failed; the other processes would hang."""

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()


class Trainer(DefaultTrainer):
    """Detectron2's trainer for part data sets, whose runs can be stopped and continued to the same weights.

    No random state outlives a sample or a step (see :func:`seed_everything`), so a checkpoint needs only
    the seed and the place in the data order, next to weights, optimizer, schedule and iteration.
    """

    def __init__(self, cfg: CfgNode) -> None:
        # DefaultTrainer's own constructor hands DistributedDataParallel a GPU's index even on the CPU.
        super(DefaultTrainer, self).__init__()
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        # First the data: its errors are the likeliest, and the large model takes time to build.
        data_loader = self.build_train_loader(cfg)
        for name in cfg.DATASETS.TEST:
            # Its first use may be hours away.
            open_test_features(cfg, name)
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        if comm.get_world_size() > 1:
            device_ids = [torch.cuda.current_device()] if cfg.MODEL.DEVICE.startswith("cuda") else None
            model = DistributedDataParallel(model, device_ids=device_ids, broadcast_buffers=False)
        self._trainer = (AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer)(
            model, data_loader, optimizer
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = SafeCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> _TrainLoader:
        """Batches of mapped records of DATASETS.TRAIN without the images that have no annotation."""
        if not cfg.DATASETS.TRAIN:
            raise ValueError("DATASETS.TRAIN is empty; expected the names of the data sets to train on")
        by_name = {n: get_detection_dataset_dicts(n, filter_empty=False) for n in cfg.DATASETS.TRAIN}
        records = [record for name in cfg.DATASETS.TRAIN for record in by_name[name]]
        # Loaders of data sets whose labels are maps have left the empty ones out already.
        kept = [r for r in records if "annotations" not in r or _num_parts(r)]
        logger.info(
            "%s: %d images, of which %d without annotations are left out of training",
            ", ".join(cfg.DATASETS.TRAIN),
            len(records),
            len(records) - len(kept),
        )
        check_num_queries(cfg, kept)
        features = open_features(cfg, by_name, is_train=True) if cfg.MODEL.SAM.FEATURES == "cache" else None
        order = TrainOrder(
            kept,
            build_mapper(cfg, cfg.DATASETS.TRAIN[0], is_train=True, features=features),
            seed=cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed(),
            batch_size=cfg.SOLVER.IMS_PER_BATCH,
        )
        loader = build_detection_train_loader(
            order,
            mapper=None,
            total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
            aspect_ratio_grouping=False,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )
        return _TrainLoader(loader, order)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
        if MetadataCatalog.get(dataset_name).evaluator_type == "part_seg":
            check_part_maps_once(dataset_name)
        features = open_test_features(cfg, dataset_name)
        mapper = build_mapper(cfg, dataset_name, is_train=False, features=features)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        """The model, which knows the classes it will be trained on."""
        model = super().build_model(cfg)
        if cfg.DATASETS.TRAIN:
            set_vocabulary(model, cfg.DATASETS.TRAIN[0], cfg)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        """SOLVER.OPTIMIZER on the parameters that are trained, with Detectron2's weight decay and clipping keys.

        Raises:
            ValueError: nothing of the model is trained, as of CLIPSeg with an empty MODEL.CLIPSEG.TRAIN.
        """
        if not any(p.requires_grad for p in model.parameters()):
            raise ValueError(f"nothing of {type(model).__name__} is trained by this config: evaluate it, --eval-only")
        params = get_default_optimizer_params(
            model,
            base_lr=cfg.SOLVER.BASE_LR,
            weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
            bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
            weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        )
        if cfg.SOLVER.WEIGHT_DECAY_EMBED is not None:
            params = set_embedding_decay(params, model, cfg.SOLVER.WEIGHT_DECAY_EMBED)
        kind, clip = OPTIMIZERS[cfg.SOLVER.OPTIMIZER], cfg.SOLVER.CLIP_GRADIENTS
        whole_model = clip.ENABLED and clip.CLIP_TYPE == "full_model"
        clipped = clip_full_model(kind, clip.CLIP_VALUE) if whole_model else maybe_add_gradient_clipping(cfg, kind)
        return clipped(params, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        """Detectron2's schedules, and WarmupPolyLR."""
        if cfg.SOLVER.LR_SCHEDULER_NAME != "WarmupPolyLR":
            return super().build_lr_scheduler(cfg, optimizer)
        schedule: ParamScheduler = PolynomialDecayParamScheduler(1.0, cfg.SOLVER.POLY_LR_POWER)
        if cfg.SOLVER.WARMUP_ITERS:
            length = min(cfg.SOLVER.WARMUP_ITERS / cfg.SOLVER.MAX_ITER, 1.0)
            schedule = WarmupParamScheduler(
                schedule, cfg.SOLVER.WARMUP_FACTOR, length, cfg.SOLVER.WARMUP_METHOD
            )
        return LRMultiplier(optimizer, schedule, cfg.SOLVER.MAX_ITER)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """All of TEST.PROTOCOLS at once."""
        return build_evaluators(
            cfg.TEST.PROTOCOLS,
            dataset_name,
            # As in Detectron2, and a folder for each data set: their files have the same names.
            output_dir=os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name),
            wps_authors_null=cfg.TEST.WPS_AUTHORS_NULL,
            ov_compat=cfg.TEST.OV_COMPAT,
            object_predictions=cfg.TEST.OBJECT_PREDICTIONS,
            training_family=_family(cfg.DATASETS.TRAIN[0]) if cfg.DATASETS.TRAIN else None,
        )

    @classmethod
    def test(cls, cfg: CfgNode, model: torch.nn.Module, evaluators: Any = None) -> dict[str, Any]:
        """Detectron2's: ``{protocol: {metric: value}}``, by data set if there are several in DATASETS.TEST."""
        if evaluators is not None:
            return super().test(cfg, model, evaluators)
        return by_protocol(evaluate(cfg, model))

    def build_hooks(self) -> list[hooks.HookBase]:
        def evaluate_and_keep() -> dict[str, Any]:
            # The oracles ask the frozen SAM and never change: once, at the end, is enough.
            finished = self.iter >= self.max_iter
            self._last_eval_results = by_protocol(
                evaluate(self.cfg, self.model, oracles=self.cfg.TEST.ORACLES and finished)
            )
            set_vocabulary(self.model, self.cfg.DATASETS.TRAIN[0], self.cfg)
            return self._last_eval_results

        hook = _EvalHook(self.cfg.TEST.EVAL_PERIOD, evaluate_and_keep if self.cfg.DATASETS.TEST else dict)
        own = [hook if isinstance(h, hooks.EvalHook) else h for h in super().build_hooks()]
        return [_StepGuard(), *own]

    def train(self) -> dict[str, Any] | None:
        """Trains and evaluates; on the main process returns the last results, after TEST.EXPECTED_RESULTS.

        Raises:
            SystemExit: with code 1 when an expected result is missed.
        """
        super(DefaultTrainer, self).train(self.start_iter, self.max_iter)
        if not comm.is_main_process() or not self.cfg.DATASETS.TEST:
            return None
        verify(self.cfg, self._last_eval_results)
        return self._last_eval_results

    def resume_or_load(self, resume: bool = True) -> None:
        """Continues the last checkpoint of OUTPUT_DIR if asked to and there is one; else loads MODEL.WEIGHTS."""
        self.checkpointer.strict = resume and self.checkpointer.has_checkpoint()
        super().resume_or_load(resume)
        if self.start_iter and comm.is_main_process():
            drop_metrics_from(os.path.join(self.cfg.OUTPUT_DIR, "metrics.json"), self.start_iter)

    def state_dict(self) -> dict[str, Any]:
        order = self.data_loader.order
        steps = self.iter + 1 - self.start_iter
        return {
            **super().state_dict(),
            # With them PartPredictor needs nothing but the checkpoint: the data set may be elsewhere.
            "class_names": list(MetadataCatalog.get(self.cfg.DATASETS.TRAIN[0]).thing_classes),
            "data_order": {
                "seed": order.seed,
                "position": order.first_position + steps * order.batch_size,
                "num_images": order.num_images,
            },
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        order, saved = self.data_loader.order, state_dict["data_order"]
        if saved["num_images"] != order.num_images:
            logger.warning(
                "the training set had %d images when the checkpoint was written and has %d now: "
                "this run can't end as the undisturbed one would have",
                saved["num_images"],
                order.num_images,
            )
        order.start_at(saved["seed"], saved["position"])


def set_embedding_decay(
    groups: list[dict[str, Any]], model: torch.nn.Module, weight_decay: float
) -> list[dict[str, Any]]:
    """Optimizer groups in which the weights of nn.Embedding have a group, and a weight decay, of their own."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    split = []
    for group in groups:
        for chosen in (False, True):
            members = [p for p in group["params"] if (id(p) in embeddings) == chosen]
            if members:
                split.append(
                    {**group, "params": members, **({"weight_decay": weight_decay} if chosen else {})}
                )
    return split


def clip_full_model(kind: type[torch.optim.Optimizer], max_norm: float) -> Callable[..., torch.optim.Optimizer]:
    """A subclass of an optimizer whose step first scales all gradients together to at most ``max_norm``.

    Detectron2's own clipping looks at one tensor at a time.
    """

    class FullModelClipping(kind):  # type: ignore[valid-type, misc]
        def step(self, closure: Any = None) -> Any:
            parameters = [p for group in self.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, max_norm)
            return super().step(closure)

    return FullModelClipping


def drop_metrics_from(path: str, iteration: int) -> None:
    """Drops the lines of ``metrics.json`` that a resumed run will write again, and a half-written last line.

    Lines are not in the order of their iterations: Detectron2 writes an evaluation's after later losses.
    """
    if not os.path.exists(path):
        return
    with open(path, "r+b") as file:
        kept = [line for line in file if line.endswith(b"\n") and json.loads(line)["iteration"] < iteration]
        # In place: Detectron2's writer has the file open, for appending.
        file.seek(0)
        file.writelines(kept)
        file.truncate()


# ------------------------------------------------------------------ evaluation


def evaluate(cfg: CfgNode, model: torch.nn.Module, oracles: bool | None = None) -> Results:
    """Scores ``model`` on every data set of DATASETS.TEST with every protocol of TEST.PROTOCOLS.

    The main process prints Detectron2's lines for copying and a table for reading, and writes
    ``OUTPUT_DIR/evaluation.json``, where a value that is not a number is null.

    Args:
        cfg: as from :func:`setup`.
        model: a WPSSAM, also inside DistributedDataParallel.
        oracles: also score the ceiling and the floor, as protocols ``oracle_box_prompt`` and
            ``oracle_filled_box``; None takes TEST.ORACLES.

    Returns:
        On the main process {data set: {protocol: {metric: percent}}}, elsewhere {}.
    """
    results: Results = {}
    for name in cfg.DATASETS.TEST:
        set_vocabulary(model, name, cfg)
        loader = Trainer.build_test_loader(cfg, name)
        scores = inference_on_dataset(model, loader, Trainer.build_evaluator(cfg, name))
        # The oracles need annotated boxes, which sets whose labels are maps alone do not have.
        has_boxes = MetadataCatalog.get(name).evaluator_type == "part_seg"
        if has_boxes and (cfg.TEST.ORACLES if oracles is None else oracles):
            scores.update(evaluate_oracles(model, loader, name))
        if comm.is_main_process():
            results[name] = scores
            logger.info("Results on %s, for copying:", name)
            print_csv_format(scores)
    if comm.is_main_process():
        text = json.dumps(_without_nan(results), indent=1)
        write_atomically(
            os.path.join(cfg.OUTPUT_DIR, "evaluation.json"), lambda file: file.write(text.encode())
        )
        for name, scores in results.items():
            metadata = MetadataCatalog.get(name)
            table = format_results_table(scores, metadata.thing_classes, unseen_classes(metadata))
            logger.info("Results on %s:\n%s", name, table)
    return results


def evaluate_oracles(
    model: torch.nn.Module, loader: DataLoader, dataset_name: str
) -> dict[str, dict[str, float]]:
    """What ``model``'s SAM makes of the true boxes, and what the boxes are worth when just filled in.

    Returns:
        {"oracle_box_prompt": {metric: percent}, "oracle_filled_box": ...} on the main process, else {}.
    """
    truth = GroundTruth(dataset_name)
    oracles = {
        "oracle_box_prompt": BoxPromptOracle(truth, _unwrapped(model).prompt_boxes),
        "oracle_filled_box": FilledBoxOracle(truth),
    }
    rows = {}
    for name, oracle in oracles.items():
        logger.info("Evaluating %s on %s", name, dataset_name)
        evaluators = build_evaluators(["d2_semseg", "wps_image_part"], dataset_name)
        scores = inference_on_dataset(oracle, loader, evaluators)
        if comm.is_main_process():
            rows[name] = oracle_scores(scores)
    return rows


def evaluate_only(cfg: CfgNode, resume: bool = False) -> Results:
    """Scores MODEL.WEIGHTS, or with ``resume`` the last checkpoint of OUTPUT_DIR; returns as :func:`evaluate`.

    Raises:
        SystemExit: with code 1 when one of TEST.EXPECTED_RESULTS is missed.
    """
    model = Trainer.build_model(cfg)
    checkpointer = SafeCheckpointer(model, cfg.OUTPUT_DIR, strict=True)
    has_weights = cfg.MODEL.WEIGHTS or (resume and checkpointer.has_checkpoint())
    # A model of which nothing is trained, such as CLIPSeg as downloaded, needs none.
    if not has_weights and any(p.requires_grad for p in model.parameters()):
        logger.warning("MODEL.WEIGHTS is empty: these are the scores of a model that learned nothing")
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    results = evaluate(cfg, model)
    if comm.is_main_process():
        verify(cfg, by_protocol(results))
    return results


def set_vocabulary(model: torch.nn.Module, dataset_name: str, cfg: CfgNode) -> None:
    """Tells the model the classes of a data set, and which of them DATASETS.TRAIN shows.

    A model of somebody else's may have no use for them.
    """
    inner = _unwrapped(model)
    if hasattr(inner, "set_vocabulary"):
        vocabulary = vocabulary_of(MetadataCatalog.get(dataset_name))
        if cfg.DATASETS.TRAIN:
            vocabulary = vocabulary.after_training_on(MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).thing_classes)
        inner.set_vocabulary(vocabulary)


def _family(dataset_name: str) -> str | None:
    return MetadataCatalog.get(dataset_name).get("family")


def _unwrapped(model: torch.nn.Module) -> Any:
    return model.module if isinstance(model, DistributedDataParallel) else model


def by_protocol(results: Results) -> dict[str, Any]:
    """Detectron2's shape: the level of data sets only where there are several."""
    return next(iter(results.values())) if len(results) == 1 else results


def verify(cfg: CfgNode, results: Mapping[str, Any]) -> None:
    """Checks TEST.EXPECTED_RESULTS, whose protocols read ``data set/protocol`` where there are several data sets.

    Raises:
        ValueError: an expected protocol was not evaluated.
        SystemExit: with code 1 when a result is missed.
    """
    if len(cfg.DATASETS.TEST) > 1:
        results = {f"{name}/{protocol}": v for name, one in results.items() for protocol, v in one.items()}
    for protocol, *_ in cfg.TEST.EXPECTED_RESULTS:
        if protocol not in results:
            raise ValueError(f"TEST.EXPECTED_RESULTS names {protocol!r}; evaluated: {', '.join(results)}")
    verify_results(cfg, results)


def _without_nan(value: Any) -> Any:
    """The same tree with None for NaN and infinity, which JSON has no words for."""
    if isinstance(value, Mapping):
        return {key: _without_nan(v) for key, v in value.items()}
    return value if math.isfinite(value) else None
