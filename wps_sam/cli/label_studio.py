"""Finds parts for Label Studio, where people correct them: as its machine-learning backend, or ahead.

    wps-sam label-studio --print-labels > labels.xml
    wps-sam label-studio --root PHOTOS --precompute tasks.json --output with_predictions.json
    wps-sam label-studio --root PHOTOS --port 9090
    LABEL_STUDIO_API_KEY=TOKEN wps-sam label-studio --label-studio http://localhost:8080

The first prints a labelling configuration with the model's parts, for a project that has none yet. The second writes
tasks to be imported; it exits with code 1 when a picture could not be read, the others are still done. The others are a
backend to be added in the project's settings, which also answers with the part that somebody points at. Pictures are
read below --root, and from the Label Studio that is named, with the access token in LABEL_STUDIO_API_KEY. Only this
machine is answered; --host 0.0.0.0 answers every machine that can reach this one, and asks nobody for a password.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--root", nargs="+", type=Path, default=[], metavar="FOLDER", help="where pictures are looked for")
    add("--label-studio", metavar="URL", help="from which pictures may be loaded")
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen; 127.0.0.1: for this machine alone")
    add("--port", type=int, default=9090, help="where Label Studio asks (default: 9090)")
    add("--precompute", type=Path, metavar="TASKS", help="tasks in Label Studio's JSON; nothing is served then")
    add("--output", type=Path, default=Path("with_predictions.json"), metavar="FILE", help="of --precompute")
    add("--labels", type=Path, metavar="XML", help="the project's labelling configuration, of --precompute")
    add("--print-labels", action="store_true", help="print a labelling configuration, and end")
    arguments.add_model(parser)
    arguments.add_confidence(parser)
    add("--names", nargs="+", help="parts to look for, if the model takes its classes by name")
    add("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config overrides")


def run(args: argparse.Namespace) -> int:
    import json
    import logging
    import os

    from ..data.sources.fields import read_json
    from ..label_studio.backend import Backend, precompute
    from ..label_studio.labelling import read_labelling, unknown_labels, write_labelling
    from ..label_studio.pictures import Pictures
    from ..label_studio.server import make_server
    from ..outputs import check_outputs, write_output

    pictures = Pictures(args.root, args.label_studio, os.environ.get("LABEL_STUDIO_API_KEY"))
    tasks = None
    if args.precompute:
        tasks = read_json(args.precompute, "tasks")
        check_outputs([args.output], inputs=[args.precompute])
    predictor = arguments.load_model(args, confidence=args.confidence, names=args.names, opts=args.opts)
    if args.print_labels:
        print(write_labelling(predictor.class_names), end="")
        return 0
    backend = Backend(predictor, pictures)
    if args.precompute:
        xml = args.labels.read_text(encoding="utf-8") if args.labels else write_labelling(predictor.class_names)
        controls = read_labelling(xml)
        if unknown := unknown_labels(controls, predictor.class_names):
            print(f"the model knows no {', '.join(unknown)}: such labels are left to people", file=sys.stderr)
        done, failed = precompute(backend, tasks, f"tasks {args.precompute}", controls)
        write_output(args.output, json.dumps(done).encode())
        print(*(f"error: {line}" for line in failed), sep="\n", end="\n" * bool(failed), file=sys.stderr)
        print(f"{args.output}: {len(done) - len(failed)} of {len(done)} tasks have a prediction")
        return 1 if failed else 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with make_server(backend, args.host, args.port) as server:
        print(f"{backend.model_version} answers at http://{args.host}:{server.server_port} until Ctrl-C", flush=True)
        server.serve_forever()
    return 0
