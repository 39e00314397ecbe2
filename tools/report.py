#!/usr/bin/env python
"""One HTML page of a run: what it was, losses, scores by every protocol and part, what it takes for what, best and
worst pictures. Of several runs, beside each other.

    python tools/report.py output/my_parts
    python tools/report.py output/boxes output/points --output comparison.html --pictures 5

A run is the OUTPUT_DIR of tools/train_net.py. The page needs nothing beside it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from wps_sam.data import register_descriptions
from wps_sam.outputs import write_output
from wps_sam.report import RunFolder, page


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: report.html in the first run's folder")
    parser.add_argument("--pictures", type=int, default=3, help="of the best, the middle and the worst each")
    args = parser.parse_args(argv)
    output = args.output or args.runs[0] / "report.html"
    try:
        runs = [RunFolder.read(folder) for folder in args.runs]
        for run in runs:
            register_descriptions(run.cfg.DATASETS.DESCRIPTIONS)
        write_output(output, page(runs, args.pictures).encode())
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
