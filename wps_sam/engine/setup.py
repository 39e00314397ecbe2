"""Before any work: command-line arguments, configuration, device, data sets, all of it checked."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..config import is_open_vocabulary, read_config
from ..data.sources.descriptions import register_descriptions
from .fill_in import fill_in_classes, fill_in_length

logger = logging.getLogger(__name__)

# What a run writes over, if a folder holds it.
_WRITTEN_BY_EVALUATION = ("config.yaml", "evaluation.json")
_WRITTEN_BY_TRAINING = ("metrics.json", "last_checkpoint", "model_final.pth")


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
    if comm.is_main_process():
        check_output_dir(cfg, args)
    # default_setup opens Detectron2's own loggers only.
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="wps_sam")
    register_descriptions(cfg.DATASETS.DESCRIPTIONS)
    names = cfg.DATASETS.TEST if args.eval_only else (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    fill_in_classes(cfg, names)
    check_classes(cfg, names)
    if not args.eval_only:
        fill_in_length(cfg)
    # Writes the configuration, as it is now, into the log and OUTPUT_DIR.
    default_setup(cfg, args)
    logger.info("on %s", cfg.MODEL.DEVICE)
    cfg.freeze()
    return cfg


def check_output_dir(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Requires that OUTPUT_DIR is new, or that of a run that is not finished, and no training's start in its way.

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
    # Every run begins with log.txt, to which later ones add. One that is continued may have been copied without it.
    if (output / "log.txt").is_file() or (args.resume and (output / "last_checkpoint").is_file()):
        if trains and (output / "model_final.pth").is_file():
            raise ValueError(
                f"{output}: OUTPUT_DIR holds a finished run, which would be written over: choose another, such as "
                f"OUTPUT_DIR {output}_2, or look at it again with --eval-only"
            )
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
