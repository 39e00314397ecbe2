#!/usr/bin/env python
"""Finds the parts in pictures: writes each picture beside its parts, and a JSON with what was found.

    python tools/demo.py photo.jpg folder_of_photos --output parts
    python tools/demo.py photo.jpg --config-file FILE --weights output/model_final.pth --confidence 0.5
    python tools/demo.py photo.jpg --config-file FILE --opts MODEL.DEVICE cuda

Without --config-file and --weights the model that comes with the package is used. Exits with code 1 when a
picture could not be read; the others are still done. Nothing is overwritten but results of these tools.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from wps_sam.outputs import check_outputs, is_output, write_output
from wps_sam.picture_files import find_pictures
from wps_sam.predictor import PartPredictor

from PIL import Image


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", type=Path, metavar="PICTURE_OR_FOLDER")
    parser.add_argument("--output", type=Path, default=Path("output/demo"), metavar="DIR")
    parser.add_argument("--config-file", metavar="FILE")
    parser.add_argument("--weights", metavar="FILE")
    parser.add_argument("--confidence", type=float, help="leave out parts with a lower score (0 to 1)")
    parser.add_argument("--names", nargs="+", help="parts to look for, if the model takes its classes by name")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config overrides: KEY VALUE ...")
    args = parser.parse_args(argv)

    try:
        pictures, skipped = find_pictures(args.inputs, is_result=is_output)
        targets = [f"{args.output / base}{suffix}" for _, base in pictures for suffix in (".png", ".json")]
        check_outputs(targets, inputs=[picture for picture, _ in pictures])
    except ValueError as error:
        parser.error(str(error))
    for what, count in skipped.items():
        print(f"skipped {count} pictures {what}", file=sys.stderr)
    predictor = PartPredictor(
        args.config_file, args.weights, confidence=args.confidence, names=args.names, opts=args.opts
    )
    failed = 0
    for picture, base in pictures:
        try:
            parts = predictor(picture)
        except ValueError as error:
            failed += 1
            print(error, file=sys.stderr)
            continue
        target = args.output / base
        drawn = Image.fromarray(parts.draw())
        write_output(f"{target}.png", partial(drawn.save, format="PNG"))
        write_output(f"{target}.json", json.dumps(parts.to_dict()).encode())
        print(f"{picture}: {', '.join(parts.names) or 'no part found'} -> {target}.png")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
