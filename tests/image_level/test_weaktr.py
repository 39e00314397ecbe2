"""WeakTr: checkpoints of its layout load strictly, attention fuses as published, gradients end where they should."""

from __future__ import annotations

from pathlib import Path

from wps_sam.image_level.weaktr import WeakTr, build_weaktr, learned_parameters, multi_scale_maps

import numpy as np
import pytest
import timm
import torch
import yaml
from torch.nn import functional as F

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "image_level"
SIZES = dict(dim=96, depth=2, heads=6, image_size=64)


def tiny(**changes):
    return build_weaktr(3, **{**SIZES, **changes}).double()


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_published_layout_of_voc():
    """Names and shapes of WeakTr's checkpoints for VOC: DeiT-S's, with 20 class tokens, a 3x3 head, and the fusion."""
    with torch.device("meta"):
        state = WeakTr(20).state_dict()
    deit = {k: tuple(v.shape) for k, v in timm.create_model("deit_small_patch16_224").state_dict().items()}
    expected = {k: v for k, v in deit.items() if not k.startswith("head")}
    expected |= {
        "cls_token": (1, 20, 384),
        "pos_embed": (1, 216, 384),
        "head.weight": (20, 384, 3, 3),
        "head.bias": (20,),
        "adaptive_attention_fusion.attn_head_ffn.0.weight": (9, 72),
        "adaptive_attention_fusion.attn_head_ffn.2.weight": (72, 9),
        "adaptive_attention_fusion.attn_feat_ffn.0.weight": (8, 64),
        "adaptive_attention_fusion.attn_feat_ffn.0.bias": (8,),
        "adaptive_attention_fusion.attn_feat_ffn.1.weight": (1, 8),
        "adaptive_attention_fusion.attn_feat_ffn.1.bias": (1,),
    }
    assert {k: tuple(v.shape) for k, v in state.items()} == expected
    assert sum(v.numel() for k, v in state.items() if k.startswith("head")) == 69140


def test_checkpoints_load_strictly(tmp_path):
    model = tiny()
    # As WeakTr's own training saves its best: with the score as a number of numpy.
    best = {"model": model.float().state_dict(), "epoch": 3, "miou": np.nanmean([0.6, 0.7]) * 100}
    torch.save(best, tmp_path / "weaktr.pth")
    read = build_weaktr(3, str(tmp_path / "weaktr.pth"), **SIZES)
    assert all(torch.equal(a, b) for a, b in zip(read.state_dict().values(), model.state_dict().values()))
    with pytest.raises(ValueError, match="not of a WeakTr of 4 classes"):
        build_weaktr(4, str(tmp_path / "weaktr.pth"), **SIZES)
    with pytest.raises(ValueError, match="no such checkpoint file"):
        build_weaktr(3, str(tmp_path / "none.pth"), **SIZES)
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(ValueError, match="refused, it holds more than tensors"):
        build_weaktr(3, str(tmp_path / "text.pth"), **SIZES)


def test_with_one_class_it_is_deit():
    """timm's own network of the same weights: the same class token and patches come out of the last block."""
    deit = timm.models.vision_transformer.VisionTransformer(
        img_size=64, patch_size=16, embed_dim=96, depth=2, num_heads=6, num_classes=5
    )
    deit.norm = torch.nn.Identity()
    deit = deit.double().eval()
    one = build_weaktr(1, **SIZES).double()
    one.load_state_dict({k: v for k, v in deit.state_dict().items() if not k.startswith("head")}, strict=False)
    picture = images(2, 3, 64, 64)
    tokens = deit.forward_features(picture)
    assert torch.allclose(one(picture).tags[:, 0], tokens[:, 0].mean(-1), atol=1e-9)
    expected = one.head(tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4)))
    assert torch.allclose(one(picture).coarse, expected, atol=1e-9)


class _Fixed(torch.nn.Module):
    """A fusion of given weights."""

    def __init__(self, gamma):
        super().__init__()
        self.gamma = gamma

    def forward(self, found):
        return self.gamma.expand(len(found), -1)


def test_uniform_attention_takes_the_mean_over_all_tokens():
    """M_k = sum over patches of Z_k / N, N the class tokens included: rows are not made to sum to 1 again."""
    model = tiny()
    for block in model.blocks:
        block.attn.qkv.weight.data[:192] = 0
        block.attn.qkv.bias.data[:192] = 0
    model.adaptive_attention_fusion = _Fixed(torch.ones(12, dtype=torch.float64))
    maps = model(images(1, 3, 64, 64))
    tokens = 3 + 16
    assert torch.allclose(maps.fused, F.relu(maps.coarse) / tokens)
    expected = (maps.fused.sum((2, 3), keepdim=True) / tokens).expand_as(maps.fine)
    assert torch.allclose(maps.fine, expected)
    assert not torch.allclose(maps.fine, maps.fused.mean((2, 3), keepdim=True).expand_as(maps.fine))


def test_a_head_is_weighted_by_its_own_index():
    """One head of one layer alone is uniform and alone counts: heads come first, 2 * head + layer here."""
    model = tiny()
    head, layer = 4, 1
    qkv = model.blocks[layer].attn.qkv
    for part in (0, 1):
        rows = slice(96 * part + 16 * head, 96 * part + 16 * head + 16)
        qkv.weight.data[rows], qkv.bias.data[rows] = 0, 0
    for index, is_uniform in ((2 * head + layer, True), (6 * layer + head, False)):
        model.adaptive_attention_fusion = _Fixed(F.one_hot(torch.tensor(index), 12).double())
        maps = model(images(1, 3, 64, 64))
        uniform = F.relu(maps.coarse) / (3 + 16) / 12
        assert torch.allclose(maps.fused, uniform, atol=1e-9) == is_uniform


def test_the_fusion_sees_channels_by_their_index_modulo_heads():
    """As published, channel 6 d + head is head's; the block of sixteen channels, the other reading, is not."""
    model = tiny(pool="max")
    seen = {}
    model.adaptive_attention_fusion.register_forward_pre_hook(lambda m, given: seen.update(found=given[0]))
    proj = model.blocks[0].attn.proj
    proj.weight.data[:] = 0
    proj.bias.data[:] = torch.arange(96.0)
    model(images(1, 3, 64, 64))
    of_layer = seen["found"].unflatten(1, (6, 2))[0, :, 0, 0]
    assert torch.equal(of_layer, torch.arange(96.0, dtype=torch.float64).view(16, 6).T)


def test_gradients_of_semples_reach_the_convolution_and_the_fusion_alone():
    model = tiny()
    maps = model(images(1, 3, 64, 64), frozen_tokens=True)
    maps.fine.sum().backward()
    learned = {id(p) for p in learned_parameters(model)}
    assert all(p.grad is not None for p in model.parameters() if id(p) in learned)
    assert all(p.grad is None for p in model.parameters() if id(p) not in learned)


def test_in_weaktrs_own_training_coarse_maps_are_out_of_the_fine_ones():
    model = tiny()
    maps = model(images(2, 3, 64, 64))
    assert torch.autograd.grad(maps.fine.sum(), model.head.weight, allow_unused=True)[0] is None


def test_positions_are_resized_for_other_sizes_and_rests_cut_off():
    model = tiny()
    maps = model(images(1, 3, 70, 101))
    assert maps.fine.shape == (1, 3, 4, 6)
    assert torch.equal(model(images(1, 3, 70, 101)[..., :64, :96]).fine, maps.fine)


def test_maps_of_several_scales_and_their_mirror_images():
    model = tiny()
    picture = images(3, 48, 64)
    found = multi_scale_maps(model, picture, (1.0, 1.5))
    assert found.shape == (3, 48, 64) and found.amin() == 0 and 0.999 < found.amax() <= 1
    assert torch.allclose(multi_scale_maps(model, picture.flip(2), (1.0, 1.5)), found.flip(2), atol=1e-6)


def test_slots_that_no_class_has_attend_and_give_no_maps(tmp_path):
    """COCO's ids have gaps: class 1 is slot 2 where slot 1 is unused, not slot 1."""
    whole = build_weaktr(4, **SIZES).double()
    torch.save(whole.state_dict(), tmp_path / "weaktr.pth")
    gap = build_weaktr(3, str(tmp_path / "weaktr.pth"), unused=(1,), **SIZES).double()
    picture = images(2, 3, 64, 96)
    for of_gap, of_whole in zip(gap(picture), whole(picture)):
        assert torch.allclose(of_gap, of_whole[:, [0, 2, 3]], atol=1e-9)
        assert not torch.allclose(of_gap, of_whole[:, :3], atol=1e-9)
    assert multi_scale_maps(gap, picture[0]).shape == (3, 64, 96)
    with pytest.raises(ValueError, match="unused: expected slots below 4"):
        build_weaktr(3, unused=(4,), **SIZES)


def test_the_published_layout_of_coco():
    """90 slots, of which 80 are in use, and the fusion of WeakTr's first recipe for COCO: r 4."""
    settings = yaml.safe_load((CONFIGS / "coco_semples.yaml").read_text())["semples"]
    with torch.device("meta"):
        model = WeakTr(80, settings["reduction"], settings["pool"], unused=settings["unused"])
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    assert shapes["cls_token"] == (1, 90, 384) and shapes["head.weight"] == (90, 384, 3, 3)
    assert shapes["adaptive_attention_fusion.attn_head_ffn.0.weight"] == (18, 72)
    # COCO's 80 ids, as its files number them.
    gaps = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert [slot + 1 for slot in model.used] == [i for i in range(1, 91) if i not in gaps]
