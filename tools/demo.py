#!/usr/bin/env python
"""Finds the parts in pictures: writes each picture beside its parts, and a JSON with what was found.

    python tools/demo.py photo.jpg folder_of_photos --output parts
    python tools/demo.py photo.jpg --config-file FILE --weights output/model_final.pth --confidence 0.5
    python tools/demo.py photo.jpg --config-file FILE --opts MODEL.DEVICE cuda

Without --config-file and --weights the model that comes with the package is used. Exits with code 1 when a
picture could not be read; the others are still done.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from wps_sam.predictor import PartPredictor

from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def find_pictures(inputs: Sequence[Path]) -> list[tuple[Path, Path]]:
    """(picture, where its results go, without suffix): folders are searched to the bottom and keep their shape."""
    found = []
    for given in inputs:
        inside = sorted(p for p in given.rglob("*") if p.suffix.lower() in SUFFIXES) if given.is_dir() else [given]
        # Archives packed on a Mac carry "._name.jpg" beside name.jpg, which is no picture.
        inside = [p for p in inside if not p.name.startswith("._")]
        if not inside:
            raise ValueError(f"{given}: no picture in this folder; expected {', '.join(SUFFIXES)}")
        found += [(p, p.relative_to(given) if given.is_dir() else Path(p.name)) for p in inside]
    taken: set[Path] = set()
    named = []
    for picture, place in found:
        base = place.with_suffix("") if place.with_suffix("") not in taken else place
        number = 2
        while base in taken:
            base, number = place.with_suffix(f".{number}"), number + 1
        taken.add(base)
        named.append((picture, base))
    return named


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

    pictures = find_pictures(args.inputs)
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
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(parts.draw_beside()).save(f"{target}.png")
        Path(f"{target}.json").write_text(json.dumps(parts.to_dict()), encoding="utf-8")
        print(f"{picture}: {', '.join(parts.names) or 'no part found'} -> {target}.png")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
