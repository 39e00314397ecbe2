"""ZSSeg+ learns eight pictures by heart, by its two trainings, and is scored by the benchmark's own protocol."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from wps_sam.config import add_wps_sam_config
from wps_sam.data.part_mask_mapper import PartMaskMapper
from wps_sam.data.sources.ov_parts import seen_flags
from wps_sam.evaluation.open_vocabulary import OracleObjectEvaluator
from wps_sam.models.zsseg import ZSSeg
from wps_sam.vocabulary import PartVocabulary

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image

NAME = "zsseg_overfit"
# Some are called unseen, though they are shown: so that there is a harmonic mean, of what was learned.
NAMES = ("cat's head", "cat's torso", "cat's tail", "bus's wheel", "bus's door", "bus's headlight")
VOCABULARY = replace(PartVocabulary.from_names(NAMES), background_ids=()).with_unseen([1, 4])
COLOURS = ((220, 60, 60), (60, 180, 60), (60, 80, 230), (230, 220, 50), (40, 200, 210), (200, 60, 200))


@pytest.fixture
def records(tmp_path: Path) -> Iterator[list[dict[str, Any]]]:
    """Cats and buses in turn: three bands in a colour for each class, lying or standing, in another order each time."""
    generator = np.random.default_rng(0)
    made = []
    for i in range(8):
        of = i % 2
        bands = 3 * of + generator.permutation(3)
        parts = np.full((64, 64), 255, np.uint8)
        parts[2:62, 2:62] = bands.repeat(20)[:, None]
        if i % 4 > 1:
            parts = np.ascontiguousarray(parts.T)
        image = generator.integers(90, 166, (64, 64, 3)).astype(np.uint8)
        for c in bands:
            image[parts == c] = COLOURS[c]
        objects = np.where(parts == 255, 255, of).astype(np.uint8)
        paths = {kind: str(tmp_path / f"{kind}_{i}.png") for kind in ("picture", "parts", "objects")}
        for path, pixels in zip(paths.values(), (image, parts, objects)):
            Image.fromarray(pixels).save(path)
        made.append(
            {
                **{"file_name": paths["picture"], "image_id": str(i), "category_id": of, "height": 64, "width": 64},
                **{"sem_seg_file_name": paths["parts"], "obj_sem_seg_file_name": paths["objects"]},
            }
        )
    DatasetCatalog.register(NAME, lambda: made)
    about = {**VOCABULARY.metadata(), **seen_flags(VOCABULARY)}
    MetadataCatalog.get(NAME).set(**about, evaluator_type="sem_seg", protocols=("ov_oracle",))
    yield made
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def build(stage: str) -> ZSSeg:
    cfg = get_cfg()
    add_wps_sam_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "ZSSeg"
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.ZSSEG.ARCH", "tiny", "MODEL.ZSSEG.STAGE", stage])
    cfg.MODEL.ZSSEG.NUM_QUERIES = 6
    torch.manual_seed(0)
    model = build_model(cfg)
    with torch.no_grad():
        # A CLIP that tells colours and words apart: of random weights, all pictures and all texts look much the same.
        clip = model.clip.model
        clip.vision_model.embeddings.patch_embedding.weight.mul_(10)
        clip.text_model.embeddings.token_embedding.weight.mul_(30)
        for layer in clip.text_model.encoder.layers:
            layer.self_attn.v_proj.weight.mul_(10)
            layer.self_attn.out_proj.weight.mul_(10)
    model.set_vocabulary(VOCABULARY)
    return model.train()


def fit(model: ZSSeg, inputs: list[dict[str, Any]], lr: float, steps: int) -> None:
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, 0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(model(inputs).values()).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()


def harmonic(model: ZSSeg, records: list[dict[str, Any]]) -> float:
    mapper = PartMaskMapper(is_train=False, augmentations=[], metadata=MetadataCatalog.get(NAME), object_maps=True)
    inputs = [mapper(record) for record in records]
    evaluator = OracleObjectEvaluator(NAME, distributed=False)
    evaluator.reset()
    evaluator.process(inputs, model.eval()(inputs))
    model.train()
    return evaluator.evaluate()["ov_oracle"]["hIoU"]


def test_eight_pictures_are_learned_by_heart(records: list[dict[str, Any]]) -> None:
    mapper = PartMaskMapper(is_train=True, augmentations=[], metadata=MetadataCatalog.get(NAME))
    inputs = [mapper(record) for record in records]
    first = build("prompts")
    fit(first, inputs, 0.03, 100)
    model = build("proposals")
    with torch.no_grad():
        model.prompts.contexts.copy_(first.prompts.contexts)
        model.fuse_weight.copy_(first.fuse_weight)
    assert harmonic(model, records) < 50
    fit(model, inputs, 4e-3, 130)
    # Measured: 93.6 after 80 steps, 98.4 after 160.
    assert harmonic(model, records) > 90
