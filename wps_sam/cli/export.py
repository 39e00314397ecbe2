"""Writes a trained model, from picture to part map, as one file for other runtimes.

    wps-sam export --output model.onnx
    wps-sam export --config-file FILE --weights output/model_final.pth --output model.onnx --precision fp16
    wps-sam export --output model.pt2 --format torch
    wps-sam export --output model.onnx --compare 20

Without --config-file the model that comes with the package. docs/export.md says what goes in and out, and how the file
is used in Python without PyTorch, and elsewhere. --compare shows pictures of each data set of DATASETS.TEST to both.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from . import arguments

# Those of wps_sam.export.files, which takes seconds to import.
FORMATS = ("onnx", "torch")
PRECISIONS = ("fp32", "fp16", "int8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    arguments.add_model(parser)
    add("--output", type=Path, required=True, metavar="FILE", help="the file to write")
    add("--format", choices=FORMATS, default="onnx", help="default: onnx; torch: a program of torch.export")
    add("--precision", choices=PRECISIONS, default="fp32", help="of weights and arithmetic (default: fp32)")
    add("--proposals", type=int, metavar="K", help="parts at most (default: MODEL.INFERENCE.MAX_PARTS)")
    add("--names", nargs="+", help="parts to look for, if the model takes its classes by name")
    add("--compare", type=int, default=0, metavar="N", help="pictures of which both part maps are compared")
    add("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config overrides")


def run(args: argparse.Namespace) -> int:
    if args.compare and args.format != "onnx":
        raise ValueError(f"--compare needs the format onnx, got {args.format}")
    from ..data import register_descriptions
    from ..export.compare import compare
    from ..export.files import export_model

    predictor = arguments.load_model(args, "cpu", names=args.names, opts=args.opts)
    about = export_model(predictor, args.output, format=args.format, precision=args.precision, proposals=args.proposals)
    size = args.output.stat().st_size / 1e6
    print(f"{args.output}: {len(about['class_names'])} classes, {about['proposals']} parts at most, {size:.1f} MB")
    if args.compare:
        register_descriptions(predictor.cfg.DATASETS.DESCRIPTIONS)
        for name in predictor.cfg.DATASETS.TEST:
            print(f"{name}: {compare(predictor, args.output, name, args.compare)}")
    return 0
