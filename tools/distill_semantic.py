#!/usr/bin/env python
"""Teaches a small semantic network what a larger one sees, on pictures without labels.

    python tools/distill_semantic.py --config-file configs/distill_semantic/small.yaml --output-dir output/semantic \\
        teacher=dinov2 teacher_weights=facebook/dinov2-base pictures="[photos, more/photos]"
    python tools/distill_semantic.py ... --resume minutes=600

Any setting of the configuration file can be given on the command line. Writes metrics.json, TensorBoard's events,
checkpoint.pt (continue with --resume) and the folder semantic, which MODEL.SEMANTIC.NAME timm takes as WEIGHTS.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from wps_sam.pretraining import Distiller, DistillSettings, run, settings_parser


def main(argv: Sequence[str] | None = None) -> int:
    args = settings_parser(__doc__, DistillSettings).parse_args(argv)
    return run("distill_semantic.py", argv, args, DistillSettings, Distiller)


if __name__ == "__main__":
    sys.exit(main())
