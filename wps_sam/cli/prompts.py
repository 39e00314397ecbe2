"""How well a SAM cuts out annotated pieces when it is prompted with their true boxes and with points inside them.

    wps-sam prompts --dataset synthetic
    wps-sam prompts --description datasets/ccp_parts.yaml --dataset ccp_parts_val --output FILE.json
    wps-sam prompts --arch vit_b --weights sam_vit_b.safetensors --dataset synthetic --limit 10 --bf16

Prints mean IoU over all pieces, by their size and by class. "synthetic" are generated pictures that no training draws.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..paths import find_file
from . import arguments

SYNTHETIC_PICTURES = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--arch", default="vit_tiny", help="MODEL.SAM.ARCH (default: %(default)s)")
    add("--weights", default="shipped", metavar="FILE", help='MODEL.SAM.WEIGHTS (default: "shipped")')
    arguments.add_descriptions(parser)
    add("--dataset", required=True, metavar="NAME", help='registered name, or "synthetic"')
    add("--limit", type=int, help=f"first pictures only (default: all; synthetic: {SYNTHETIC_PICTURES})")
    add("--size", type=int, default=512, help="side of synthetic pictures in pixels (default: %(default)s)")
    add("--bf16", action="store_true", help="autocast to bfloat16")
    add("--levels", choices=("all", "coarse"), default="all", help="MODEL.SAM.LEVELS (default: %(default)s)")
    add("--device", help="cpu, cuda or cuda:N (default: the GPU where there is one)")
    arguments.add_threads(parser)
    add("--output", type=Path, metavar="FILE", help="write the results there as JSON, IoU 0 to 1")


def run(args: argparse.Namespace) -> int:
    import json
    import logging

    import torch
    from detectron2.data import MetadataCatalog

    from ..data import register_descriptions
    from ..data.synthetic import CLASS_NAMES
    from ..outputs import check_outputs, write_output
    from ..prompt_evaluation import dataset_pictures, load_encoder, score_prompts, synthetic_pictures, weights_hash

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.threads:
        torch.set_num_threads(args.threads)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    synthetic = args.dataset == "synthetic"
    check_outputs([args.output] if args.output else [])
    register_descriptions(args.description)
    if synthetic:
        limit = SYNTHETIC_PICTURES if args.limit is None else args.limit
        pictures, names = synthetic_pictures(limit, args.size), list(CLASS_NAMES)
    else:
        pictures = dataset_pictures(args.dataset, args.limit)
        names = MetadataCatalog.get(args.dataset).thing_classes
    encoder = load_encoder(args.arch, find_file(args.weights), device, args.bf16, args.levels)
    scores = score_prompts(encoder, pictures, bf16=args.bf16)
    print(f"{args.dataset}: {scores.pictures} pictures; SAM {args.arch} ({args.weights or 'random weights'})")
    print(scores.table(names))
    if args.output:
        about = {"arch": args.arch, "weights": args.weights, "weights_sha256": weights_hash(encoder)}
        about |= {"levels": args.levels, "bf16": args.bf16, "device": device}
        about |= {"dataset": args.dataset, "limit": args.limit}
        about |= {"size": args.size} if synthetic else {}
        write_output(args.output, f"{json.dumps({**about, **scores.as_dict(names)}, indent=1)}\n".encode())
    return 0
