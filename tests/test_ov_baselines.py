"""The shipped configurations of OV-PARTS' baselines, shrunk to a tiny model, on fixtures of the data sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wps_sam import engine
from wps_sam.config import read_config
from wps_sam.data.sources.builtin import OV_PARTS_SETS
from wps_sam.data.sources.ov_parts import register_ov_set

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from ov_layouts import write_ade20k_part_234, write_partimagenet, write_pascal_part_116

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "ov_parts"
WHOLE = (
    *("*/clipseg_*.yaml", "*/catseg_*_as_downloaded.yaml", "cross_dataset/catseg_*.yaml"),
    *("cross_dataset/zsseg_*.yaml", "zero_shot/zsseg_r50_*.yaml", "few_shot/zsseg_r50_ade*.yaml"),
)
FILES = sorted({file for pattern in WHOLE for file in CONFIGS.glob(pattern)})
# Their tests are those of the others; prompts have none.
ONLY_TRAINED = sorted({file for name in ("catseg", "zsseg") for file in CONFIGS.glob(f"*/{name}_*.yaml")} - set(FILES))
TINY = (
    *("MODEL.DEVICE", "cpu", "MODEL.CLIPSEG.WEIGHTS", "", "MODEL.CLIPSEG.ARCH", "tiny"),
    *("MODEL.CATSEG.WEIGHTS", "", "MODEL.CATSEG.CLIP", "", "MODEL.CATSEG.ARCH", "tiny"),
    *("MODEL.ZSSEG.CLIP", "", "MODEL.ZSSEG.BACKBONE_WEIGHTS", "", "MODEL.ZSSEG.PROMPTS", ""),
    *("MODEL.ZSSEG.ARCH", "tiny", "MODEL.ZSSEG.NUM_QUERIES", 10, "INPUT.CROP.SIZE", [64, 64], "INPUT.PAD_TO", 64),
    *("INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MIN_SIZE_TEST", 64, "DATALOADER.NUM_WORKERS", 0),
    *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 3, "SOLVER.CHECKPOINT_PERIOD", 2, "TEST.EVAL_PERIOD", 0),
)


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """All sets of the benchmarks on fixtures, registered under their names with this in front."""
    root = tmp_path_factory.mktemp("ov_baselines")
    write_pascal_part_116(root)
    write_ade20k_part_234(root)
    write_partimagenet(root)
    for name, (benchmark, ov_set) in OV_PARTS_SETS.items():
        register_ov_set(f"{root.name}_{name}", str(root), benchmark, ov_set)
    yield f"{root.name}_"
    for name in OV_PARTS_SETS:
        DatasetCatalog.remove(f"{root.name}_{name}")
        MetadataCatalog.remove(f"{root.name}_{name}")


@pytest.fixture
def shrunk(prefix: str, tmp_path: Path) -> Callable[..., CfgNode]:
    """``shrunk(file, key, value, ...)``: a shipped configuration that runs on the fixtures in a second."""

    def build(file: Path, *opts: Any) -> CfgNode:
        cfg = read_config(file)
        names = {
            f"DATASETS.{split}": tuple(prefix + name for name in cfg.DATASETS[split]) for split in ("TRAIN", "TEST")
        }
        flat = [item for pair in names.items() for item in pair]
        return read_config(file, [*TINY, *flat, "OUTPUT_DIR", str(tmp_path), *opts])

    return build


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.relative_to(CONFIGS).as_posix())
def test_shipped_configuration_trains_and_is_scored_as_its_task_asks(
    shrunk: Callable[..., CfgNode], file: Path
) -> None:
    cfg = shrunk(file)
    if file.stem.endswith("as_downloaded"):
        engine.evaluate_only(cfg)
    else:
        trainer = engine.Trainer(cfg)
        trainer.resume_or_load(False)
        trainer.train()
    results = json.loads((Path(cfg.OUTPUT_DIR) / "evaluation.json").read_text())
    assert list(results) == list(cfg.DATASETS.TEST)
    for name, scores in results.items():
        image_by_image = name.endswith("_val")
        assert set(scores) == ({"pred_obj", "pred_all"} if image_by_image else {"ov_oracle"})
        for metrics in scores.values():
            assert 0 <= metrics["mIoU"] <= 100
            # Only where the vocabulary is the one that was trained on, but for some classes.
            with_unseen = MetadataCatalog.get(name).family == MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).family
            assert ("hIoU" in metrics) == (with_unseen and file.parent.name != "few_shot")


@pytest.mark.parametrize("file", ONLY_TRAINED, ids=lambda p: p.relative_to(CONFIGS).as_posix())
def test_shipped_configuration_trains(shrunk: Callable[..., CfgNode], file: Path) -> None:
    cfg = shrunk(file, "DATASETS.TEST", ())
    trainer = engine.Trainer(cfg)
    before = {name: p.clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.resume_or_load(False)
    trainer.train()
    moved = {
        name.split(".")[0] for name, p in trainer.model.named_parameters() if not torch.equal(p, before.get(name, p))
    }
    if cfg.MODEL.META_ARCHITECTURE == "CATSeg":
        assert moved == {"backbone", "aggregator"}
    else:
        prompts = cfg.MODEL.ZSSEG.STAGE == "prompts"
        assert moved == ({"prompts", "fuse_weight"} if prompts else {"proposals", "no_object"})


def test_stopped_and_resumed_training_ends_with_the_same_weights(
    shrunk: Callable[..., CfgNode], tmp_path: Path
) -> None:
    file = CONFIGS / "cross_dataset" / "clipseg_ade20k_part_234_va_l_f_d.yaml"

    def train(folder: str, max_iter: int, resume: bool = False) -> dict[str, torch.Tensor]:
        cfg = shrunk(file, "OUTPUT_DIR", str(tmp_path / folder), "DATASETS.TEST", ())
        torch.manual_seed(7)
        trainer = engine.Trainer(cfg)
        trainer.resume_or_load(resume)
        # And not SOLVER.MAX_ITER, by which the learning rate falls.
        trainer.max_iter = max_iter
        trainer.train()
        return trainer.model.state_dict()

    whole = train("whole", 3)
    stopped = train("stopped", 2)
    resumed = train("stopped", 3, resume=True)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not torch.equal(stopped["adapter.bottleneck.0.weight"], whole["adapter.bottleneck.0.weight"])
