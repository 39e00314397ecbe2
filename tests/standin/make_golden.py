"""Writes golden/*.json: what Detectron2 itself answers to every case. Runs only where Detectron2 is installed.

WPS_SAM_DETECTRON2=real python tests/standin/make_golden.py [case ...]
"""

from __future__ import annotations

import wps_sam  # isort: skip  # noqa: F401

import importlib
import json
import sys
from pathlib import Path

import detectron2
import torch
from cases import CASES

GOLDEN = Path(__file__).parent / "golden"


def main(names: list[str]) -> None:
    if detectron2.__version__.endswith("+wps.sam"):
        raise SystemExit("this is the stand-in: golden files come from Detectron2 itself")
    for name in names or CASES:
        answer = CASES[name](lambda module: importlib.import_module(f"detectron2.{module}"))
        # Detectron2 is also built from its main branch, which has had the version number 0.6 since 2021.
        golden = {"detectron2": detectron2.__version__, "torch": torch.__version__, "answer": answer}
        GOLDEN.mkdir(exist_ok=True)
        path = GOLDEN / f"{name}.json"
        path.write_text(json.dumps(golden, separators=(",", ":"), allow_nan=False) + "\n", encoding="utf-8")
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
