"""Pre-training of a promptable SAM: losses by hand, views and prompts, SAM on windows, exact resume, that it learns."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from wps_sam.data import register_descriptions
from wps_sam.encoders.build_sam import PATCH_SIZE, SAM_ARCHS, SHIPPED_WEIGHTS, SamArch, build_sam
from wps_sam.pretraining import Pretrainer, PretrainSettings, read_settings
from wps_sam.pretraining.losses import dice_loss, focal_loss, prompt_losses
from wps_sam.pretraining.pictures import CollageSource, DatasetSource, Pieces, SyntheticSource
from wps_sam.pretraining.promptable import decode_masks, encode_views, init_weights, load_weights, window_of
from wps_sam.pretraining.trainer import first_questions, next_clicks
from wps_sam.pretraining.views import PIXEL_MEAN, PIXEL_STD, PromptKind, draw_prompts, draw_view, pad_normalised
from wps_sam.stops import Stopped

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_wps_sam import MOBILE_TEST

TOY = PretrainSettings(
    synthetic_count=3,
    synthetic_sizes=(128, 128),
    crop_size=128,
    batch_size=1,
    prompts_per_image=3,
    correction_share=0.7,
    loss_size=64,
    iterations=4,
    minutes=0,
    learning_rate=1e-3,
    warmup_iterations=1,
    val_pictures=1,
    log_every=1,
)
SHARES = (0.6, 0.3, 0.1)


def _two_pieces() -> Pieces:
    """64 x 48: a left piece and a right piece that touch, of one object; a third apart, of another."""
    piece_map = np.full((48, 64), -1, np.int16)
    piece_map[10:30, 8:20] = 0
    piece_map[10:30, 20:32] = 1
    piece_map[36:46, 50:62] = 2
    image = np.full((48, 64, 3), 128, np.uint8)
    image[piece_map >= 0] = (250, 10, 10)
    return Pieces(image, piece_map, np.array([0, 0, 1]))


# ---------------------------------------------------------------- losses


def test_focal_loss_by_hand() -> None:
    # p = 0.5: foreground 0.25 * 0.25 * ln 2, background 0.75 * 0.25 * ln 2.
    logits, targets = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    expected = (0.25 * 0.25 + 0.75 * 0.25) * math.log(2) / 2
    assert focal_loss(logits[None], targets[None]).item() == pytest.approx(expected)


def test_focal_loss_stays_finite_for_extreme_logits() -> None:
    logits = torch.tensor([[[1e4, -1e4]]])
    assert torch.isfinite(focal_loss(logits, torch.tensor([[[0.0, 1.0]]]))).all()


def test_dice_loss_by_hand() -> None:
    # p = 0.5 everywhere on 4 pixels, 2 of them foreground: 1 - (2 * 1 + 1) / (2 + 2 + 1).
    assert dice_loss(torch.zeros(1, 2, 2), torch.tensor([[[1.0, 1], [0, 0]]])).item() == pytest.approx(1 - 3 / 5)


def test_boxes_train_the_single_mask_and_points_the_best_of_three() -> None:
    targets = torch.zeros(3, 4, 4)
    targets[:, :2] = 1
    good, bad = targets[0] * 40 - 20, 20 - targets[0] * 40
    masks = torch.stack([bad, bad, good, bad]).expand(3, -1, -1, -1).clone().requires_grad_()
    iou = torch.zeros(3, 4, requires_grad=True)
    # A box; a point that means a part; a point that means something larger.
    ambiguous, is_part = torch.tensor([False, True, True]), torch.tensor([True, True, False])
    result = prompt_losses(masks, iou, targets, ambiguous, is_part)
    # Wrong: all 16 pixels at 20 * focal of about 20 * 0.5 * 20, dice near 1. Right: nothing but (0 - 1)^2 for the IoU.
    assert result.loss[2].item() == pytest.approx(1.0, abs=1e-3)
    assert result.loss[1].item() == pytest.approx(result.loss[0].item() + 1.0, rel=1e-3)
    assert result.loss[0] > 100
    assert result.iou.tolist() == [0, 0, 0] and result.best_iou.tolist() == [0, 1, 1]
    result.loss.sum().backward()
    assert masks.grad is not None and iou.grad is not None
    trained = masks.grad.abs().sum((-2, -1)) > 1e-3
    assert trained[:, 0].tolist() == [True, True, False]
    # The best mask is perfect: only its rating is still to be learned.
    assert (iou.grad != 0).tolist() == [
        [False, False, False, False],
        [False, False, True, False],
        [False, False, True, False],
    ]


def test_the_iou_head_learns_the_true_iou() -> None:
    targets = torch.zeros(1, 4, 4)
    targets[:, :2] = 1
    logits = (targets * 40 - 20)[:, None].expand(1, 4, 4, 4)
    sure, part = torch.tensor([False]), torch.tensor([True])
    # Mask perfect, predicted IoU 0.7: what is left is (0.7 - 1)^2.
    loss = prompt_losses(logits, torch.full((1, 4), 0.7), targets, sure, part).loss
    assert loss.item() == pytest.approx(0.09, abs=1e-4)


# ---------------------------------------------------------------- pictures, views and prompts


def test_prompts_lie_on_what_they_ask_for() -> None:
    pieces = _two_pieces()
    sizes = set()
    for seed in range(40):
        prompts = draw_prompts(pieces.piece_map, pieces.objects, 3, SHARES, np.random.default_rng(seed))
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


def test_a_piece_comes_first_with_a_probability_by_one_over_its_side() -> None:
    piece_map = np.full((40, 40), -1, np.int16)
    piece_map[2:22, 2:22], piece_map[30:34, 30:34] = 0, 1
    rng = np.random.default_rng(0)
    sums = [draw_prompts(piece_map, np.array([0, 1]), 1, SHARES, rng).masks.sum() for _ in range(1200)]
    # Sides 20 and 4: the small one in five cases of six.
    assert np.mean(np.array(sums) == 16) == pytest.approx(5 / 6, abs=0.04)


def test_kinds_of_prompts_come_in_their_shares() -> None:
    pieces = _two_pieces()
    rng = np.random.default_rng(0)
    drawn = [draw_prompts(pieces.piece_map, pieces.objects, 3, SHARES, rng) for _ in range(400)]
    kinds = np.concatenate([prompts.kinds[prompts.is_part] for prompts in drawn])
    assert np.bincount(kinds) / len(kinds) == pytest.approx(SHARES, abs=0.05)


def test_a_box_that_is_also_a_pieces_means_the_piece() -> None:
    body_with_wing = np.zeros((40, 40), np.int16)
    body_with_wing[15:25, 15:25] = 1
    side_by_side = np.zeros((40, 40), np.int16)
    side_by_side[:, 20:] = 1
    kinds = {}
    for name, piece_map in (("inside", body_with_wing), ("beside", side_by_side)):
        rng = np.random.default_rng(0)
        drawn = [draw_prompts(piece_map, np.array([0, 0]), 4, SHARES, rng) for _ in range(60)]
        together = np.concatenate([prompts.kinds[~prompts.is_part] for prompts in drawn])
        assert len(together) > 20
        kinds[name] = set(together.tolist())
    assert kinds["inside"] == {PromptKind.POINT}
    assert kinds["beside"] == set(PromptKind)


def test_a_picture_without_pieces_gives_no_prompts() -> None:
    empty = np.full((20, 30), -1, np.int16)
    prompts = draw_prompts(empty, np.zeros(0, int), 4, SHARES, np.random.default_rng(0))
    assert len(prompts.masks) == len(prompts.boxes) == 0


def test_views_move_image_and_pieces_alike() -> None:
    pieces = _two_pieces()
    for seed in range(30):
        view, origin = draw_view(pieces, 128, 64, (0.5, 1.35), np.random.default_rng(seed))
        assert max(view.image.shape[:2]) <= 64 and view.image.shape[:2] == view.piece_map.shape
        assert all(o % PATCH_SIZE == 0 and 0 <= o <= 128 - 64 for o in origin)
        assert (view.piece_map >= 0).any()
        # Pieces are red on grey, whatever the colours become: well inside, red leads green by far.
        lead = view.image[..., 0].astype(int) - view.image[..., 1]
        on, off = lead[view.piece_map >= 0], lead[view.piece_map < 0]
        assert np.median(on) > 40 + (np.median(off) if len(off) else 0)


def test_a_view_of_the_whole_square_is_the_picture_at_the_scale_of_inference() -> None:
    # Doubled in size, unless a flip turned it round: the first piece covers rows 20..59 and columns 16..39.
    views = [draw_view(_two_pieces(), 128, 128, (1.0, 1.0), np.random.default_rng(seed)) for seed in range(8)]
    found = set()
    for view, origin in views:
        assert origin == (0, 0) and view.piece_map.shape == (96, 128)
        ys, xs = np.nonzero(view.piece_map == 0)
        assert (ys.min(), ys.max()) == (20, 59)
        found.add((xs.min(), xs.max()))
    assert found == {(16, 39), (88, 111)}


def test_a_window_begins_where_its_origin_says_mirrored_or_not() -> None:
    picture = _two_pieces()
    # Brighter to the right, which tells whether a view is mirrored.
    picture.image[:] = np.arange(64, dtype=np.uint8)[None, :, None] * 3 + 20
    twice = np.repeat(np.repeat(picture.piece_map, 2, axis=0), 2, axis=1)
    directions = set()
    for seed in range(20):
        view, (left, top) = draw_view(picture, 128, 32, (1.0, 1.0), np.random.default_rng(seed))
        grey = view.image.astype(float).mean((0, 2))
        mirrored = bool(grey[-1] < grey[0])
        directions.add(mirrored)
        seen = twice[:, ::-1] if mirrored else twice
        assert np.array_equal(view.piece_map, seen[top : top + 32, left : left + 32])
    assert directions == {True, False}


def test_windows_reach_every_edge() -> None:
    # 100 rows in windows of 32: the last window begins at 80 and reaches over the edge, not at 64.
    picture = Pieces(np.zeros((100, 112, 3), np.uint8), np.zeros((100, 112), np.int16), np.zeros(1, int))
    rows = set()
    for seed in range(60):
        view, (_, top) = draw_view(picture, 112, 32, (1.0, 1.0), np.random.default_rng(seed))
        rows |= set(range(top, top + len(view.piece_map)))
    assert rows == set(range(100))


def test_padding_is_zero_after_normalisation_at_the_bottom_and_right() -> None:
    image = np.full((5, 20, 3), (124, 116, 104), np.uint8)
    square = pad_normalised(image, 20)
    assert square.shape == (3, 20, 20) and (square[:, 5:] == 0).all()
    assert square[:, :5].abs().max() < 0.02


def test_the_normalisation_is_sams() -> None:
    sam = build_sam("vit_tiny")
    assert torch.equal(sam.pixel_mean.flatten(), torch.from_numpy(PIXEL_MEAN))
    assert torch.equal(sam.pixel_std.flatten(), torch.from_numpy(PIXEL_STD))


def test_generated_pictures_are_made_once() -> None:
    source = SyntheticSource((64, 96), count=2)
    drawn = [source.sample(np.random.default_rng(seed)) for seed in range(6)]
    assert len({id(p.image) for p in drawn}) == 2
    assert all(64 <= p.image.shape[0] <= 96 for p in drawn)


def test_a_collage_covers_pieces_and_adds_new_ones() -> None:
    grey, red = _two_pieces(), _two_pieces()
    grey.image[:] = 100

    class Below:
        """The first picture drawn is the one below, the others are pasted."""

        def __init__(self) -> None:
            self.drawn = 0

        def sample(self, rng: np.random.Generator) -> Pieces:
            self.drawn += 1
            return grey if self.drawn == 1 else red

    pasted = 0
    for seed in range(20):
        before = grey.piece_map.copy()
        collage = CollageSource([Below()]).sample(np.random.default_rng(seed))
        assert np.array_equal(grey.piece_map, before), "the picture below was changed"
        new = collage.piece_map >= 3
        pasted += new.any()
        # Where nothing was pasted, all is as it was; pasted pieces are of new objects.
        assert np.array_equal(collage.piece_map[~new], before[~new])
        assert collage.piece_map.max() < len(collage.objects)
        if new.any():
            assert set(collage.objects[np.unique(collage.piece_map[new])]).isdisjoint({0, 1})
            # Red parts on grey: inside, away from the soft edge.
            assert np.median(collage.image[new][:, 0].astype(int) - collage.image[new][:, 1]) > 40
    assert pasted > 10


def test_a_collage_needs_something_to_paste() -> None:
    with pytest.raises(ValueError, match="a collage needs at least one other source"):
        CollageSource([])


def test_data_sets_give_pieces(write_tiny_parts: Callable, tmp_path: Path) -> None:
    parts = write_tiny_parts(tmp_path / "parts", name="pretraining_parts", num_train=2, num_val=1, num_empty=1)
    register_descriptions([str(parts.description)])
    source = DatasetSource(parts.split("train"))
    assert len(source) == 2  # the picture without annotations cannot be asked about
    pieces = source.sample(np.random.default_rng(0))
    assert pieces.image.shape == (64, 64, 3) and set(np.unique(pieces.piece_map)) <= {-1, 0, 1}


# ---------------------------------------------------------------- SAM in training


def test_a_view_of_the_whole_square_is_encoded_as_by_the_package() -> None:
    encoder = build_sam("vit_tiny", "shipped").image_encoder
    images = torch.randn(1, 3, 512, 512, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = encode_views(encoder, images, torch.zeros(1, 2, dtype=torch.int64))
        torch.testing.assert_close(whole, encoder(images))


def test_windows_keep_their_positions_in_the_square() -> None:
    """With attention within windows only, a view aligned to them is encoded as within the square."""
    encoder = build_sam("vit_tiny", "shipped").image_encoder
    for block in encoder.blocks:
        if not block.window_size:
            block.attn.qkv.weight.data.zero_()  # what global attention adds is then the same everywhere
            block.attn.qkv.bias.data.zero_()
    images = torch.randn(1, 3, 512, 512, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = encoder(images)[..., 8:24, 16:32]
        view = images[..., 128:384, 256:512]
        part = encode_views(encoder, view, torch.tensor([[256, 128]]))
        elsewhere = encode_views(encoder, view, torch.tensor([[0, 0]]))
    inside = np.s_[..., 1:-1, 1:-1]  # the neck's convolution sees a cell around
    torch.testing.assert_close(part[inside], whole[inside], atol=1e-4, rtol=1e-4)
    assert (elsewhere[inside] - whole[inside]).abs().max() > 0.01


def test_a_step_between_tokens_is_the_same_step_in_a_view() -> None:
    """Global attention in a view takes the middle of its tables; the package would stretch them."""
    sam = build_sam("vit_tiny")
    init_weights(sam, 0)
    encoder = sam.image_encoder
    for block in encoder.blocks:
        if not block.window_size:
            block.attn.rel_pos_h.data[:] = torch.linspace(-1, 1, 63)[:, None]
    view = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    origin = torch.zeros(1, 2, dtype=torch.int64)
    with torch.no_grad():
        before = encode_views(encoder, view, origin)
        for block in encoder.blocks:
            if not block.window_size:
                block.attn.rel_pos_h.data[:24] = 5  # steps of 8 tokens and more do not occur among 8 x 8
                block.attn.rel_pos_h.data[39:] = 5
        assert torch.equal(encode_views(encoder, view, origin), before)
        encoder.blocks[1].attn.rel_pos_h.data[24] = 5
        assert not torch.equal(encode_views(encoder, view, origin), before)


def test_position_encodings_of_windows() -> None:
    grid = torch.arange(16.0).view(1, 1, 4, 4)
    windows = window_of(grid, torch.tensor([[32, 16], [0, 0]]), 2)
    assert windows[:, 0].tolist() == [[[6, 7], [10, 11]], [[0, 1], [4, 5]]]
    assert window_of(grid, torch.tensor([[0, 0]]), 4) is grid


@pytest.mark.parametrize("kind", list(PromptKind))
@pytest.mark.parametrize("with_mask", [False, True])
def test_the_decoder_agrees_with_the_package(kind: PromptKind, with_mask: bool) -> None:
    sam = build_sam("vit_tiny", "shipped")
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(2, 256, 32, 32, generator=generator)
    points = None if kind == PromptKind.BOX else (torch.tensor([[[12.0, 30]], [[128, 77]]]), torch.ones(2, 1))
    boxes = None if kind == PromptKind.POINT else torch.tensor([[10.0, 20, 80, 90], [100, 30, 200, 250]])
    masks = torch.randn(2, 1, 128, 128, generator=generator) if with_mask else None
    position = sam.prompt_encoder.get_dense_pe()
    with torch.no_grad():
        sparse, dense = sam.prompt_encoder(points, boxes, masks)
        found, found_iou = decode_masks(sam, embeddings, sparse, dense, position)
        for k in range(2):
            expected, expected_iou = sam.mask_decoder.predict_masks(
                embeddings[k : k + 1], position, sparse[k : k + 1], dense[k : k + 1]
            )
            torch.testing.assert_close(found[k], expected[0], atol=1e-3, rtol=1e-3)
            torch.testing.assert_close(found_iou[k], expected_iou[0], atol=1e-4, rtol=1e-4)


def test_weights_of_another_input_size_are_taken_over(tmp_path: Path) -> None:
    old = {k: v.clone() for k, v in build_sam("vit_tiny", "shipped").state_dict().items()}
    small = dict(old)
    small["image_encoder.pos_embed"] = torch.randn(1, 16, 16, 192)
    tables = [k for k in old if "rel_pos" in k and len(old[k]) == 63]
    for key in tables:
        old[key] = torch.randn_like(old[key])
        small[key] = old[key][16:47].contiguous()
    save_file(small, str(tmp_path / "small.safetensors"))
    sam = build_sam("vit_tiny")
    load_weights(sam, str(tmp_path / "small.safetensors"), "vit_tiny")
    state = sam.state_dict()
    assert len(tables) == 8
    for key in tables:
        assert torch.equal(state[key][16:47], old[key][16:47])
        assert torch.equal(state[key][:16], old[key][16:17].expand(16, -1))
    fresh = {key for key in old if not torch.equal(state[key], old[key])}
    assert fresh == {*tables, "image_encoder.pos_embed"}
    # Stretched, so what it says of a place in the picture stays.
    corners = state["image_encoder.pos_embed"][0, ::31, ::31], small["image_encoder.pos_embed"][0, ::15, ::15]
    assert torch.nn.functional.cosine_similarity(*corners, dim=-1).min() > 0.9


def test_start_weights_of_other_layers_are_refused(tmp_path: Path) -> None:
    state = build_sam("vit_tiny", "shipped").state_dict()
    state.pop("image_encoder.blocks.7.norm1.weight")
    save_file(state, str(tmp_path / "other.safetensors"))
    with pytest.raises(ValueError, match=r"blocks.7.norm1.weight"):
        Pretrainer(replace(TOY, weights=str(tmp_path / "other.safetensors")), str(tmp_path))


# ---------------------------------------------------------------- prompts in rounds


def test_a_click_lands_on_the_error_and_says_what_it_is() -> None:
    targets = torch.zeros(3, 8, 8)
    targets[:, 2:4, 2:4] = 1
    logits = targets * 20 - 10
    logits[0, 3, 3] = -5  # missed
    logits[1, 6, 1] = 5  # too much
    points, labels = next_clicks(logits, targets, 32, torch.Generator().manual_seed(0))
    # Cells are 4 pixels wide: the centre of cell 3 is 3.5 * 4 - 0.5.
    assert points[0].tolist() == [13.5, 13.5] and points[1].tolist() == [5.5, 25.5]
    assert labels.tolist() == [1, 0, 1]
    x, y = ((points[2] + 0.5) / 4).long().tolist()
    assert targets[2, y, x] == 1, "a perfect mask is clicked on what is wanted"


def test_rounds_ask_every_kind_and_then_correct_with_the_last_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(TOY, batch_size=4, prompts_per_image=6, prompt_shares=(1, 1, 1), correction_rounds=2)
    pretrainer = Pretrainer(settings, str(tmp_path))
    batch = next(pretrainer.batches())
    firsts = first_questions(batch)
    assert torch.cat([q.rows for q in firsts]).sort().values.tolist() == list(range(len(batch.kinds)))
    asked = []
    embed = pretrainer._embed
    monkeypatch.setattr(pretrainer, "_embed", lambda q, origins: asked.append(q) or embed(q, origins))
    loss, stats = pretrainer.loss(batch)
    assert loss.requires_grad and set(stats) >= {"loss", "box_iou", "point_iou", "correction_iou"}
    forms = [(q.points.shape[1], q.boxes is not None, q.masks is not None) for q in asked]
    assert forms == [
        *((0, True, False), (1, True, True), (2, True, True)),
        *((1, False, False), (2, False, True), (3, False, True)),
        *((1, True, False), (2, True, True), (3, True, True)),
    ]
    for question in asked:
        if question.masks is None:
            assert (question.labels == 1).all()
        else:
            assert not question.masks.requires_grad


def test_prompts_of_a_view_are_asked_at_their_place_in_the_square(tmp_path: Path) -> None:
    pretrainer = Pretrainer(TOY, str(tmp_path))
    question = first_questions(next(pretrainer.batches()))[0]
    origins = torch.tensor([[64, 32]]).expand(len(question.rows), -1)
    assert question.boxes is not None
    sparse, _ = pretrainer._embed(question, origins)
    moved = question.boxes + torch.tensor([64.0, 32, 64, 32])
    expected = pretrainer.sam.prompt_encoder(points=None, boxes=moved, masks=None)[0]
    assert torch.equal(sparse, expected)


# ---------------------------------------------------------------- a teacher

# A student of 128 pixels; teachers that see 256 and have its decoder, or another one.
STUDENT = {"arch": "mobile_test", "crop_size": 0, "batch_size": 2, "teacher": "teacher_test", "mask_loss": 0.0}


@pytest.fixture
def small_archs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SAM_ARCHS, "mobile_test", MOBILE_TEST)
    monkeypatch.setitem(SAM_ARCHS, "teacher_test", SamArch(256, 32, 1, 2, (0,), 0, MOBILE_TEST.decoder_mlp_dim))


def student(**changes: Any) -> PretrainSettings:
    """To be made where the small ones are known."""
    return replace(TOY, **{**STUDENT, **changes})


def test_embeddings_of_a_teacher_are_learned_by_hand(small_archs: None, tmp_path: Path) -> None:
    pretrainer = Pretrainer(student(), str(tmp_path))
    batch = next(pretrainer.batches())
    loss, stats = pretrainer.loss(batch)
    # The mean over all numbers of the squared distance to what segment_anything's own encoder sees at its size; four
    # of its cells are one of the student's.
    teacher = build_sam("teacher_test").image_encoder
    with torch.no_grad():
        enlarged = torch.nn.functional.interpolate(batch.images, (256, 256), mode="bilinear")
        seen = teacher(enlarged).unflatten(3, (8, 2)).unflatten(2, (8, 2)).mean((3, 5))
        own = pretrainer.sam.image_encoder(batch.images)
        expected = ((own - seen).double() ** 2).sum() / (2 * 256 * 8 * 8)
        summed = ((own - seen) ** 2).sum(1).mean()
    assert stats["embedding"] == stats["loss"] == pytest.approx(expected.item(), rel=1e-3)
    assert summed > 100 * expected
    loss.backward()
    trained = {
        name.split(".")[0] for name, parameter in pretrainer.sam.named_parameters() if parameter.grad is not None
    }
    assert trained == {"image_encoder"}


def test_the_loss_on_embeddings_is_one_more(small_archs: None, tmp_path: Path) -> None:
    both = student(mask_loss=2.0, embedding_loss=0.5)
    alone = replace(both, teacher="")
    pretrainers = [Pretrainer(settings, str(tmp_path)) for settings in (both, alone)]
    batch = next(pretrainers[0].batches())
    (total, stats), (masks, of_masks) = (pretrainer.loss(batch) for pretrainer in pretrainers)
    assert total.item() == pytest.approx(masks.item() + 0.5 * stats["embedding"], rel=1e-5)
    assert stats["box_iou"] == of_masks["box_iou"] and "embedding" not in of_masks
    assert masks.item() == pytest.approx(
        2 * Pretrainer(replace(alone, mask_loss=1), str(tmp_path)).loss(batch)[0].item()
    )


def test_a_student_takes_the_teachers_decoder_and_learns_its_embeddings(
    small_archs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrainer = Pretrainer(student(iterations=20, learning_rate=3e-3), str(tmp_path))
    monkeypatch.setattr(pretrainer, "validate", lambda whole=False: {})
    batch = next(pretrainer.batches())
    monkeypatch.setattr(pretrainer, "batches", lambda: iter([batch] * 20))
    first = pretrainer.loss(batch)[1]["embedding"]
    pretrainer.train()
    # Statistics and all: a new run goes on from there.
    resumed = Pretrainer(pretrainer.settings, str(tmp_path))
    resumed.resume()
    for name, value in pretrainer.sam.state_dict().items():
        assert torch.equal(resumed.sam.state_dict()[name], value), name
    assert pretrainer.loss(batch)[1]["embedding"] < 0.5 * first
    exported = build_sam("mobile_test", str(pretrainer.export_path)).state_dict()
    teacher = build_sam("teacher_test").state_dict()
    for name in teacher:
        if not name.startswith("image_encoder."):
            torch.testing.assert_close(exported[name], teacher[name], atol=1e-3, rtol=1e-3)
    assert exported["image_encoder.layers.0.blocks.0.conv1.bn.num_batches_tracked"] == 21


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": "vit_x"}, "teacher: expected one of vit_tiny, .*mobile_sam.*, got 'vit_x'"),
        ({"teacher": ""}, "mask_loss: expected more than 0 without a teacher, got 0"),
        ({"mask_loss": -1.0}, "mask_loss: expected 0 or more"),
        ({"embedding_loss": 0.0}, "embedding_loss: expected more than 0"),
        ({"crop_size": 64}, "crop_size: expected 0 with a teacher, which sees the whole square, got 64"),
        (
            {"teacher": "vit_tiny"},
            "mask_loss: expected more than 0: a mobile_test can't take the mask decoder of a vit_",
        ),
        ({"teacher_weights": "nowhere.pth"}, "nowhere.pth: no such checkpoint file"),
    ],
)
def test_teachers_that_do_not_fit_are_refused(small_archs: None, change: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        Pretrainer(student(**change), str(tmp_path))


# ---------------------------------------------------------------- training


def test_a_few_steps_on_one_batch_reduce_the_loss(tmp_path: Path) -> None:
    pretrainer = Pretrainer(replace(TOY, iterations=100, correction_rounds=0), str(tmp_path))
    batch = next(pretrainer.batches())
    losses = [pretrainer.step(batch)["loss"] for _ in range(12)]
    assert losses[-1] < 0.7 * losses[0]


def test_a_run_that_was_stopped_and_resumed_equals_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Pretrainer(TOY, str(tmp_path / "whole"))
    monkeypatch.setattr(whole, "validate", lambda whole=False: {"synthetic/box": 0.0})
    whole.train()
    first = Pretrainer(TOY, str(tmp_path / "cut"))

    step = first.step

    def step_and_be_asked(batch: dict[str, Any]) -> dict[str, float]:
        if first.iteration == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(batch)

    monkeypatch.setattr(first, "step", step_and_be_asked)
    with pytest.raises(
        Stopped, match=r"^2 iterations are in .*checkpoint\.pt; the same command with --resume goes on$"
    ):
        first.train()
    second = Pretrainer(replace(TOY), str(tmp_path / "cut"))
    second.resume()
    monkeypatch.setattr(second, "validate", lambda whole=False: {"synthetic/box": 0.0})
    second.train()
    assert second.iteration == whole.iteration == 4
    for key, value in whole.sam.state_dict().items():
        assert torch.equal(value, second.sam.state_dict()[key]), key
        assert torch.equal(whole.average.module.state_dict()[key], second.average.module.state_dict()[key]), key


def test_the_average_is_exponential_and_forgets_the_start(tmp_path: Path) -> None:
    """By hand: after step i the old average keeps min(ema, (1 + i) / (10 + i)) of itself, first of the start."""
    pretrainer = Pretrainer(replace(TOY, ema=0.2), str(tmp_path))
    weight, average = pretrainer.sam.mask_decoder.iou_token.weight, pretrainer.average
    expected = weight.detach().clone()
    for batch, step in zip(pretrainer.batches(), (1, 2)):
        pretrainer.step(batch)
        keep = min(0.2, (1 + step) / (10 + step))
        expected = expected + (weight.detach() - expected) * (1 - keep)
        torch.testing.assert_close(average.module.mask_decoder.iou_token.weight, expected)
    # 2 / 11 in the first step, the setting in the second.
    assert int(average.n_averaged) == 3


def test_a_checkpoint_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    pretrainer = Pretrainer(TOY, str(tmp_path))
    pretrainer.save()
    state = torch.load(pretrainer.checkpoint_path)
    state["average"] = pretrainer.sam.state_dict()
    torch.save(state, pretrainer.checkpoint_path)
    with pytest.raises(ValueError, match="written by an earlier version.*weights=.*sam.safetensors"):
        pretrainer.resume()


def test_resuming_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no checkpoint to resume from"):
        Pretrainer(TOY, str(tmp_path)).resume()


def test_validation_scores_the_averaged_weights(
    write_tiny_parts: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = write_tiny_parts(tmp_path / "parts", name="pretraining_val", num_train=1, num_val=1)
    register_descriptions([str(parts.description)])
    pretrainer = Pretrainer(replace(TOY, val_dataset=parts.split("val")), str(tmp_path / "out"))
    with torch.no_grad():
        for value in pretrainer.sam.parameters():
            value.mul_(1.5)
    trained = {k: v.clone() for k, v in pretrainer.sam.state_dict().items()}
    first = pretrainer.validate()
    assert set(first) == {
        f"{name}/{kind}"
        for name in ("synthetic", parts.split("val"))
        for kind in ("filled_box", "box", "point_best_of_3")
    }
    assert all(torch.equal(trained[k], v) for k, v in pretrainer.sam.state_dict().items()) and pretrainer.sam.training
    with torch.no_grad():
        for value in pretrainer.average.module.parameters():
            value.zero_()
    assert pretrainer.validate()["synthetic/box"] != first["synthetic/box"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iterations": 0, "minutes": 0.0}, "iterations and minutes: expected one to be positive, got 0, 0.0"),
        ({"sources": ()}, "sources: expected at least one"),
        ({"sources": (("synthetic", -1.0),)}, "sources: expected at least one"),
        ({"sources": (("collage", 1.0),)}, "another source that a collage is made of"),
        ({"prompt_shares": (1.0, -0.5, 0.0)}, "prompt_shares: expected three shares"),
        ({"correction_share": 1.5}, r"correction_share: expected 0\.\.1, got 1.5"),
        ({"synthetic_count": 10**9 + 1}, "synthetic_count: expected 1 or more, and none of validation's"),
        ({"scale_range": (1.0, 0.5)}, "scale_range: expected 0 < low <= high"),
        ({"crop_size": 100}, "crop_size: expected a multiple of 16, got 100"),
    ],
)
def test_impossible_settings_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TOY, **change)


def test_a_view_larger_than_the_square_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="crop_size: vit_tiny sees 512 pixels, got 1024"):
        Pretrainer(replace(TOY, crop_size=1024), str(tmp_path))


def test_settings_are_read_in_their_types() -> None:
    read = read_settings(
        PretrainSettings, {"sources": {"synthetic": 1}, "learning_rate": "4e-4", "minutes": 3, "scale_range": [1, 2]}
    )
    assert read.sources == (("synthetic", 1.0),) and read.learning_rate == 4e-4
    assert read.minutes == 3.0 and read.scale_range == (1.0, 2.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rat": 1}, "unknown settings learning_rat .*; expected some of batch_size"),
        ({"batch_size": "many"}, "batch_size: expected a int, got 'many'"),
        ({"bf16": 1}, "bf16: expected a bool, got 1"),
        ({"learning_rate": "fast"}, "learning_rate: expected a float, got 'fast'"),
        ({"scale_range": 2}, "scale_range: expected a tuple, got 2"),
        ({"sources": ["synthetic"]}, "sources: expected a mapping of names to weights"),
    ],
)
def test_wrong_settings_are_named(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_settings(PretrainSettings, values)


def test_the_export_is_a_sam_in_half_precision_that_tells_its_origin(tmp_path: Path) -> None:
    pretrainer = Pretrainer(
        replace(TOY, weights=str(SHIPPED_WEIGHTS)), str(tmp_path), command="python tools/pretrain_sam.py seed=0"
    )
    path = tmp_path / "sam.safetensors"
    pretrainer.export(note="toy")
    loaded = build_sam("vit_tiny", str(path))
    torch.testing.assert_close(
        loaded.mask_decoder.iou_token.weight,
        pretrainer.average.module.mask_decoder.iou_token.weight.detach(),
        atol=1e-3,
        rtol=1e-3,
    )
    with safe_open(str(path), "pt") as file:
        about = file.metadata()
        assert file.get_tensor("mask_decoder.iou_token.weight").dtype == torch.float16
    assert about["arch"] == "vit_tiny" and about["command"].startswith("python tools/pretrain_sam.py")
    assert about["note"] == "toy" and json.loads(about["settings"])["seed"] == 0
