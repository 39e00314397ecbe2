"""Draws what the training loader really feeds the model: augmented pictures with their weak labels.

wps-sam view --config-file configs/quickstart.yaml --num-images 20
wps-sam view --config-file FILE --output DIR WEAK_LABELS.TYPE point
"""

from __future__ import annotations

import argparse
from pathlib import Path

from . import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_config(parser)
    parser.add_argument("--output", type=Path, metavar="DIR", help="where the drawings go; default: OUTPUT_DIR/data")
    parser.add_argument("--num-images", type=int, default=20, metavar="N", help="how many are drawn (default: 20)")


def run(args: argparse.Namespace) -> int:
    import itertools
    from functools import partial

    from detectron2.data import MetadataCatalog
    from PIL import Image

    from ..config import read_config
    from ..data import register_descriptions
    from ..engine import Trainer, check_classes
    from ..engine.fill_in import fill_in_classes
    from ..engine.setup import check_data_is_named
    from ..outputs import write_output
    from ..visualization import draw_model_input

    cfg = read_config(args.config_file, args.opts)
    check_data_is_named(cfg, args.config_file)
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: there is nothing to draw")
    cfg.DATALOADER.NUM_WORKERS = 0
    # Inputs from the feature cache may come without pixels.
    cfg.MODEL.SAM.FEATURES = "live"
    register_descriptions(cfg.DATASETS.DESCRIPTIONS)
    fill_in_classes(cfg, cfg.DATASETS.TRAIN)
    check_classes(cfg, cfg.DATASETS.TRAIN)
    names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).thing_classes
    output = args.output or Path(cfg.OUTPUT_DIR) / "data"

    inputs = itertools.chain.from_iterable(Trainer.build_train_loader(cfg))
    for number, record in enumerate(itertools.islice(inputs, args.num_images)):
        picture = draw_model_input(record, names)
        target = output / f"{number:04d}_{Path(record['file_name']).stem}.png"
        write_output(target, partial(Image.fromarray(picture).save, format="PNG"))
        print(f"{record['file_name']}: {len(record['instances'])} parts -> {target}")
    return 0
