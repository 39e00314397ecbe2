#!/usr/bin/env python
"""Finds the parts in pictures, videos and what a camera sees; writes drawings, JSON, labels and cut-out parts.

    python tools/demo.py photo.jpg folder_of_photos "more/*.png" --output parts
    python tools/demo.py photo.jpg --config-file FILE --weights output/model_final.pth --confidence 0.5
    python tools/demo.py clip.mp4 camera:0 --every 5 --parts hair footwear
    python tools/demo.py photo.jpg --save labels cutouts --opts MODEL.DEVICE cuda

Without --config-file and --weights the model that comes with the package is used. By default each picture is written
beside its part map, with a JSON of each and one of all in COCO's form; what else --save knows, and how the files are
called, wps_sam/prediction/results.py says. Exits with code 1 when something could not be read; the others are still
done. Nothing is overwritten but results of these tools.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from wps_sam.outputs import check_outputs, is_output
from wps_sam.prediction.parts import classes_of
from wps_sam.prediction.results import KINDS, Results
from wps_sam.prediction.run import predict_all
from wps_sam.prediction.sources import find_sources
from wps_sam.predictor import PartPredictor


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help='file, folder, "pattern" or camera:NUMBER')
    parser.add_argument("--output", type=Path, default=Path("output/demo"), metavar="DIR")
    parser.add_argument("--save", nargs="+", choices=KINDS, default=["overlay", "json"], help="what to write")
    parser.add_argument("--config-file", metavar="FILE")
    parser.add_argument("--weights", metavar="FILE")
    parser.add_argument("--confidence", type=float, help="leave out parts with a lower score (0 to 1)")
    parser.add_argument("--parts", nargs="+", metavar="NAME", help="of what the model knows, only these")
    parser.add_argument("--names", nargs="+", help="parts to look for, if the model takes its classes by name")
    parser.add_argument("--batch-size", type=_positive, default=4, help="pictures shown to the model at once")
    parser.add_argument("--every", type=_positive, default=1, metavar="N", help="of videos, every N-th frame")
    parser.add_argument("--tiles", nargs=2, type=_positive, default=(1, 1), metavar=("ROWS", "COLUMNS"))
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config overrides: KEY VALUE ...")
    args = parser.parse_args(argv)

    try:
        sources, skipped = find_sources(args.inputs, is_result=is_output)
        targets = [path for source in sources for path in Results.targets(args.output, args.save, source)]
        check_outputs(targets, inputs=[source.name for source in sources])
        predictor = PartPredictor(
            *(args.config_file, args.weights),
            confidence=args.confidence,
            names=args.names,
            tiles=tuple(args.tiles),
            opts=args.opts,
        )
        classes_of(args.parts or (), predictor.class_names)
    except ValueError as error:
        parser.error(str(error))
    for what, count in skipped.items():
        print(f"skipped {count} pictures {what}", file=sys.stderr)
    with Results(args.output, args.save, predictor.class_names) as results:
        failed = predict_all(
            predictor, sources, results, batch_size=args.batch_size, every=args.every, names=args.parts
        )
    if failed:
        print(f"{failed} of {len(sources)} could not be read", file=sys.stderr)
    return 1 if failed else 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {number}")
    return number


if __name__ == "__main__":
    sys.exit(main())
