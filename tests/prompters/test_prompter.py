"""Prompters: the paper's sizes, a plain re-computation of its transformer, and dense read-outs."""

import inspect
from functools import partial

from wps_sam.config import add_wps_sam_config, check_config
from wps_sam.encoders.promptable import MaskPredictions
from wps_sam.prompt_evaluation import load_encoder
from wps_sam.prompters import DensePrompter, DETRPrompter
from wps_sam.prompters.losses import box_loss, class_loss, focal_cross_entropy, mask_loss, point_loss, presence_loss
from wps_sam.prompters.matcher import CenterMatcher, HungarianMatcher
from wps_sam.prompters.part_head import part_map_loss, tagged_map_loss
from wps_sam.prompters.transformer import Transformer
from wps_sam.structures import UNKNOWN, LabelKind, PartTargets

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from torch import nn
from torch.nn import functional as F

PAPER = dict(
    num_classes=40,
    num_queries=25,
    embedding_size=64,
    neck_strides=(2, 2),
    num_heads=8,
    ffn_dim=1024,
    num_encoder_layers=6,
    num_decoder_layers=6,
    matcher=HungarianMatcher(class_weight=10, prompt_weight=1),
    encode_prompts=None,
    decode=None,
)


def test_paper_prompter_has_12_72_million_parameters():
    prompter = DETRPrompter(**PAPER)
    assert sum(p.numel() for p in prompter.parameters()) == 12_717_609
    assert len(prompter.state_dict()) == 198
    assert prompter.position.shape == (1, 256, 16, 16) and not prompter.position.any()


def test_paper_prompter_shapes():
    proposals = DETRPrompter(**PAPER)(torch.randn(2, 256, 64, 64))
    assert proposals.logits.shape == (2, 25, 41)
    assert proposals.tokens.shape == (2, 25, 2, 256)
    assert proposals.boxes is None


def test_a_segmenter_of_three_tokens_a_prompt_gets_three():
    prompter = DETRPrompter(**{**PAPER, "tokens_per_prompt": 3, "num_encoder_layers": 1, "num_decoder_layers": 1})
    assert prompter(torch.randn(1, 256, 64, 64)).tokens.shape == (1, 25, 3, 256)


def _attention(module: nn.MultiheadAttention, query, key, value):
    """Multi-head attention written out, one head at a time."""
    dim, heads = module.embed_dim, module.num_heads
    wq, wk, wv = module.in_proj_weight.split(dim)
    bq, bk, bv = module.in_proj_bias.split(dim)
    q, k, v = query @ wq.T + bq, key @ wk.T + bk, value @ wv.T + bv
    outputs = []
    for h in range(heads):
        part = slice(h * dim // heads, (h + 1) * dim // heads)
        weight = (q[:, part] @ k[:, part].T / (dim // heads) ** 0.5).softmax(-1)
        outputs.append(weight @ v[:, part])
    return torch.cat(outputs, -1) @ module.out_proj.weight.T + module.out_proj.bias


def _norm(module, x):
    return F.layer_norm(x, x.shape[-1:], module.weight, module.bias, module.eps)


def _ffn(layer, x):
    hidden = (x @ layer.linear1.weight.T + layer.linear1.bias).relu()
    return hidden @ layer.linear2.weight.T + layer.linear2.bias


def _reference(transformer, memory, position, queries, positions_on_values=False):
    for layer in transformer.encoder.layers:
        with_position = memory + position
        value = with_position if positions_on_values else memory
        memory = _norm(layer.norm1, memory + _attention(layer.self_attn, with_position, with_position, value))
        memory = _norm(layer.norm2, memory + _ffn(layer, memory))
    hidden = torch.zeros_like(queries)
    for layer in transformer.decoder.layers:
        q = hidden + queries
        hidden = _norm(layer.norm1, hidden + _attention(layer.self_attn, q, q, hidden))
        cross = _attention(layer.multihead_attn, hidden + queries, memory + position, memory)
        hidden = _norm(layer.norm2, hidden + cross)
        hidden = _norm(layer.norm3, hidden + _ffn(layer, hidden))
    return _norm(transformer.decoder.norm, hidden)


def test_transformer_equals_its_formulas_and_a_wrong_one_differs():
    torch.manual_seed(0)
    transformer = Transformer(dim=16, num_heads=4, ffn_dim=32, num_encoder_layers=2, num_decoder_layers=2)
    for parameter in transformer.parameters():
        nn.init.normal_(parameter, std=0.3)
    memory, position, queries = torch.randn(2, 9, 16), torch.randn(1, 9, 16), torch.randn(5, 16)
    ours = transformer(memory, position, queries)
    for i in range(2):
        theirs = _reference(transformer, memory[i], position[0], queries)
        torch.testing.assert_close(ours[i], theirs, atol=1e-5, rtol=1e-4)
        wrong = _reference(transformer, memory[i], position[0], queries, positions_on_values=True)
        assert (ours[i] - wrong).abs().max() > 1e-2


def test_matrices_of_the_transformer_start_xavier_uniform():
    transformer = Transformer(dim=32, num_heads=4, ffn_dim=64, num_encoder_layers=1, num_decoder_layers=1)
    weight = transformer.encoder.layers[0].linear1.weight
    bound = (6 / (32 + 64)) ** 0.5
    assert weight.abs().max() <= bound and weight.abs().max() > 0.95 * bound


def _dense(label_type, encode=None, companion_dim=0, stride=8, image_size=256, embedding_size=16, decode=None, **more):
    encode = encode or (lambda boxes=None, points=None: torch.zeros(len(points if boxes is None else boxes), 2, 256))
    return DensePrompter(
        num_classes=3,
        label_type=label_type,
        image_size=image_size,
        embedding_size=embedding_size,
        stride=stride,
        conv_dim=32,
        num_convs=1,
        companion_dim=companion_dim,
        encode_prompts=encode,
        decode=decode,
        **more,
    )


def _features(embedding, picture):
    return {"image_embedding": embedding, "image": picture}


STRIDES = pytest.mark.parametrize(("stride", "side"), [(8, 32), (16, 16)])


@STRIDES
def test_cells_of_both_strides(stride, side):
    prompter = _dense("point", companion_dim=16, stride=stride)
    picture = torch.randn(2, 3, 256, 256)
    assert prompter.companion(picture).shape == (2, 16, side, side)
    features = _features(torch.randn(2, 256, 16, 16), picture)
    proposals = prompter(features)
    assert proposals.logits.shape == (2, side**2, 4)
    assert proposals.tokens.shape == (2, side**2, 2, 256) and proposals.boxes.shape == (2, side**2, 4)
    points = prompter.within_square(prompter.predict(prompter.remember(features))[1])
    # A point is thinned as the box of a cell around it.
    assert points.shape == (2, side**2, 2) and torch.equal(proposals.boxes[..., :2], points - stride)
    # A cell's anchor is its centre; rows first. An output of 1 is one cell.
    expected = torch.tensor([[(x + 0.5) * stride, (y + 0.5) * stride] for y in range(side) for x in range(side)])
    assert torch.equal(prompter.anchors, expected)
    moved = prompter.apply_deltas(torch.ones(1, side**2, 2))[0, 2 * side + 3]
    assert moved.tolist() == [4.5 * stride, 3.5 * stride]


@STRIDES
@torch.no_grad()
def test_a_cell_looks_at_its_own_place(stride, side):
    """Another colour in the cell of row 6, column 9 of the embedding's 16 x 16 changes the answers around there."""
    torch.manual_seed(0)
    prompter, embedding = _dense("box", companion_dim=16, stride=stride), torch.randn(1, 256, 16, 16)
    picture = torch.randn(1, 3, 256, 256)
    other = picture.clone()
    other[..., 6 * 16 : 7 * 16, 9 * 16 : 10 * 16] += 10
    one, two = (prompter(_features(embedding, p)).logits for p in (picture, other))
    moved = (one - two)[0].abs().sum(-1)
    x, y = (moved[:, None] * prompter.anchors).sum(0) / moved.sum()
    assert abs(x - 9.5 * 16) < 8 and abs(y - 6.5 * 16) < 8


def test_a_checkpoint_of_another_stride_is_refused():
    with pytest.raises(RuntimeError, match=r"size mismatch for companion\.0\.weight"):
        _dense("box", None, 16, stride=16).load_state_dict(_dense("box", None, 16).state_dict())


@pytest.mark.parametrize("stride", [4, 12, 32])
def test_other_strides_are_refused(tiny_cfg, stride):
    dense = ("MODEL.PROMPTER.NAME", "DensePrompter")
    check_config(tiny_cfg(*dense, "MODEL.DENSE_PROMPTER.STRIDE", 16))
    with pytest.raises(ValueError, match=rf"MODEL\.DENSE_PROMPTER\.STRIDE is {stride}; allowed: 8, 16"):
        check_config(tiny_cfg(*dense, "MODEL.DENSE_PROMPTER.STRIDE", stride))


def test_the_stride_of_the_config_reaches_all_that_count_in_cells(tiny_cfg):
    dense = ("MODEL.PROMPTER.NAME", "DensePrompter", "WEAK_LABELS.TYPE", "point")
    a, b = torch.tensor([[8.0, 4.0]]), torch.zeros(1, 2)
    for stride in (8, 16):
        prompter = build_model(tiny_cfg(*dense, "MODEL.DENSE_PROMPTER.STRIDE", stride, "MODEL.DEVICE", "meta")).prompter
        assert prompter.stride == prompter.matcher.min_radius == stride
        assert isinstance(prompter.classifier, nn.Identity)
        assert prompter.weights == {"class": 1.0, "point": 1.0, "mask": 1.0, "presence": 1.0, "part": 0.0}
        assert (prompter.class_balance, prompter.part_balance) == (0.0, 0.5)
        assert len(prompter.context) == 1 + 1 and prompter.class_head.in_channels == 32
        assert prompter.place_losses["point"](a, b).item() == pytest.approx(12 / stride)


def test_dense_prompter_reads_boxes_out_around_its_cells():
    prompter = _dense("box")
    raw = torch.zeros(1, 32 * 32, 4)
    boxes = prompter.apply_deltas(raw)
    # Cell (row 3, column 5) has its centre at (5.5 * 8, 3.5 * 8) = (44, 28); exp(0) * 256 / 8 = 32 pixels to each side,
    # which the segmenter is asked for only within the picture.
    assert boxes[0, 3 * 32 + 5].tolist() == [12.0, -4.0, 76.0, 60.0]
    assert prompter.within_square(boxes)[0, 3 * 32 + 5].tolist() == [12.0, 0.0, 76.0, 60.0]
    proposed = prompter(torch.randn(1, 256, 16, 16)).boxes
    assert proposed.min() >= 0 and proposed.max() <= 256
    assert prompter.apply_deltas(raw + 1e4).isfinite().all()


@pytest.mark.parametrize(
    "label_type, places, loss",
    [("box", [[200.0, 100.0, 249.0, 150.0]], box_loss), ("point", [[249.0, 120.0]], partial(point_loss, stride=8))],
)
def test_dense_prompter_learns_back_from_beyond_the_picture(label_type, places, loss):
    """The truth ends at 249 of 256 pixels; the cell begins beyond 256, where a limit would hold it for ever."""
    prompter, truth = _dense(label_type), torch.tensor(places)
    # The cell of row 15, column 30, at (244, 124): 32 pixels to the right of it, or 4 cells, is 276.
    raw = torch.zeros(1, 32 * 32, 4) if label_type == "box" else torch.tensor([4.0, 0.0]).repeat(1, 32 * 32, 1)
    raw.requires_grad_()
    optimizer = torch.optim.Adam([raw], lr=0.05)
    cell = 15 * 32 + 30
    assert prompter.apply_deltas(raw)[0, cell, -2] == 276
    for _ in range(300):
        optimizer.zero_grad()
        loss(prompter.apply_deltas(raw)[:, cell], truth).backward()
        optimizer.step()
    assert abs(prompter.apply_deltas(raw)[0, cell, -2].item() - 249) < 1.5


@pytest.mark.parametrize("label_type, name, columns", [("point", "points", 2), ("box", "boxes", 4)])
def test_dense_prompter_encodes_the_prompts_that_are_asked_for_and_no_others(label_type, name, columns):
    seen = []

    def encode(**places):
        seen.append(places)
        return places[name].sum() + torch.zeros(len(places[name]), 2, 256)

    prompter, features = _dense(label_type, encode), {"image_embedding": torch.randn(2, 256, 16, 16)}
    proposals = prompter.propose(features)
    assert proposals.logits.shape == (2, 1024, 4) and not seen
    assert proposals.encode(1, torch.tensor([7, 3])).shape == (2, 2, 256)
    (places,) = seen
    assert list(places) == [name] and places[name].shape == (2, columns)
    assert torch.equal(
        places[name], prompter.within_square(prompter.predict(prompter.remember(features))[1])[1, [7, 3]]
    )


def test_dense_prompter_starts_out_saying_no_part():
    probability = _dense("box")(torch.zeros(1, 256, 16, 16)).logits.softmax(-1)
    assert probability[..., -1].min() > 0.9


def test_dense_prompter_holds_no_second_copy_of_sam():
    encoder = nn.Linear(2, 2)
    assert not any("encode_prompts" in key for key in _dense("box", encoder.forward).state_dict())


@pytest.mark.parametrize("size, strides, side", [(64, (2, 2), 16), (16, (1, 1), 16), (16, (2, 1), 8)])
def test_memory_follows_the_strides_of_the_neck(size, strides, side):
    prompter = DETRPrompter(
        **{**PAPER, "embedding_size": size, "neck_strides": strides, "num_encoder_layers": 1, "num_decoder_layers": 1}
    )
    assert prompter.position.shape[-1] == side
    assert prompter(torch.randn(1, 256, size, size)).logits.shape == (1, 25, 41)


def test_a_constant_on_top_of_the_embedding_changes_nothing():
    """SAM's embedding carries a large constant per channel; the dense prompter must not have to unlearn it."""
    prompter, embedding = _dense("box"), torch.randn(1, 256, 16, 16)
    lifted = embedding + 10 * torch.randn(1, 256, 1, 1)
    torch.testing.assert_close(prompter(embedding).logits, prompter(lifted).logits, atol=1e-3, rtol=1e-3)


def test_companion_looks_at_the_picture_and_says_when_it_cannot(caplog):
    prompter, embedding = _dense("box", companion_dim=16), torch.randn(1, 256, 16, 16)
    picture = torch.randn(1, 3, 256, 256)
    seen, blind = prompter(_features(embedding, picture)).logits, prompter(embedding).logits
    assert seen.shape == blind.shape == (1, 1024, 4)
    assert not torch.allclose(seen, blind)
    assert "not shown the images" in caplog.text
    (nothing,) = prompter.companion_features({"image_embedding": embedding})
    assert nothing.shape == (1, 16, 32, 32) and not nothing.any()
    # A prompter without one does not look, whatever it is shown.
    alone = _dense("box")
    assert torch.equal(alone(_features(embedding, picture)).logits, alone(embedding).logits)


@pytest.mark.parametrize("side", [8, 16, 32, 64])
def test_a_semantic_map_of_any_size_is_seen_where_it_lies(side):
    torch.manual_seed(0)
    prompter, embedding = _dense("box", semantic={"blocks": (5, side, side)}), torch.randn(1, 256, 16, 16)
    shapes = []
    prompter.semantic.register_forward_hook(lambda module, given, seen: shapes.append(seen.shape))
    there = {"image_embedding": embedding, "blocks": torch.zeros(1, 5, side, side)}
    nothing = prompter.remember(there)
    assert nothing.shape == (1, 32, 32, 32) and shapes == [(1, 32, 32, 32)]
    there["blocks"][..., : side // 8, : side // 8] = 3.0
    changed = (prompter.remember(there) - nothing).abs().amax(1)[0]
    assert changed[:4, :4].min() > 0 and changed[16:, 16:].max() == 0


def test_the_longest_distances_are_the_pictures_side():
    boxes = _dense("box").apply_deltas(torch.full((1, 32 * 32, 4), 1e4))
    # The cell of row 0, column 0, at (4, 4): 256 pixels to each side.
    torch.testing.assert_close(boxes[0, 0], torch.tensor([-252.0, -252, 260, 260]))


def test_no_part_starts_with_99_in_100():
    assert _dense("box").class_head.bias.softmax(0)[-1].item() == pytest.approx(0.99)


def test_cells_of_a_segmenter_whose_own_do_not_fit_the_stride_come_nearest():
    """SAM 3: 72 cells of 14 pixels along 1008. Twice as many are 7 pixels wide; for 16, as many, of 14."""
    for stride, nearest in ((8, 7), (16, 14)):
        prompter = _dense("box", stride=stride, image_size=1008, embedding_size=72)
        assert prompter.stride == prompter.matcher.min_radius == nearest
        assert len(prompter.anchors) == (1008 // nearest) ** 2


def _labelled_picture():
    """A box, a mask and a point; class 2 is tagged alone, and the left half of the part map is known."""
    boxes = torch.tensor([[40.0, 40, 104, 72], [150, 10, 190, 50], [0, 0, 0, 0]])
    points = torch.tensor([[0.0, 0], [0, 0], [60, 200]])
    kinds = torch.tensor([LabelKind.BOX, LabelKind.MASK, LabelKind.POINT])
    masks, part_map = torch.zeros(3, 64, 64), torch.full((256, 256), UNKNOWN)
    masks[1, 3:12, 38:47] = 1
    part_map[:, :128] = 3
    part_map[40:72, 40:104] = 0
    target = PartTargets(torch.tensor([0, 1, 0]), kinds, boxes, points, masks, torch.tensor([0, 2]))
    target.part_map = part_map
    return target


def _encode(boxes=None, points=None):
    return torch.cat([points, points] if boxes is None else [boxes], dim=1)[:, None].expand(-1, 2, 4)


def _decode(features, prompts):
    """Masks whose logits are the left edges of the boxes that are asked with."""
    return [MaskPredictions(p[:, 0, 0][:, None, None, None].expand(-1, 1, 64, 64) / 256, None) for p in prompts]


def test_losses_of_the_dense_prompter_are_those_of_its_parts():
    torch.manual_seed(0)
    weights = dict(class_weight=2.0, prompt_weight=3.0, mask_weight=5.0, presence_weight=7.0, part_weight=11.0)
    prompter = _dense("as_annotated", _encode, decode=_decode, class_balance=0.5, part_balance=0.25, **weights)
    features, target = {"image_embedding": torch.randn(1, 256, 16, 16)}, _labelled_picture()
    found = {name: loss.item() for name, loss in prompter.losses(features, [target]).items()}
    memory = prompter.remember(features)
    logits, places = prompter.predict(memory)
    matches = CenterMatcher(min_radius=8)(prompter.anchors, [target])
    part_map = prompter.part_map(memory)
    assert part_map.shape == (1, 4, 32, 32)
    ((query, part),) = matches
    of_place = [query[part < 2], part[part < 2]]
    share = len(of_place[0]) / len(query)
    # Of the mask's cells that nearest to its middle, (170, 30), is asked with its box: the cell at (172, 28).
    nearest = 3 * 32 + 21
    mask = _decode(features, [prompter.encode(prompter.within_square(places[0, [nearest]]))])[0].logits[:, 0]
    expected = {
        "loss_class": 2 * class_loss(focal_cross_entropy, logits, [target], matches, 0.5),
        "loss_box": 3 * share * box_loss(places[0, of_place[0]], target.boxes[of_place[1]]),
        "loss_mask": 5 * mask_loss([mask], [target.masks[1:2]]),
        "loss_presence": 7 * (presence_loss(logits, [target]) + tagged_map_loss(part_map, [target])),
        "loss_part": 11 * part_map_loss(part_map, [target], 0.25),
    }
    assert found == pytest.approx({name: loss.item() for name, loss in expected.items()}, rel=1e-5)
    assert all(value > 0 for value in found.values())
    # A loss of no weight is not computed, and a run from boxes has none of tags.
    without = _dense("mask", _encode, decode=_decode, mask_weight=0.0)
    assert list(without.losses(features, [target])) == ["loss_class", "loss_box"]
    of_points = _dense("point", _encode).losses(features, [PartTargets.of_points(torch.tensor([1]), torch.rand(1, 2))])
    assert list(of_points) == ["loss_class", "loss_point"]


def test_losses_of_the_dense_prompter_weigh_one_if_nothing_is_said():
    torch.manual_seed(0)
    features, target = {"image_embedding": torch.randn(1, 256, 16, 16)}, _labelled_picture()
    prompter = _dense("as_annotated", _encode, decode=_decode)
    assert prompter.weights == {"class": 1.0, "box": 1.0, "mask": 1.0, "presence": 1.0, "part": 0.0}
    assert (prompter.class_balance, prompter.part_balance) == (0.0, 0.5)
    losses = prompter.losses(features, [target])
    assert list(losses) == ["loss_class", "loss_box", "loss_mask", "loss_presence"]
    # Without a dense head no part map is proposed.
    assert prompter(features).part_map is None


def test_cells_are_measured_from_the_middle_of_their_parts_box():
    prompter, target = _dense("box"), _labelled_picture()
    # Cells at (4, 4) and (76, 60); the middles are (72, 56) and (170, 30).
    matches = [(torch.tensor([0, 7 * 32 + 9]), torch.tensor([1, 0]))]
    (found,) = prompter._distances_from_middle([target], matches)
    assert found.tolist() == pytest.approx([(166**2 + 26**2) ** 0.5, (4**2 + 4**2) ** 0.5])


def test_what_a_configuration_asks_of_the_dense_prompter(tiny_cfg):
    dense = ("MODEL.PROMPTER.NAME", "DensePrompter")
    plain = tiny_cfg(*dense)
    assert not DensePrompter.needs_image(plain) and not DensePrompter.needs_part_maps(plain)
    more = tiny_cfg(*dense, "MODEL.DENSE_PROMPTER.COMPANION_DIM", 1, "MODEL.DENSE_PROMPTER.PART_WEIGHT", 0.5)
    assert DensePrompter.needs_image(more) and DensePrompter.needs_part_maps(more)


def test_the_configuration_asks_by_default_for_what_the_constructor_does(tiny_cfg):
    cfg = tiny_cfg("MODEL.PROMPTER.NAME", "DensePrompter")
    asked = DensePrompter.from_config(cfg, load_encoder("vit_tiny", "shipped"), {})
    ours = inspect.signature(DensePrompter.__init__).parameters
    defaults = {name: p.default for name, p in ours.items() if p.default is not p.empty and name in asked}
    assert {name: asked[name] for name in defaults} == defaults
    ours = get_cfg()
    add_wps_sam_config(ours)
    node = ours.MODEL.DENSE_PROMPTER
    assert (node.STRIDE, node.NUM_CONVS, node.CONV_DIM, node.COMPANION_DIM) == (8, 4, 128, 0)


def test_what_others_know_of_the_dense_prompter():
    assert DensePrompter.PROPOSES_BOXES and _dense("box").prompt_head.out_channels == 4
    of_points = _dense("point")
    assert of_points.prompt_head.out_channels == 2
    # Where the cells lie follows from its settings, and is in no checkpoint.
    assert "anchors" not in of_points.state_dict()
    features = {"image_embedding": torch.randn(1, 256, 16, 16)}
    with torch.no_grad():
        points = of_points.within_square(of_points.predict(of_points.remember(features))[1])
        proposed = of_points.propose(features)
    # Points are thinned as boxes of a cell to each side.
    torch.testing.assert_close(proposed.boxes, torch.cat([points - 8, points + 8], dim=-1))
    # An embedding of coarse cells is not pooled at all.
    assert _dense("box", embedding_size=8).pooled == 1
