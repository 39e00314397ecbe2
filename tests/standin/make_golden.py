"""Writes golden/: what Detectron2 itself answers to every case, and files of its own that the stand-in must read.

Runs only where Detectron2 is installed:

WPS_SAM_DETECTRON2=real python tests/standin/make_golden.py [case ...]
"""

from __future__ import annotations

import wps_sam  # isort: skip  # noqa: F401

import importlib
import json
import pickle
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import detectron2
import numpy as np
import torch
from cases import CASES, regression_trainer
from detectron2.config import get_cfg
from detectron2.structures import Boxes, Instances, PolygonMasks

GOLDEN = Path(__file__).parent / "golden"


def main(names: list[str]) -> None:
    if detectron2.__version__.endswith("+wps.sam"):
        raise SystemExit("this is the stand-in: golden files come from Detectron2 itself")
    for name in names or CASES:
        answer = CASES[name](module)
        # Detectron2 is also built from its main branch, which has had the version number 0.6 since 2021.
        golden = {"detectron2": detectron2.__version__, "torch": torch.__version__, "answer": answer}
        GOLDEN.mkdir(exist_ok=True)
        path = GOLDEN / f"{name}.json"
        path.write_text(json.dumps(golden, separators=(",", ":"), allow_nan=False) + "\n", encoding="utf-8")
        print(f"{path.name}: {path.stat().st_size} bytes")
    write_files()


def write_files() -> None:
    """A config.yaml with all of Detectron2's keys, a checkpoint of the fourth step, pickled instances."""
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.MAX_ITER", "123", "DATASETS.TRAIN", "('a',)"])
    (GOLDEN / "config.yaml").write_text(f"# Detectron2 {detectron2.__version__}\n{cfg.dump()}", encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        trainer, _ = regression_trainer(module, Path(folder))
        trainer.train(0, 10)
        shutil.copyfile(Path(folder) / "model_0000003.pth", GOLDEN / "checkpoint.pth")
    found = Instances((4, 4), pred_boxes=Boxes([[1.0, 2.0, 3.0, 4.0]]))
    found.gt_masks = PolygonMasks([[np.array([0.0, 0.0, 4.0, 0.0, 4.0, 4.0])]])
    (GOLDEN / "instances.pkl").write_bytes(pickle.dumps(found))


def module(name: str) -> ModuleType:
    return importlib.import_module(f"detectron2.{name}")


if __name__ == "__main__":
    main(sys.argv[1:])
