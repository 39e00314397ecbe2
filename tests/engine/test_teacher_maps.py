"""The part maps that the segmenter draws for weak labels, and what a dense head learns from them."""

from __future__ import annotations

from types import SimpleNamespace

from wps_sam import engine
from wps_sam.data import register_descriptions
from wps_sam.engine import build_train_loader
from wps_sam.engine.features import cache_features
from wps_sam.engine.teacher_maps import encode_map, paint, teacher_maps
from wps_sam.masks import mask_to_rle
from wps_sam.prompters.part_head import part_map_loss, tagged_map_loss
from wps_sam.structures import PADDING, UNKNOWN, Frame, PartTargets

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode
from torch.nn import functional as F

DENSE = ("MODEL.PROMPTER.NAME", "DensePrompter", "MODEL.DENSE_PROMPTER.PART_WEIGHT", 1.0)


class Filler:
    """A segmenter whose masks are the boxes that it is asked for, or the 8 x 8 pixels around a point."""

    def encode_prompts(self, boxes=None, points=None):
        self.asked = boxes if points is None else torch.cat([points - 4, points + 4], dim=1)
        return self.asked

    def decode(self, features, prompts):
        logits = torch.full((len(prompts[0]), 1, 16, 16), -9.0)
        for of_prompt, (x0, y0, x1, y1) in zip(logits, prompts[0].tolist()):
            of_prompt[:, round(y0 / 4) : round(y1 / 4), round(x0 / 4) : round(x1 / 4)] = 9.0
        return [SimpleNamespace(logits=logits)]


def settings(kind, rule="deepest_pixel"):
    weak = SimpleNamespace(TYPE=kind, POINT=rule, SEED=0)
    return SimpleNamespace(
        WEAK_LABELS=weak, MODEL=SimpleNamespace(DEVICE="cpu", PROMPTER=SimpleNamespace(NUM_CLASSES=3))
    )


def record(*annotations, tags=()):
    return {
        "file_name": "a.png",
        "height": 32,
        "width": 32,
        "annotations": [{"id": i, "bbox_mode": BoxMode.XYWH_ABS, **a} for i, a in enumerate(annotations)],
        **({"tags": list(tags)} if tags else {}),
    }


# The picture is 32 pixels wide and fills a square of 64.
FRAME = Frame(64, 64, 64)
SMALL, LARGE = {"category_id": 0, "bbox": [8, 8, 8, 8]}, {"category_id": 1, "bbox": [0, 0, 24, 24]}


def test_the_smaller_mask_lies_on_top():
    for order in ((SMALL, LARGE), (LARGE, SMALL)):
        found = paint(settings("box"), Filler(), record(*order), {}, FRAME)
        expected = np.full((32, 32), 3)
        expected[:24, :24] = 1
        expected[8:16, 8:16] = 0
        assert found.dtype == np.uint16 and (found != expected).mean() < 0.03
        assert (found[10:14, 10:14] == 0).all() and found[2, 2] == 1 and found[30, 30] == 3


def test_crowds_are_nobodys_part():
    found = paint(settings("box"), Filler(), record({**LARGE, "iscrowd": 1}, SMALL), {}, FRAME)
    assert found[2, 2] == 3 and found[12, 12] == 0


def test_a_point_is_asked_where_it_lies_in_the_square():
    filler = Filler()
    paint(settings("point"), filler, record({"category_id": 2, "point": (9.0, 20.0)}), {}, FRAME)
    # The centre of pixel 9 is 9.5, twice as large in the square.
    assert filler.asked[0].tolist() == [15, 37, 23, 45]


def test_a_mask_is_taken_only_where_training_may_see_it():
    mask = np.zeros((32, 32), bool)
    mask[20:30, 4:10] = True
    annotation = {**SMALL, "segmentation": mask_to_rle(mask)}
    shown = paint(settings("as_annotated"), Filler(), record(annotation), {}, FRAME)
    assert (shown == 0).sum() == mask.sum() and (shown[mask] == 0).all()
    hidden = paint(settings("box"), Filler(), record(annotation), {}, FRAME)
    assert hidden[12, 12] == 0 and hidden[25, 6] == 3


def test_a_tag_without_a_place_leaves_the_rest_unknown():
    assert paint(settings("as_annotated"), Filler(), record(SMALL, tags=[0]), {}, FRAME)[30, 30] == 3
    found = paint(settings("as_annotated"), Filler(), record(SMALL, tags=[0, 2]), {}, FRAME)
    assert found[12, 12] == 0 and found[30, 30] == UNKNOWN
    # A run that is shown boxes alone knows no tags.
    assert paint(settings("box"), Filler(), record(SMALL, tags=[0, 2]), {}, FRAME)[30, 30] == 3


# ------------------------------------------------------------------ files


@pytest.fixture
def cfg(tiny_cfg, tiny_parts):
    register_descriptions([str(tiny_parts.description)])
    return lambda *opts: tiny_cfg(*DENSE, "MODEL.SAM.WEIGHTS", "shipped", "MODEL.PROMPTER.NUM_CLASSES", 3, *opts)


def test_they_are_made_once_and_anew_for_other_labels(cfg, tiny_parts, monkeypatch):
    records = DatasetCatalog.get(tiny_parts.split("train"))
    first = teacher_maps(cfg(), "tiny_parts_train", records, None)
    assert len(first) == 6
    part_map = cv2.imdecode(first[0], cv2.IMREAD_UNCHANGED)
    assert part_map.shape == (64, 64) and set(np.unique(part_map)) <= {0, 1, 2, 3}
    monkeypatch.setattr("wps_sam.engine.teacher_maps.build_encoder", None)
    again = teacher_maps(cfg(), "tiny_parts_train", records, None)
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    moved = [{**r, "annotations": [{**a, "bbox": [1, 1, 9, 9]} for a in r["annotations"]]} for r in records]
    for changed in (
        lambda: teacher_maps(cfg(), "tiny_parts_train", moved, None),
        lambda: teacher_maps(cfg("WEAK_LABELS.TYPE", "point"), "tiny_parts_train", records, None),
        lambda: teacher_maps(cfg("MODEL.PROMPTER.NUM_CLASSES", 4), "tiny_parts_train", records, None),
    ):
        with pytest.raises(TypeError):
            changed()


def test_they_are_the_same_from_stored_features_and_half_a_file_is_made_again(cfg, tiny_parts, tmp_path):
    cached = ("MODEL.SAM.FEATURES", "cache", "MODEL.SAM.CACHE_DIR", str(tmp_path))
    cache_features(cfg(), tmp_path, "fp32")
    live = [x["part_map"] for x in next(iter(build_train_loader(cfg())))]
    stored = [x["part_map"] for x in next(iter(build_train_loader(cfg(*cached))))]
    assert all((a != b).float().mean() < 0.001 for a, b in zip(live, stored))
    (path,) = (tmp_path / "tiny_parts_train").glob("teacher_maps-*")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    build_train_loader(cfg(*cached))
    assert path.read_bytes() == whole


def test_a_map_is_mirrored_with_its_picture(cfg, tiny_parts):
    opts = ("INPUT.RANDOM_FLIP", "horizontal", "SOLVER.IMS_PER_BATCH", 6)
    (seen,) = {
        (tuple(x["image"].shape), tuple(x["part_map"].shape)) for x in next(iter(build_train_loader(cfg(*opts))))
    }
    assert seen[0][1:] == seen[1] == (512, 512)
    batch = next(iter(build_train_loader(cfg(*opts))))
    for x in batch:
        # Where the map says a class lies its labelled box, whichever way the picture is turned.
        for box, label in zip(x["instances"].gt_boxes.tensor, x["instances"].gt_classes):
            ys, xs = (x["part_map"] == label).nonzero().T
            assert abs(xs.float().mean() - (box[0] + box[2]) / 2) < 40, "the map was not mirrored"
            assert abs(ys.float().mean() - (box[1] + box[3]) / 2) < 40


def test_classes_with_sides_change_them_in_a_mirrored_map():
    from wps_sam.data.mapper import PartDatasetMapper

    from detectron2.data import transforms as T

    part_map = np.array([[0, 1, 2, UNKNOWN, 3]], np.uint16)
    mapper = PartDatasetMapper(is_train=True, augmentations=[], flip_map=[1, 0, 2])
    flipped = mapper._part_map(encode_map(part_map), T.TransformList([T.HFlipTransform(5)]))
    assert flipped.tolist() == [[3, UNKNOWN, 2, 0, 1]]
    assert mapper._part_map(encode_map(part_map), T.TransformList([])).tolist() == part_map.tolist()


# ------------------------------------------------------------------ the loss


def test_the_loss_is_the_mean_over_known_pixels():
    part_map = torch.full((16, 16), UNKNOWN)
    part_map[2::4, 2::4] = torch.tensor([[0, 1, 2, UNKNOWN]] * 4)
    target = PartTargets.of_boxes(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    target.part_map = part_map
    logits = torch.randn(1, 3, 4, 4)
    log_p = F.log_softmax(logits[0], dim=0)
    expected = -torch.stack([log_p[c, :, c] for c in range(3)]).mean()
    assert torch.allclose(part_map_loss(logits, [target]), expected)
    target.part_map = torch.full((16, 16), UNKNOWN)
    assert float(part_map_loss(logits.requires_grad_(), [target])) == 0


def test_rare_classes_may_be_favoured():
    """12 pixels of class 0 and 4 of class 1: at balance 1 both classes count alike."""
    target = PartTargets.of_boxes(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    target.part_map = torch.zeros(16, 16, dtype=torch.int64)
    target.part_map[:, 12:] = 1
    logits = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    log_p = F.log_softmax(logits[0], dim=0)
    common, rare = -log_p[0, :, :3].mean(), -log_p[1, :, 3].mean()
    assert torch.allclose(part_map_loss(logits, [target], 1.0), (common + rare) / 2)
    assert torch.allclose(part_map_loss(logits, [target], 0.5), (12**0.5 * common + 2 * rare) / (12**0.5 + 2))
    assert torch.allclose(part_map_loss(logits, [target]), (3 * common + rare) / 4)


def test_cells_that_nobody_knows_are_a_tagged_part_or_background():
    """4 by 4 cells: the upper half of class 0, the lower unknown but for its last column, which is padding."""
    target = PartTargets.of_boxes(torch.tensor([0]), torch.tensor([[0.0, 0, 16, 8]]))
    target.part_map = torch.full((16, 16), 0)
    target.part_map[8:] = UNKNOWN
    target.part_map[8:, 12:] = PADDING
    logits = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    assert float(tagged_map_loss(logits, [target])) == 0
    # Class 0 has a place, so its tag says nothing more.
    target.tags = torch.tensor([0, 2])
    p = logits[0].softmax(0)
    unknown = torch.zeros(4, 4, dtype=torch.bool)
    unknown[2:, :3] = True
    either = -torch.log((p[2] + p[3])[unknown]).mean()
    of_tag = torch.zeros(6, 6)
    of_tag[3:5, 1:4] = p[2, 2:, :3]
    present = max(of_tag[y : y + 3, x : x + 3].mean() for y in range(4) for x in range(4))
    loss = tagged_map_loss(logits, [target])
    assert torch.allclose(loss, either - present.log())
    target.cropped = True
    assert torch.allclose(tagged_map_loss(logits, [target]), either)
    wrong = -torch.log(p[2][unknown]).mean() - present.log()
    assert not torch.allclose(loss, wrong)


def test_the_head_learns_and_names_masks(cfg):
    opts = ("SOLVER.MAX_ITER", 40, "SOLVER.BASE_LR", 2e-3, "SOLVER.OPTIMIZER", "AdamW", "SOLVER.WARMUP_ITERS", 2)
    more = ("MODEL.DENSE_PROMPTER.STRIDE", 16, "MODEL.DENSE_PROMPTER.CONV_DIM", 32, "DATASETS.TEST", ())
    trainer = engine.Trainer(cfg(*opts, *more))
    losses = []
    trainer.model.register_forward_hook(lambda _, __, output: losses.append(float(output["loss_part"].detach())))
    trainer.train()
    assert losses[-1] < 0.5 * losses[0]
