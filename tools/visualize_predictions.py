#!/usr/bin/env python
"""Draws picture, ground truth and prediction side by side, for pictures spread over the test set.

    python tools/visualize_predictions.py --config-file configs/quickstart.yaml
    python tools/visualize_predictions.py --config-file FILE --weights output/model_final.pth --num-images 50

Without --weights: MODEL.WEIGHTS, else the last checkpoint in OUTPUT_DIR.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from wps_sam.data import register_descriptions
from wps_sam.predictor import PartPredictor

from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--weights", metavar="FILE")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: OUTPUT_DIR/predictions")
    parser.add_argument("--num-images", type=int, default=20, help="of each data set of DATASETS.TEST")
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="config overrides")
    args = parser.parse_args(argv)

    predictor = PartPredictor(args.config_file, args.weights, opts=args.opts)
    register_descriptions(predictor.cfg.DATASETS.DESCRIPTIONS)
    output = args.output or Path(predictor.cfg.OUTPUT_DIR) / "predictions"
    for name in predictor.cfg.DATASETS.TEST:
        records, metadata = DatasetCatalog.get(name), MetadataCatalog.get(name)
        count = min(args.num_images, len(records))
        # Spread over the set: the first pictures of a data set are often all of one kind.
        for index in (i * len(records) // count for i in range(count)):
            # Of records about one object there may be several to a picture.
            about_one = "category_id" in records[index]
            stem = records[index]["image_id"] if about_one else Path(records[index]["file_name"]).stem
            target = output / name / f"{stem}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            picture = predictor.compare(records[index], metadata)
            Image.fromarray(picture).save(target)
            print(f"{records[index]['file_name']} -> {target}")


if __name__ == "__main__":
    main()
