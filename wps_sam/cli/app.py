"""Shows a page on which a photo's parts are looked at, corrected by clicks and boxes, and downloaded.

    wps-sam app
    wps-sam app --port 8080 --config-file FILE --weights output/model_final.pth

Open the address that is printed. Photos and answers stay on this machine, and the page loads nothing from the network.
Only this machine is answered; --host 0.0.0.0 answers every machine that can reach this one, and asks nobody for a
password. Needs gradio: pip install ".[app]" in the clone.
"""

from __future__ import annotations

import argparse
import importlib.util

from . import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    arguments.add_model(parser)
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen; 127.0.0.1: for this machine alone")
    add("--port", type=int, default=7860, help="of the page (default: 7860)")
    add("--confidence", type=float, default=0.4, help="of the parts that are shown at first (0.1 to 1)")
    add("--names", nargs="+", help="parts to look for, if the model takes its classes by name")
    add("--max-megabytes", type=float, default=20, metavar="MB", help="the largest file that is taken")
    add("--max-megapixels", type=float, default=50, metavar="MP", help="the largest picture that is taken")
    add("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config overrides")


def run(args: argparse.Namespace) -> int:
    if importlib.util.find_spec("gradio") is None:
        raise ImportError('wps-sam app needs the package gradio: pip install ".[app]" in the clone')
    from ..app.files import Limits
    from ..app.page import LOWEST_CONFIDENCE, serve

    if not LOWEST_CONFIDENCE <= args.confidence <= 1:
        raise ValueError(f"--confidence: expected {LOWEST_CONFIDENCE} to 1, got {args.confidence}")
    for name in ("max_megabytes", "max_megapixels"):
        if not getattr(args, name) > 0:
            raise ValueError(f"--{name.replace('_', '-')}: expected more than 0, got {getattr(args, name)}")
    predictor = arguments.load_model(args, confidence=LOWEST_CONFIDENCE, names=args.names, opts=args.opts)
    serve(predictor, args.host, args.port, Limits(args.max_megabytes, args.max_megapixels), args.confidence)
    return 0
