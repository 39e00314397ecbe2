"""Pre-training of a promptable SAM: losses by hand, prompts, the batched decoder, exact resume, and that it learns."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from wps_sam.data import register_descriptions
from wps_sam.modeling.sam import build_sam
from wps_sam.pretraining import (
    Batch,
    DatasetSource,
    Pieces,
    Pretrainer,
    PretrainSettings,
    augment,
    decode_masks,
    dice_loss,
    draw_prompts,
    embed_prompts,
    focal_loss,
    pad_normalised,
    prompt_losses,
    resize_longest,
    score_box_prompts,
)

import numpy as np
import pytest
import torch
from safetensors import safe_open

TOY = PretrainSettings(
    batch_size=1,
    prompts_per_image=2,
    loss_size=64,
    iterations=4,
    minutes=0,
    learning_rate=1e-3,
    warmup_iterations=1,
    val_pictures=1,
    log_every=1,
)


def _two_pieces() -> Pieces:
    """64 x 48: a left piece and a right piece that touch, of one object; a third apart, of another."""
    piece_map = np.full((48, 64), -1, np.int16)
    piece_map[10:30, 8:20] = 0
    piece_map[10:30, 20:32] = 1
    piece_map[36:46, 50:62] = 2
    image = np.full((48, 64, 3), 128, np.uint8)
    image[piece_map >= 0] = (250, 10, 10)
    return Pieces(image, piece_map, np.array([0, 0, 1]))


def test_focal_loss_by_hand() -> None:
    # p = 0.5 at logit 0. Foreground: 0.25 * 0.25 * ln 2; background: 0.75 * 0.25 * ln 2. Mean of one of each.
    logits, targets = torch.zeros(1, 1, 2), torch.tensor([[[1.0, 0.0]]])
    assert focal_loss(logits, targets).item() == pytest.approx(0.5 * 0.25 * math.log(2), rel=1e-6)
    # logit ln 3: p = 3/4. Foreground: 0.25 * (1/4)^2 * ln(4/3).
    confident = focal_loss(torch.full((1, 1, 1), math.log(3)), torch.ones(1, 1, 1))
    assert confident.item() == pytest.approx(0.25 / 16 * math.log(4 / 3), rel=1e-6)
    # A half-covered cell costs half of each.
    half = focal_loss(torch.full((1, 1, 1), math.log(3)), torch.full((1, 1, 1), 0.5))
    expected = 0.5 * 0.25 / 16 * math.log(4 / 3) + 0.5 * 0.75 * 9 / 16 * math.log(4)
    assert half.item() == pytest.approx(expected, rel=1e-6)


def test_focal_loss_stays_finite_for_extreme_logits() -> None:
    logits = torch.tensor([[[-200.0, 200.0]]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([[[1.0, 0.0]]])).sum()
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()


def test_dice_loss_by_hand() -> None:
    # p = (0.5, 0.5), t = (1, 0): 1 - (2 * 0.5 + 1) / (1 + 1 + 1) = 1/3.
    assert dice_loss(torch.zeros(1, 1, 2), torch.tensor([[[1.0, 0.0]]])).item() == pytest.approx(1 / 3)
    perfect = dice_loss(torch.tensor([[[40.0, -40.0]]]), torch.tensor([[[1.0, 0.0]]]))
    assert perfect.item() == pytest.approx(0.0, abs=1e-6)


def test_boxes_train_the_single_mask_and_points_the_best_of_three() -> None:
    targets = torch.zeros(3, 4, 4)
    targets[:, :2] = 1
    good = targets[0] * 20 - 10
    logits = torch.zeros(3, 4, 4, 4)
    logits[:, 0], logits[:, 2] = good, good
    logits.requires_grad_(True)
    batch = Batch(
        images=torch.zeros(1, 3, 16, 16),
        image_index=torch.zeros(3, dtype=torch.int64),
        boxes=torch.zeros(3, 4),
        points=torch.zeros(3, 2),
        use_box=torch.tensor([True, False, False]),
        is_part=torch.tensor([True, True, False]),
        targets=targets,
    )
    iou = torch.ones(3, 4)
    loss, stats = prompt_losses(logits, iou, batch)
    assert loss.item() == pytest.approx(0.0, abs=1e-3)
    assert stats["box_iou"] == stats["point_iou"] == 1.0
    # Worse predictions where gradient is due, to see where it goes.
    loss, _ = prompt_losses(logits * 0.1, iou, batch)
    loss.backward()
    touched = logits.grad.abs().sum((-2, -1)) > 0
    assert touched.tolist() == [
        [True, False, False, False],  # box: the single mask only
        [True, False, True, False],  # point on a part: the single mask and the best of three
        [False, False, True, False],  # point on a group: the best of three only
    ]


def test_the_iou_head_learns_the_true_iou() -> None:
    targets = torch.zeros(1, 4, 4)
    targets[:, :2] = 1
    logits = (targets * 40 - 20)[:, None].expand(1, 4, 4, 4)
    batch = Batch(
        torch.zeros(1, 3, 16, 16),
        torch.zeros(1, dtype=torch.int64),
        torch.zeros(1, 4),
        torch.zeros(1, 2),
        torch.tensor([True]),
        torch.tensor([True]),
        targets,
    )
    # Mask perfect, predicted IoU 0.7: what is left is (0.7 - 1)^2.
    loss, _ = prompt_losses(logits, torch.full((1, 4), 0.7), batch)
    assert loss.item() == pytest.approx(0.09, abs=1e-4)


def test_prompts_lie_on_what_they_ask_for() -> None:
    pieces = _two_pieces()
    sizes = set()
    for seed in range(40):
        prompts = draw_prompts(pieces.piece_map, pieces.objects, 3, 0.5, np.random.default_rng(seed))
        assert len(prompts.masks) == 3
        for mask, box, point, part in zip(prompts.masks, prompts.boxes, prompts.points, prompts.is_part):
            x, y = point.astype(int)
            assert mask[y, x]
            ys, xs = np.nonzero(mask)
            tight = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
            assert np.abs(box - tight).max() <= 64 * 20 / 1024
            sizes.add((int(mask.sum()), bool(part)))
    # The three pieces; the two that touch, as group or object; the object of one piece.
    assert sizes == {(240, True), (120, True), (480, False), (120, False)}


def test_a_picture_without_pieces_gives_no_prompts() -> None:
    empty = np.full((20, 30), -1, np.int16)
    prompts = draw_prompts(empty, np.zeros(0, int), 4, 0.5, np.random.default_rng(0))
    assert len(prompts.masks) == len(prompts.boxes) == 0


def test_augmentation_moves_image_and_pieces_alike() -> None:
    pieces = _two_pieces()
    for seed in range(20):
        moved = augment(pieces, 128, np.random.default_rng(seed))
        assert max(moved.image.shape[:2]) <= 128 and moved.image.shape[:2] == moved.piece_map.shape
        assert (moved.piece_map >= 0).any()
        # Pieces are red on grey, whatever the colours become: well inside, red leads green by far.
        lead = moved.image[..., 0].astype(int) - moved.image[..., 1]
        on, off = lead[moved.piece_map >= 0], lead[moved.piece_map < 0]
        assert np.median(on) > 40 + (np.median(off) if len(off) else 0)


def test_padding_is_zero_after_normalisation_at_the_bottom_and_right() -> None:
    image = np.full((10, 40, 3), (124, 116, 104), np.uint8)
    small = resize_longest(image, 20)
    assert small.shape == (5, 20, 3)
    square = pad_normalised(small, 20)
    assert square.shape == (3, 20, 20) and (square[:, 5:] == 0).all()
    assert square[:, :5].abs().max() < 0.02


def test_the_batched_decoder_agrees_with_the_package() -> None:
    sam = build_sam("vit_tiny")
    embeddings = torch.randn(2, 256, 16, 16, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[10.0, 20, 80, 90], [5, 5, 50, 60], [100, 30, 200, 250]])
    points = torch.tensor([[12.0, 30], [40, 40], [128, 77]])
    use_box = torch.tensor([True, False, True])
    image_index = torch.tensor([1, 0, 0])
    with torch.no_grad():
        tokens = embed_prompts(sam, boxes, points, use_box)
        masks, iou = decode_masks(sam, embeddings, image_index, tokens)
        for k in range(3):
            asked = (
                {"points": None, "boxes": boxes[k : k + 1]}
                if use_box[k]
                else {"points": (points[k : k + 1, None], torch.ones(1, 1)), "boxes": None}
            )
            sparse, dense = sam.prompt_encoder(masks=None, **asked)
            expected, expected_iou = sam.mask_decoder.predict_masks(
                embeddings[image_index[k]][None], sam.prompt_encoder.get_dense_pe(), sparse, dense
            )
            torch.testing.assert_close(masks[k], expected[0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(iou[k], expected_iou[0], atol=1e-4, rtol=1e-4)


def test_a_few_steps_on_one_batch_reduce_the_loss(tmp_path: Path) -> None:
    pretrainer = Pretrainer(replace(TOY, iterations=100), str(tmp_path))
    batch = next(pretrainer._batches())
    losses = [pretrainer.step(batch)["loss"] for _ in range(8)]
    assert losses[-1] < 0.6 * losses[0]


def test_a_resumed_run_equals_an_undisturbed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Pretrainer(TOY, str(tmp_path / "whole"))
    monkeypatch.setattr(whole, "validate", lambda whole=False: {"box_iou": 0.0})
    whole.train()
    first = Pretrainer(TOY, str(tmp_path / "cut"))
    for batch, _ in zip(first._batches(), range(2)):
        first.step(batch)
    first.save()
    second = Pretrainer(replace(TOY), str(tmp_path / "cut"))
    second.resume()
    monkeypatch.setattr(second, "validate", lambda whole=False: {"box_iou": 0.0})
    second.train()
    assert second.iteration == whole.iteration == 4
    for key, value in whole.sam.state_dict().items():
        assert torch.equal(value, second.sam.state_dict()[key]), key
        assert torch.equal(whole.average[key], second.average[key]), key


def test_resuming_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no checkpoint to resume from"):
        Pretrainer(TOY, str(tmp_path)).resume()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iterations": 0, "minutes": 0.0}, "one must be positive"),
        ({"sources": ()}, "sources: expected at least one"),
        ({"sources": (("synthetic", -1.0),)}, "sources: expected at least one"),
        ({"box_share": 1.5}, "box_share: expected 0..1"),
    ],
)
def test_impossible_settings_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TOY, **change)


def test_data_sets_give_pieces_and_true_boxes_are_scored(write_tiny_parts: Callable, tmp_path: Path) -> None:
    parts = write_tiny_parts(
        tmp_path / "parts", name="pretraining_parts", num_train=2, num_val=1, num_empty=1
    )
    register_descriptions([str(parts.description)])
    source = DatasetSource(parts.split("train"))
    assert len(source) == 2  # the picture without annotations cannot be asked about
    pieces = source.sample(np.random.default_rng(0))
    assert pieces.image.shape == (64, 64, 3) and set(np.unique(pieces.piece_map)) <= {-1, 0, 1}
    score = score_box_prompts(build_sam("vit_tiny"), iter([(pieces.image, source.masks(0))]))
    assert score.pieces == len(source.masks(0)) and 0 <= score.box_iou <= 1
    assert 0.5 < score.filled_box_iou <= 1


def test_the_export_is_a_sam_in_half_precision_that_tells_its_origin(tmp_path: Path) -> None:
    pretrainer = Pretrainer(TOY, str(tmp_path), command="python tools/pretrain_sam.py --seed 0")
    path = tmp_path / "sam.safetensors"
    pretrainer.export(path, note="toy")
    loaded = build_sam("vit_tiny", str(path))
    torch.testing.assert_close(
        loaded.mask_decoder.iou_token.weight,
        pretrainer.average["mask_decoder.iou_token.weight"],
        atol=1e-3,
        rtol=1e-3,
    )
    with safe_open(str(path), "pt") as file:
        about = file.metadata()
        assert file.get_tensor("mask_decoder.iou_token.weight").dtype == torch.float16
    assert about["arch"] == "vit_tiny" and about["command"].startswith("python tools/pretrain_sam.py")
    assert about["note"] == "toy" and json.loads(about["settings"])["seed"] == 0
