"""Before any work: command-line arguments, configuration, device, data sets, all of it checked."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..checkpointer import SafeCheckpointer, check_not_sam, remove_leftovers
from ..config import is_open_vocabulary, read_config
from ..data.sources.descriptions import known_data_sets, register_descriptions
from ..encoders import SAMEncoder, encoder_class
from ..paths import check_no_run, find_config
from ..user_errors import USER_ERRORS, did_you_mean
from .fill_in import fill_in_classes, fill_in_length

logger = logging.getLogger(__name__)

# What a run writes over, if a folder holds it.
_WRITTEN_BY_EVALUATION = ("config.yaml", "evaluation.json", "provenance.json")
_WRITTEN_BY_TRAINING = ("metrics.json", "last_checkpoint", "model_final.pth")


def setup(args: argparse.Namespace) -> CfgNode:
    """Config from file and overrides, checked; loggers, seed and data sets in place.

    All that costs little is checked before anything is written. Of what Detectron2 tells at the start of a run,
    environment and full configuration, only warnings are shown; all of it is in OUTPUT_DIR/log.txt.

    Args:
        args: of ``wps-sam train``: ``config_file``, ``opts``, ``eval_only`` and ``resume``.

    Raises:
        ValueError: names the key, its value and what the data or the machine asks for.
    """
    cfg = read_config(args.config_file, args.opts)
    check_device(cfg.MODEL.DEVICE)
    check_data_is_named(cfg, args.config_file)
    check_run(cfg, args)
    if comm.is_main_process():
        check_output_dir(cfg, args)
    register_descriptions(cfg.DATASETS.DESCRIPTIONS)
    names = cfg.DATASETS.TEST if args.eval_only else (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    fill_in_classes(cfg, names)
    check_classes(cfg, names)
    # default_setup opens Detectron2's own loggers only.
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="wps_sam")
    # In the very words of default_setup, or its own call would open another console.
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank())
    for console in _consoles("detectron2"):
        console.addFilter(_is_no_trace_of_a_user_error)
    if comm.is_main_process():
        remove_leftovers(cfg.OUTPUT_DIR)
    logger.info("%d part classes, on %s", cfg.MODEL.PROMPTER.NUM_CLASSES, cfg.MODEL.DEVICE)
    if not args.eval_only:
        fill_in_length(cfg)
    # Detectron2 opens the file once more, by its name, and knows nothing of ours.
    args.config_file = find_config(args.config_file)
    # Writes the configuration, as it is now, into the log and OUTPUT_DIR.
    with warnings_alone_on_the_console("detectron2"):
        default_setup(cfg, args)
    logger.info("Environment and configuration are in %s", Path(cfg.OUTPUT_DIR) / "log.txt")
    if not cfg.DATASETS.TEST:
        logger.warning("DATASETS.TEST is empty: nothing will be evaluated")
    cfg.freeze()
    return cfg


def _consoles(name: str) -> list[logging.Handler]:
    """Of a logger."""
    return [h for h in logging.getLogger(name).handlers if getattr(h, "stream", None) is sys.stdout]


def _is_no_trace_of_a_user_error(record: logging.LogRecord) -> bool:
    """Detectron2 logs the stack trace of all that ends a training; such errors are told in one line at the end."""
    return not (record.exc_info and isinstance(record.exc_info[1], USER_ERRORS))


@contextmanager
def warnings_alone_on_the_console(name: str) -> Iterator[None]:
    """Meanwhile a logger's lines below a warning go to its files only."""
    consoles = _consoles(name)
    for console in consoles:
        console.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for console in consoles:
            console.setLevel(logging.NOTSET)


def check_data_is_named(cfg: CfgNode, config_file: str) -> None:
    """Requires any data set at all, which configurations for data of one's own leave to the command line.

    Raises:
        ValueError: names the keys to give.
    """
    if not (cfg.DATASETS.DESCRIPTIONS or cfg.DATASETS.TRAIN or cfg.DATASETS.TEST):
        raise ValueError(
            f"{config_file} names no data set: give DATASETS.DESCRIPTIONS '[\"my_parts.yaml\"]', "
            "DATASETS.TRAIN '(\"my_parts_train\",)' and DATASETS.TEST '(\"my_parts_val\",)'"
        )


def check_run(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Requires something to do, and the files of weights.

    Raises:
        ValueError: names the key, its value and what was expected.
    """
    if args.eval_only and not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST is empty: there is nothing to evaluate on")
    if not args.eval_only and not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: there is nothing to train on")
    if not args.eval_only and cfg.SOLVER.MAX_ITER < 1:
        raise ValueError(
            f"SOLVER.MAX_ITER is {cfg.SOLVER.MAX_ITER}; expected 1 step or more (to evaluate alone: --eval-only)"
        )
    scored = bool(cfg.DATASETS.TEST) and (cfg.TEST.EVAL_PERIOD > 0 or cfg.SOLVER.MAX_EPOCHS > 0)
    if not args.eval_only and cfg.SOLVER.EARLY_STOPPING and not scored:
        raise ValueError(
            f"SOLVER.EARLY_STOPPING is {cfg.SOLVER.EARLY_STOPPING}, but nothing is evaluated on the way: set "
            "TEST.EVAL_PERIOD and DATASETS.TEST"
        )
    if cfg.MODEL.META_ARCHITECTURE == "WPSSAM":
        # Others may also be folders, or names on a hub.
        if issubclass(encoder_class(cfg), SAMEncoder) and cfg.MODEL.SAM.WEIGHTS != "shipped":
            hint = "a small SAM ships with the project: MODEL.SAM.ARCH vit_tiny MODEL.SAM.WEIGHTS shipped"
            _require_file("MODEL.SAM.WEIGHTS", cfg.MODEL.SAM.WEIGHTS, hint)
        if cfg.MODEL.PROMPTER.CLASSIFIER != "linear":
            _require_file("MODEL.TEXT.EMBEDDINGS", cfg.MODEL.TEXT.EMBEDDINGS, "wps-sam names makes it")
    continues = args.resume and (Path(cfg.OUTPUT_DIR) / "last_checkpoint").is_file()
    # Detectron2 also takes addresses.
    if not continues and cfg.MODEL.WEIGHTS and "://" not in cfg.MODEL.WEIGHTS:
        _require_file("MODEL.WEIGHTS", cfg.MODEL.WEIGHTS, "expected a checkpoint, or nothing to train from the start")
        check_not_sam(SafeCheckpointer.read(cfg.MODEL.WEIGHTS)["model"], cfg.MODEL.WEIGHTS)


def _require_file(key: str, path: str, hint: str) -> None:
    if path and not Path(path).is_file():
        raise ValueError(f"{key} {path}: the file does not exist; {hint}")


def check_output_dir(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Requires that OUTPUT_DIR is new, or of a run that goes on or has left no weights, and no training's start in it.

    Raises:
        ValueError: names the file that would be lost.
    """
    output, weights = Path(cfg.OUTPUT_DIR), Path(cfg.MODEL.WEIGHTS)
    trains = not args.eval_only and not args.resume
    if trains and weights.name.startswith("model_") and weights.parent.is_dir():
        if output.is_dir() and weights.parent.samefile(output):
            raise ValueError(
                f"{weights}: MODEL.WEIGHTS lies in OUTPUT_DIR, where training writes over it: choose another"
            )
    if trains:
        check_no_run(output)
    # Every run begins with log.txt, to which later ones add. One that is continued may have been copied without it.
    if (output / "log.txt").is_file() or (args.resume and (output / "last_checkpoint").is_file()):
        return
    written = _WRITTEN_BY_EVALUATION if args.eval_only else _WRITTEN_BY_EVALUATION + _WRITTEN_BY_TRAINING
    foreign = [name for name in written if (output / name).exists()]
    if foreign:
        raise ValueError(
            f"{output / foreign[0]}: exists, but OUTPUT_DIR is no folder of a run (it has no log.txt), and this would "
            "be overwritten: choose another"
        )


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
    registered = known_data_sets()
    by_name = is_open_vocabulary(cfg)
    classes: list[str] | None = None
    for name in dataset_names:
        if name not in registered:
            raise ValueError(
                f"DATASETS names {name!r}, which is not registered{did_you_mean(name, registered)}; known: "
                f"{', '.join(registered)}. A data set of your own needs its description in "
                "DATASETS.DESCRIPTIONS"
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
