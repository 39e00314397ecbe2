"""One HTML page of a run: what it was, losses, scores by every protocol and part, what it takes for what, best and
worst pictures. Of several runs, beside each other.

    wps-sam report output/my_parts
    wps-sam report output/boxes output/points --output comparison.html --pictures 5

A run is the OUTPUT_DIR of a training or an evaluation. The page needs nothing beside it.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN")
    add("--output", type=Path, metavar="FILE", help="default: report.html in the first run's folder")
    add("--pictures", type=int, default=3, help="of the best, the middle and the worst each")


def run(args: argparse.Namespace) -> int:
    from ..data import register_descriptions
    from ..outputs import write_output
    from ..report import RunFolder, page

    output = args.output or args.runs[0] / "report.html"
    runs = [RunFolder.read(folder) for folder in args.runs]
    for one in runs:
        register_descriptions(one.cfg.DATASETS.DESCRIPTIONS)
    write_output(output, page(runs, args.pictures).encode())
    print(output)
    return 0
