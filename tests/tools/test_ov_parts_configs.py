"""OV-PARTS from the command line: the shipped configurations on the official layout, two steps each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ov_layouts import write_ade20k_part_234, write_partimagenet, write_pascal_part_116

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs" / "ov_parts"
SHORT = [
    *("MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0"),
    *("TEST.EVAL_PERIOD", "0", "MODEL.INFERENCE.MAX_PARTS", "10"),
]
SMALL = {
    "wps_sam": ["MODEL.SAM.ARCH", "vit_tiny", "MODEL.SAM.WEIGHTS", "", "MODEL.TEXT.EMBEDDINGS", ""],
    "clipseg": [
        *("MODEL.CLIPSEG.ARCH", "tiny", "MODEL.CLIPSEG.WEIGHTS", ""),
        *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"),
    ],
}
RUNS = (
    "zero_shot/wps_sam_vit_b_pascal_part_116",
    "zero_shot/clipseg_ade20k_part_234_as_downloaded",
    "cross_dataset/clipseg_ade20k_part_234_va_l_f_d",
    "few_shot/wps_sam_vit_b_pascal_part_116",
    "few_shot/clipseg_ade20k_part_234_va_l_f_d",
    "zero_shot/wps_sam_vit_b_partimagenet_147",
)
# One process for all of them: most of the time goes into the imports.
SCRIPT = """
import json, runpy, sys
train = runpy.run_path(sys.argv[1])["main"]
for arguments in json.loads(sys.argv[2]):
    assert train(arguments) == 0
for tool, arguments in json.loads(sys.argv[3]):
    assert runpy.run_path(tool)["main"](arguments) == 0
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """evaluation.json of every run, by its configuration; and "output", the folder of all."""
    folder = tmp_path_factory.mktemp("ov_parts")
    write_pascal_part_116(folder)
    write_ade20k_part_234(folder)
    write_partimagenet(folder)
    output = folder / "output"
    trainings, drawings = [], []
    for run in RUNS:
        config = ["--config-file", str(CONFIGS / f"{run}.yaml")]
        opts = [*SHORT, *SMALL[Path(run).name[:7]], "OUTPUT_DIR", str(output / run)]
        trainings.append([*config, *(["--eval-only"] if run.endswith("as_downloaded") else []), *opts])
        if not run.endswith("as_downloaded"):
            count = ["--num-images", "1"]
            drawings.append((str(ROOT / "tools" / "visualize_predictions.py"), [*config, *count, *opts]))
            drawings.append((str(ROOT / "tools" / "visualize_data.py"), [*config, *count, *opts]))
    environment = {
        **os.environ,
        **{"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DETECTRON2_DATASETS": str(folder)},
    }
    done = subprocess.run(
        [
            *(sys.executable, "-c", SCRIPT, str(ROOT / "tools" / "train_net.py")),
            *(json.dumps(trainings), json.dumps(drawings)),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = {run: json.loads((output / run / "evaluation.json").read_text()) for run in RUNS}
    return {**found, "output": output}


def test_every_data_set_has_the_protocols_made_for_it(results: dict[str, Any]) -> None:
    for run in RUNS:
        for name, of_set in results[run].items():
            expected = ["ov_oracle"] if "condition" in name or "few_shot" in name else ["pred_obj", "pred_all"]
            assert list(of_set) == expected, (run, name)


def test_seen_and_unseen_only_where_they_mean_something(results: dict[str, Any]) -> None:
    zero_shot = results["zero_shot/wps_sam_vit_b_pascal_part_116"]["voc_obj_part_sem_seg_val_obj_condition"]
    assert {"mIoU", "mIoU-base", "mIoU-unbase", "hIoU", "fwIoU", "mIoU_gt"} <= set(zero_shot["ov_oracle"])
    for run in ("cross_dataset/clipseg_ade20k_part_234_va_l_f_d", "few_shot/wps_sam_vit_b_pascal_part_116"):
        scores = results[run]["voc_obj_part_sem_seg_val_obj_condition"]["ov_oracle"]
        assert scores["mIoU"] is not None and "hIoU" not in scores and "mIoU-unbase" not in scores
    few_shot = results["few_shot/clipseg_ade20k_part_234_va_l_f_d"]
    assert "hIoU" not in few_shot["ade_obj_part_sem_seg_val_few_shot"]["ov_oracle"]


def test_pictures_of_data_and_predictions(results: dict[str, Any]) -> None:
    for run in RUNS:
        if not run.endswith("as_downloaded"):
            assert list((results["output"] / run / "predictions").rglob("*.png")), run
            assert list((results["output"] / run / "data").rglob("*.png")), run
