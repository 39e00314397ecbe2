"""Draws picture, ground truth and prediction side by side, for pictures spread over the test set.

    wps-sam compare --config-file configs/quickstart.yaml
    wps-sam compare --config-file FILE --weights output/model_final.pth --num-images 50

Without --weights: MODEL.WEIGHTS, else the last checkpoint in OUTPUT_DIR.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from . import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_config(parser)
    parser.add_argument("--weights", metavar="FILE")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: OUTPUT_DIR/predictions")
    parser.add_argument("--num-images", type=int, default=20, help="of each data set of DATASETS.TEST")


def run(args: argparse.Namespace) -> int:
    from functools import partial

    from detectron2.data import DatasetCatalog, MetadataCatalog
    from PIL import Image

    from ..data import register_descriptions
    from ..outputs import write_output
    from ..picture_files import distinct
    from ..predictor import PartPredictor

    predictor = PartPredictor(args.config_file, args.weights, opts=args.opts)
    register_descriptions(predictor.cfg.DATASETS.DESCRIPTIONS)
    output = args.output or Path(predictor.cfg.OUTPUT_DIR) / "predictions"
    for name in predictor.cfg.DATASETS.TEST:
        records, metadata = DatasetCatalog.get(name), MetadataCatalog.get(name)
        count = min(args.num_images, len(records))
        # Spread over the set: the first pictures of a data set are often all of one kind.
        chosen = [records[i * len(records) // count] for i in range(count)]
        # Of records about one object there may be several to a picture.
        # An id may be any text, a path, too.
        names = [Path(f"{r['image_id']}.png" if "category_id" in r else r["file_name"]).name for r in chosen]
        for record, base in zip(chosen, distinct(output / name / file_name for file_name in names)):
            picture = predictor.compare(record, metadata)
            write_output(f"{base}.png", partial(Image.fromarray(picture).save, format="PNG"))
            print(f"{record['file_name']} -> {base}.png")
    return 0
