"""Two processes with a share of the pictures each score as one process does."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from wps_sam.evaluation import build_evaluators

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm
from evaluation_scenes import PART_PROTOCOLS, Scene, annotation, box_mask, run
from open_vocabulary_scenes import OVScene, output


def make_scene(folder: Path) -> tuple[Scene, list[Any]]:
    """Five pictures, so that the shares differ; one without annotation, one without prediction."""
    scene = Scene("distributed_scene", folder)
    rng = np.random.default_rng(0)
    outputs = []
    for number in range(5):
        corners = 4 * rng.integers(0, 3, (4, 2))
        masks = [box_mask(16, 16, x, y, x + 8, y + 4) for x, y in corners.tolist()]
        truth = [] if number == 3 else [annotation(i % 3, masks[i]) for i in range(3)]
        record = scene.add(truth, image_id=f"picture {number}")
        # Shifted classes and a repeated mask: some right, some wrong.
        parts = [] if number == 1 else [(0, masks[0]), (2, masks[1]), (1, masks[3] | masks[1])]
        outputs.append(scene.output(record, parts, scores=[0.9, 0.8, 0.7][: len(parts)]))
    scene.register()
    return scene, outputs


def make_ov_scene(folder: Path, conditioned: bool) -> tuple[OVScene, list[Any]]:
    """Five random pictures, each of all its objects or of one."""
    folder.mkdir(exist_ok=True)
    scene = OVScene(f"distributed_ov_scene_{conditioned}", folder)
    rng = np.random.default_rng(1)
    outputs = []
    for number in range(5):
        objects = rng.integers(0, 3, (6, 7))
        scene.add(rng.choice([0, 1, 2, 3, 255], (6, 7)), objects, number % 3 if conditioned else None)
        outputs.append(output(rng.integers(0, 6, (6, 7)), rng.integers(0, 6, (6, 7))))
    scene.register()
    return scene, outputs


DISJOINT = [[0, 1, 2], [3, 4]]
OVERLAPPING = [[0, 1], [1, 2]]


def evaluate_shares(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    scene, outputs = make_scene(Path(folder))
    evaluators = build_evaluators(PART_PROTOCOLS, scene.name, output_dir=folder)
    found = []
    for shares in (DISJOINT, OVERLAPPING):
        share = shares[rank]
        try:
            found.append(run(evaluators, [scene.records[i] for i in share], [outputs[i] for i in share]))
        except ValueError as error:
            found.append(str(error))
    share = DISJOINT[rank]
    for conditioned, protocols in ((True, ["ov_oracle"]), (False, ["pred_obj", "pred_all"])):
        # A folder each, as both write the label maps at the same time.
        ov_scene, outputs = make_ov_scene(Path(folder, f"rank_{rank}"), conditioned)
        ov_folder = f"{folder}/ov_{conditioned}"
        evaluators = build_evaluators(protocols, ov_scene.name, output_dir=ov_folder)
        found.append(run(evaluators, [ov_scene.records[i] for i in share], [outputs[i] for i in share]))
    Path(folder, f"results_{rank}.json").write_text(json.dumps(found))
    comm.synchronize()
    dist.destroy_process_group()


def test_two_processes_score_as_one(tmp_path: Path) -> None:
    mp.spawn(evaluate_shares, args=(str(tmp_path),), nprocs=2)
    (main, main_error, *main_ov), (other, other_error, *other_ov) = (
        json.loads((tmp_path / f"results_{rank}.json").read_text()) for rank in (0, 1)
    )
    scene, outputs = make_scene(tmp_path)
    try:
        evaluators = build_evaluators(PART_PROTOCOLS, scene.name, output_dir=str(tmp_path / "single"))
        single = run(evaluators, scene.records, outputs)
    finally:
        scene.remove()
    assert other == {}
    assert list(main) == list(single) == list(PART_PROTOCOLS)
    for protocol, scores in single.items():
        assert main[protocol] == pytest.approx(scores, nan_ok=True), protocol
    # The numbers say something: neither everything nor nothing is right.
    assert 0 < single["d2_semseg"]["mIoU"] < 100 and 0 < single["coco_ap"]["AP"] < 100
    dumps = [json.loads((d / "sem_seg_predictions.json").read_text()) for d in (tmp_path, tmp_path / "single")]
    assert dumps[0] == dumps[1]
    # A picture scored twice stops both processes: one that went on would wait for the other for ever.
    assert main_error == other_error == "picture_1.JPEG: scored by two processes; 1 pictures were"
    assert other_ov == [{}, {}]
    for conditioned, together in zip((True, False), main_ov):
        ov_scene, outputs = make_ov_scene(tmp_path, conditioned)
        try:
            single_folder = str(tmp_path / "single_ov")
            evaluators = build_evaluators(list(together), ov_scene.name, output_dir=single_folder)
            single = run(evaluators, ov_scene.records, outputs)
        finally:
            ov_scene.remove()
        for protocol, scores in single.items():
            assert together[protocol] == pytest.approx(scores, nan_ok=True), protocol
            assert 0 < scores["mIoU"] < 100 and not math.isnan(scores["hIoU"])
    dumps = [
        json.loads((tmp_path / name / "sem_seg_predictions.json").read_text()) for name in ("ov_True", "single_ov")
    ]
    assert dumps[0] == dumps[1] and dumps[0]
