#!/usr/bin/env python
"""Trains a promptable SAM on generated pictures and on registered data sets with masks.

    python tools/pretrain_sam.py --config-file configs/pretrain_sam/vit_tiny_crops.yaml \\
        --description datasets/ccp_parts.yaml --output-dir output/sam_vit_tiny
    python tools/pretrain_sam.py ... --resume minutes=90 learning_rate=2e-4

Any setting of the configuration file can be given on the command line. Writes metrics.json, TensorBoard's events,
checkpoint.pt (continue with --resume) and sam.safetensors, the averaged weights in half precision, which
MODEL.SAM.WEIGHTS takes. On a busy machine set OMP_WAIT_POLICY=passive.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from wps_sam.data import register_descriptions
from wps_sam.pretraining import Pretrainer, PretrainSettings, run, settings_parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = settings_parser(__doc__, PretrainSettings)
    parser.add_argument("--description", action="append", default=[], metavar="YAML", help="data set; may be repeated")
    args = parser.parse_args(argv)
    try:
        register_descriptions(args.description)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return run("pretrain_sam.py", argv, args, PretrainSettings, Pretrainer)


if __name__ == "__main__":
    sys.exit(main())
