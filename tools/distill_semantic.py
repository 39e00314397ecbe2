#!/usr/bin/env python
"""Teaches a small semantic network what a larger one sees, on pictures without labels.

    python tools/distill_semantic.py --config-file configs/distill_semantic/small.yaml --output-dir output/semantic \\
        teacher=dinov2 teacher_weights=facebook/dinov2-base pictures="[photos, more/photos]"
    python tools/distill_semantic.py ... --resume minutes=600

Any setting of the configuration file can be given on the command line. Writes metrics.json, TensorBoard's events,
checkpoint.pt (continue with --resume) and the folder semantic, which MODEL.SEMANTIC.NAME timm takes as WEIGHTS.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from wps_sam.pretraining import Distiller, DistillSettings, read_settings, read_values

import torch


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config-file", type=Path, metavar="YAML", help="settings; see DistillSettings for all of them")
    add("--output-dir", required=True)
    add("--resume", action="store_true", help="continue from OUTPUT_DIR/checkpoint.pt")
    add("--threads", type=int, default=0, help="CPU threads of PyTorch; 0: its own choice")
    add("settings", nargs="*", metavar="NAME=VALUE", help="settings that replace those of the file, as YAML")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    command = shlex.join(["python", "tools/distill_semantic.py", *(sys.argv[1:] if argv is None else argv)])
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        settings = read_settings(DistillSettings, read_values(args.config_file, args.settings))
        distiller = Distiller(settings, args.output_dir, command)
        if args.resume:
            distiller.resume()
        distiller.train()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
