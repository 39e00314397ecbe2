"""Finds the parts in pictures, videos and what a camera sees; writes drawings, JSON, labels and cut-out parts.

    wps-sam predict photo.jpg folder_of_photos "more/*.png" --output parts
    wps-sam predict photo.jpg --config-file FILE --weights output/model_final.pth --confidence 0.5
    wps-sam predict clip.mp4 camera:0 --every 5 --parts hair footwear
    wps-sam predict photo.jpg --model output/my_parts
    wps-sam predict photo.jpg --save labels cutouts --opts MODEL.DEVICE cuda
    wps-sam predict million_photos --output parts --save json --shard 3/64 --resume

Without --model, --config-file and --weights the model that comes with the package is used. By default each picture is
written to output/demo beside its part map, with a JSON of each and one of all in COCO's form; what else --save knows,
and what is in the files, docs/predict.md says. Exits with code 1 when something could not be read; the others are
still done. Nothing is overwritten but results of these tools.

--resume goes on where an earlier run of the same model and options was stopped: what is in --output is kept. With
--shard a job does a share of the pictures, knowing nothing of the others, and leaves the files that are of all pictures
to the command with --resume and without --shard, when all are done.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import arguments

# The kinds of results, see wps_sam/prediction/results.py.
KINDS = ("overlay", "json", "labels", "cutouts")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help='file, folder, "pattern" or camera:NUMBER')
    add("--output", type=Path, default=Path("output/demo"), metavar="DIR", help="default: output/demo")
    add("--save", nargs="+", choices=KINDS, default=["overlay", "json"], help="what to write")
    arguments.add_model(parser)
    arguments.add_confidence(parser)
    add("--parts", nargs="+", metavar="NAME", help="of what the model knows, only these")
    add("--names", nargs="+", help="parts to look for, if the model takes its classes by name")
    add("--batch-size", type=_positive, default=4, help="pictures shown to the model at once")
    add("--resume", action="store_true", help="keep what is in DIR already, and do the rest")
    arguments.add_shard(parser)
    add("--every", type=_positive, default=1, metavar="N", help="of videos, every N-th frame")
    add("--tiles", nargs=2, type=_positive, default=(1, 1), metavar=("ROWS", "COLUMNS"), help="also look at tiles")
    add("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config overrides")


def run(args: argparse.Namespace) -> int:
    from ..mirror import Mirror
    from ..outputs import adopt_output, check_outputs, is_output
    from ..prediction.parts import classes_of
    from ..prediction.results import SETTINGS_FILE, Results, keep_settings
    from ..prediction.run import predict_all, sources_of
    from ..prediction.sources import find_sources

    found = find_sources(args.inputs, is_result=is_output)
    if not found.sources:
        raise ValueError("; ".join(found.problems))
    sources = sources_of(args.share, found.sources, args.batch_size)
    mirror = Mirror(args.output, args.mirror) if args.mirror else None
    if mirror and args.resume:
        targets = [p for s in sources for p in Results.targets(args.output, args.save, s)]
        for path in mirror.exchange([args.output / SETTINGS_FILE, *targets]):
            adopt_output(path)
    done = {source for source in sources if args.resume and Results.are_there(args.output, args.save, source)}
    targets = [p for s in sources if s not in done for p in Results.targets(args.output, args.save, s)]
    check_outputs(targets, inputs=[source.name for source in found.sources])
    for problem in found.problems:
        print(f"error: {problem}", file=sys.stderr)
    for what, count in found.skipped.items():
        print(f"skipped {count} pictures {what}", file=sys.stderr)
    settings = {"confidence": args.confidence, "names": args.names, "tiles": tuple(args.tiles), "opts": args.opts}
    predictor = arguments.load_model(args, **settings)
    classes_of(args.parts or (), predictor.class_names)
    made_with = {**predictor.settings, "parts": args.parts, "every": args.every}
    settings_file = keep_settings(args.output, made_with, args.resume)
    if mirror:
        mirror.publish(settings_file)
    with Results(args.output, args.save, predictor.class_names, args.share.is_whole, mirror) as results:
        how = {"batch_size": args.batch_size, "every": args.every, "names": args.parts, "done": done}
        failed = predict_all(predictor, sources, results, **how)
    if done:
        print(f"{len(done)} of {len(sources)} were there already")
    print(f"-> {args.output}")
    failed += len(found.problems)
    if failed:
        print(f"error: {failed} of {len(sources) + len(found.problems)} could not be read", file=sys.stderr)
    return 1 if failed else 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {number}")
    return number
