"""The tiny training under Detectron2 and under the stand-in: the same metrics for the same seed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from detectron2.config import CfgNode

TOOL = Path(__file__).resolve().parents[2] / "tools" / "train_net.py"


def _real_detectron2_is_installed() -> bool:
    code = "import importlib.util as u; s = u.find_spec('detectron2'); raise SystemExit(not (s and s.origin))"
    return subprocess.run([sys.executable, "-c", code]).returncode == 0


def _scores(cfg: CfgNode, which: str, folder: Path) -> dict[str, dict[str, float]]:
    folder.mkdir()
    (folder / "cfg.yaml").write_text(cfg.dump())
    command = [sys.executable, str(TOOL), "--config-file", str(folder / "cfg.yaml"), "OUTPUT_DIR", str(folder)]
    environment = {**os.environ, "WPS_SAM_DETECTRON2": which, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    (scores,) = json.loads((folder / "evaluation.json").read_text()).values()
    return scores


@pytest.mark.skipif(not _real_detectron2_is_installed(), reason="needs Detectron2 itself beside the stand-in")
def test_the_tiny_training_scores_the_same(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> None:
    cfg = tiny_cfg(
        *("MODEL.SAM.WEIGHTS", "shipped", "MODEL.PROMPTER.NAME", "DensePrompter"),
        *("MODEL.DENSE_PROMPTER.COMPANION_DIM", 32, "MODEL.DENSE_PROMPTER.CONV_DIM", 64),
        *("MODEL.INFERENCE.NMS_THRESHOLD", 0.6),
        *("SOLVER.OPTIMIZER", "AdamW", "SOLVER.BASE_LR", 3e-3, "SOLVER.WARMUP_ITERS", 10),
        *("SOLVER.IMS_PER_BATCH", 4, "SOLVER.MAX_ITER", 80, "SOLVER.CHECKPOINT_PERIOD", 80),
        *("INPUT.RANDOM_FLIP", "horizontal", "TEST.ORACLES", True),
    )
    real, standin = (_scores(cfg, which, tmp_path / which) for which in ("real", "standin"))
    assert real["d2_semseg"]["mIoU"] > 50, "a training that learned nothing would prove nothing"
    assert real.keys() == standin.keys()
    for protocol, metrics in real.items():
        assert metrics.keys() == standin[protocol].keys()
        for name, value in metrics.items():
            assert standin[protocol][name] == (None if value is None else pytest.approx(value, abs=1e-3)), (
                f"{protocol}/{name}"
            )
