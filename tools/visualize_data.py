#!/usr/bin/env python
"""Draws what the training loader really feeds the model: augmented pictures with their weak labels.

python tools/visualize_data.py --config-file configs/quickstart.yaml --num-images 20
python tools/visualize_data.py --config-file FILE --output DIR WEAK_LABELS.TYPE point
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from wps_sam.config import read_config
from wps_sam.data import register_descriptions
from wps_sam.engine import Trainer, check_classes
from wps_sam.outputs import write_output
from wps_sam.visualization import draw_model_input

from detectron2.data import MetadataCatalog
from PIL import Image


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: OUTPUT_DIR/data")
    parser.add_argument("--num-images", type=int, default=20)
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="config overrides")
    args = parser.parse_args(argv)

    cfg = read_config(args.config_file, args.opts)
    cfg.DATALOADER.NUM_WORKERS = 0
    # Inputs from the feature cache may come without pixels.
    cfg.MODEL.SAM.FEATURES = "live"
    register_descriptions(cfg.DATASETS.DESCRIPTIONS)
    check_classes(cfg, cfg.DATASETS.TRAIN)
    names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).thing_classes
    output = args.output or Path(cfg.OUTPUT_DIR) / "data"

    inputs = itertools.chain.from_iterable(Trainer.build_train_loader(cfg))
    for number, record in enumerate(itertools.islice(inputs, args.num_images)):
        picture = draw_model_input(record, names)
        target = output / f"{number:04d}_{Path(record['file_name']).stem}.png"
        write_output(target, partial(Image.fromarray(picture).save, format="PNG"))
        print(f"{record['file_name']}: {len(record['instances'])} parts -> {target}")


if __name__ == "__main__":
    main()
