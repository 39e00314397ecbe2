#!/usr/bin/env python
"""Trains every recipe for some steps in two checkouts of this project, and compares all numbers bit by bit.

    git worktree add ../before main
    python tests/compare_checkouts.py ../before . --iterations 20

For changes that must not change a number. Generated pictures, the shipped SAM, one thread; both run under this Python.
Exits with code 1 where something differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DENSE, PAPER = "configs/quickstart.yaml", "configs/PartImageNet/wps_sam_vit_b_box_15ep.yaml"
# Name: configuration, and what differs from it. Keys that both checkouts have.
RECIPES: dict[str, tuple[str, ...]] = {
    "paper, boxes": (PAPER,),
    "paper, points": (PAPER, "WEAK_LABELS.TYPE", "point"),
    "dense, boxes": (DENSE,),
    "dense, points": (DENSE, "WEAK_LABELS.TYPE", "point", "WEAK_LABELS.POINT", "deepest_pixel"),
    "text classifier": (DENSE, "MODEL.PROMPTER.CLASSIFIER", "text"),
    "CLIPSeg": (
        *("configs/ov_parts/Base-CLIPSeg.yaml", "MODEL.CLIPSEG.WEIGHTS", "", "MODEL.CLIPSEG.ARCH", "tiny"),
        *("INPUT.MIN_SIZE_TRAIN", "(128,)", "INPUT.MIN_SIZE_TEST", "128", "TEST.PROTOCOLS", "['d2_semseg']"),
    ),
}
COMMON = (
    *("MODEL.DEVICE", "cpu", "MODEL.SAM.ARCH", "vit_tiny", "MODEL.SAM.WEIGHTS", "shipped"),
    *(
        "MODEL.PROMPTER.NUM_CLASSES",
        "29",
        "DATASETS.TRAIN",
        "('compared_train',)",
        "DATASETS.TEST",
        "('compared_val',)",
    ),
    *("SOLVER.IMS_PER_BATCH", "4", "SOLVER.WARMUP_ITERS", "2", "SOLVER.CHECKPOINT_PERIOD", "10000"),
    *("TEST.EVAL_PERIOD", "0", "DATALOADER.NUM_WORKERS", "0", "SEED", "1"),
)
# Run inside a checkout; only names that both have.
DRIVER = """
import argparse, hashlib, json, sys, torch
from wps_sam.engine import Trainer, setup
torch.set_num_threads(1)
file, *opts = sys.argv[1:]
cfg = setup(argparse.Namespace(config_file=file, opts=opts, eval_only=False, resume=False))
trainer = Trainer(cfg)
trainer.resume_or_load(False)
losses, digest = [], hashlib.sha256()
trainer.model.register_forward_hook(
    lambda model, _, out: losses.append([v.item().hex() for v in out.values()]) if model.training else None
)
trainer.train()
for parameter in trainer.model.parameters():
    if parameter.requires_grad:
        digest.update(parameter.detach().numpy().tobytes())
print(json.dumps({"losses": losses, "weights": digest.hexdigest()}))
"""


def run(checkout: Path, recipe: Sequence[str], description: Path, iterations: int, output: Path) -> dict[str, Any]:
    """Losses of every step, a hash of the trained weights, and all scores."""
    options = [*COMMON, *recipe[1:], "SOLVER.MAX_ITER", str(iterations), "OUTPUT_DIR", str(output)]
    command = [sys.executable, "-c", DRIVER, recipe[0]]
    command += ["DATASETS.DESCRIPTIONS", f"['{description}']", *options]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{checkout}: {recipe}: ended with code {done.returncode}\n{done.stderr[-3000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return {**found, "scores": json.loads((output / "evaluation.json").read_text(encoding="utf-8"))}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--recipe", action="append", choices=list(RECIPES), help="default: all; may be repeated")
    args = parser.parse_args(argv)
    before, after = args.before.resolve(), args.after.resolve()
    differs = False
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make = [sys.executable, "tools/make_synthetic.py", "--root", str(root / "data")]
        make += ["--num-train", "24", "--num-val", "6"]
        subprocess.run(make, cwd=before, env={**os.environ, "PYTHONPATH": str(before)}, check=True)
        description = root / "compared.yaml"
        split = "{{images: images/{0}, annotations: annotations/{0}}}"
        splits = "".join(f"  {name}: {split.format(name)}\n" for name in ("train", "val"))
        content = f"name: compared\nlayout: partimagenet\nroot: {root / 'data'}\nsplits:\n{splits}"
        description.write_text(content, encoding="utf-8")
        for name in args.recipe or RECIPES:
            results = [
                run(checkout, RECIPES[name], description, args.iterations, root / f"{name} {side}")
                for side, checkout in (("before", before), ("after", after))
            ]
            same = [key for key in results[0] if results[0][key] == results[1][key]]
            differs |= len(same) < len(results[0])
            print(f"{name}: {len(results[0]['losses'])} steps; the same: {', '.join(same) or 'nothing'}", flush=True)
            for key in results[0].keys() - set(same):
                print(f"  {key} before: {results[0][key]!r:.500}\n  {key} after:  {results[1][key]!r:.500}")
    return 1 if differs else 0


if __name__ == "__main__":
    sys.exit(main())
