#!/usr/bin/env python
"""Trains a promptable SAM from scratch on generated pictures and on registered data sets with masks.

    python tools/pretrain_sam.py --minutes 45 --bf16 --output-dir output/sam_vit_tiny \\
        --description datasets/ccp_parts.yaml --source ccp_parts_train=0.6 --source synthetic=0.4 \\
        --val-dataset ccp_parts_val

Writes log.jsonl, checkpoint.pt (continue with --resume) and sam.safetensors, the averaged weights in half precision,
which MODEL.SAM.WEIGHTS takes. On a busy machine set OMP_WAIT_POLICY=passive.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence

from wps_sam.data import register_descriptions
from wps_sam.pretraining import Pretrainer, PretrainSettings

import torch

_DEFAULTS = PretrainSettings()


def _source(text: str) -> tuple[str, float]:
    name, _, weight = text.partition("=")
    return name, float(weight or 1)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output-dir", required=True)
    add("--description", action="append", default=[], metavar="YAML", help="data set to register")
    add("--source", action="append", type=_source, metavar="NAME=WEIGHT", help="default: synthetic=1")
    add("--resume", action="store_true", help="continue from OUTPUT_DIR/checkpoint.pt")
    add("--threads", type=int, default=0, help="CPU threads of PyTorch; 0: its own choice")
    add("--bf16", action="store_true", help="autocast to bfloat16")
    for name in (
        *("arch", "val_dataset", "val_pictures", "batch_size", "prompts_per_image", "box_share", "loss_size"),
        *("iterations", "minutes", "learning_rate", "warmup_iterations", "weight_decay", "clip_norm", "ema"),
        *("seed", "workers", "checkpoint_minutes", "preview_minutes", "log_every"),
    ):
        default = getattr(_DEFAULTS, name)
        add("--" + name.replace("_", "-"), type=type(default), default=default, help="default: %(default)s")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = vars(parse_args(argv))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    command = shlex.join(["python", "tools/pretrain_sam.py", *(sys.argv[1:] if argv is None else argv)])
    output_dir, resume, threads = args.pop("output_dir"), args.pop("resume"), args.pop("threads")
    descriptions, sources = args.pop("description"), args.pop("source")
    if threads:
        torch.set_num_threads(threads)
    try:
        register_descriptions(descriptions)
        settings = PretrainSettings(**args, sources=tuple(sources) if sources else _DEFAULTS.sources)
        pretrainer = Pretrainer(settings, output_dir, command)
        if resume:
            pretrainer.resume()
        pretrainer.train()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
