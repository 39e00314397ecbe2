"""The fast image encoder: same weights, same results as segment_anything's own, in less memory."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

from wps_sam.encoders import SAMEncoder, fast_encoder
from wps_sam.encoders.build_sam import build_sam, get_arch
from wps_sam.encoders.fast_encoder import FastImageEncoderViT, accelerate
from wps_sam.encoders.frozen import hash_tensors

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

TOLERANCE = 1e-4
WINDOW = 14
TINY_SIDE = get_arch("vit_tiny").image_size


def randomise(encoder: ImageEncoderViT) -> ImageEncoderViT:
    """Weights that matter everywhere: segment_anything begins positions at zero, and biases small."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in encoder.named_parameters():
        if "rel_pos" in name or name.endswith("bias") or name == "pos_embed":
            parameter.data.normal_(std=0.2, generator=generator)
    return encoder.eval().requires_grad_(False)


def make_encoder(grid: int = 20, **changes: Any) -> ImageEncoderViT:
    """Like ViT-B (heads of 64, windows of 14 with padding at their end), but narrow, shallow and on a small grid."""
    settings: dict[str, Any] = dict(
        depth=2, embed_dim=128, img_size=16 * grid, norm_layer=partial(nn.LayerNorm, eps=1e-6), num_heads=2,
        qkv_bias=True, use_rel_pos=True, global_attn_indexes=(1,), window_size=WINDOW, out_chans=256,
    )  # fmt: skip
    torch.manual_seed(0)
    return randomise(ImageEncoderViT(**{**settings, **changes}))


def make_images(batch: int, height: int, width: int | None = None) -> Tensor:
    return torch.randn(batch, 3, height, width or height, generator=torch.Generator().manual_seed(2))


def functional_forward(encoder: FastImageEncoderViT, images: Tensor) -> Tensor:
    """The way taken on GPUs, taken on a CPU."""
    x = encoder._embed(images)
    for layer in encoder.blocks:
        size = (layer.window_size,) * 2 if layer.window_size else tuple(x.shape[1:3])
        tables = fast_encoder._position_tables(layer.attn, size, x.dtype)
        x = fast_encoder._block(layer, x, tables, fast_encoder._one_hot_positions(*size, x.device))
    return encoder.neck(x.permute(0, 3, 1, 2))


FORWARDS = pytest.mark.parametrize("forward", [FastImageEncoderViT.forward, functional_forward], ids=["cpu", "gpu"])
Forward = Callable[[FastImageEncoderViT, Tensor], Tensor]


def difference(forward: Forward, stock: ImageEncoderViT, images: Tensor) -> float:
    """Largest deviation from segment_anything's own forward."""
    with torch.no_grad():
        expected = stock(images)
        found = forward(accelerate(copy.deepcopy(stock)), images)
    assert found.dtype == torch.float32 and found.shape == expected.shape
    assert expected.std() > 0.1
    return (found - expected).abs().max().item()


@FORWARDS
def test_vit_tiny_gives_the_stock_result(forward):
    encoder = randomise(build_sam("vit_tiny", components=("image_encoder",)).image_encoder)
    assert difference(forward, encoder, make_images(2, TINY_SIDE)) < TOLERANCE


@FORWARDS
@pytest.mark.parametrize("batch", [1, 2])
def test_padded_windows_of_14_give_the_stock_result(forward, batch):
    """20 cells a side: 4 windows, of which 3 are partly padding, and chunks of queries that do not divide the grid."""
    assert difference(forward, make_encoder(20), make_images(batch, 320)) < TOLERANCE


@FORWARDS
@pytest.mark.parametrize(
    "changes",
    [
        {"qkv_bias": False},
        {"use_rel_pos": False},
        {"window_size": 0},
        {"global_attn_indexes": ()},
        {"embed_dim": 160},  # heads of 80, as in ViT-H
    ],
    ids=str,
)
def test_other_settings_give_the_stock_result(forward, changes):
    assert difference(forward, make_encoder(16, **changes), make_images(1, 256)) < TOLERANCE


@FORWARDS
def test_image_of_another_shape_gives_the_stock_result(forward):
    """Position tables are then interpolated; rows and columns differ."""
    encoder = make_encoder(10, use_abs_pos=False)
    assert difference(forward, encoder, make_images(2, 240, 336)) < TOLERANCE


def swap_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = fast_encoder._position_tables
    monkeypatch.setattr(fast_encoder, "_position_tables", lambda *args: tables(*args)[::-1])


def mirror_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    index = fast_encoder._relative_index
    monkeypatch.setattr(fast_encoder, "_relative_index", lambda *args: index(*args).T)


def pad_with_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the projection, where SAM pads before it."""
    attend = fast_encoder._window_attention_cpu
    monkeypatch.setattr(
        fast_encoder, "_window_attention_cpu", lambda layer, qkv, bias, out: attend(layer, qkv, 0 * bias, out)
    )


@pytest.mark.parametrize("mistake", [swap_tables, mirror_tables, pad_with_zeros])
def test_a_mistake_would_be_seen(monkeypatch, mistake):
    mistake(monkeypatch)
    assert difference(FastImageEncoderViT.forward, make_encoder(20), make_images(1, 320)) > 10 * TOLERANCE


@FORWARDS
def test_unscaled_queries_would_be_seen(forward):
    def without_scale(encoder: FastImageEncoderViT, images: Tensor) -> Tensor:
        for layer in encoder.blocks:
            layer.attn.scale = 1.0
        return forward(encoder, images)

    assert difference(without_scale, make_encoder(20), make_images(1, 320)) > 10 * TOLERANCE


def test_result_does_not_depend_on_the_batch():
    encoder, images = accelerate(make_encoder(20)), make_images(3, 320)
    assert torch.equal(encoder(images)[1:2], encoder(images[1:2]))


def test_weights_keep_names_and_values():
    stock = randomise(build_sam("vit_tiny", components=("image_encoder",)).image_encoder)
    expected = hash_tensors(stock.state_dict().items())
    fast = accelerate(copy.deepcopy(stock))
    fast(make_images(1, TINY_SIDE))
    assert list(fast.state_dict()) == list(stock.state_dict())
    assert hash_tensors(fast.state_dict().items()) == expected
    assert [name for name, _ in fast.named_buffers()] == [name for name, _ in stock.named_buffers()]
    fast.load_state_dict(stock.state_dict(), strict=True)


def test_weights_loaded_later_count():
    """Nothing derived from the weights outlives a call."""
    first, second = make_encoder(16), make_encoder(16)
    for parameter in second.parameters():
        parameter.data.add_(0.05)
    images = make_images(1, 256)
    fast = accelerate(copy.deepcopy(first))
    fast(images)
    fast.load_state_dict(second.state_dict())
    assert (fast(images) - second(images)).abs().max() < TOLERANCE


def test_copies_and_pickles_stay_fast():
    fast, images = accelerate(make_encoder(16)), make_images(1, 256)
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert isinstance(other, FastImageEncoderViT)
        assert torch.equal(other(images), fast(images))


def test_no_gradients_and_inference_mode():
    fast = accelerate(make_encoder(16)).requires_grad_(True)
    images = make_images(1, 256).requires_grad_()
    assert not fast(images).requires_grad
    with torch.inference_mode():
        assert torch.isfinite(fast(images)).all()
    assert not fast(images).requires_grad


def test_another_activation_is_refused():
    with pytest.raises(ValueError, match="ReLU.*exact GELU"):
        accelerate(make_encoder(16, act_layer=nn.ReLU))
    with pytest.raises(ValueError, match="tanh.*exact GELU"):
        accelerate(make_encoder(16, act_layer=partial(nn.GELU, approximate="tanh")))


class Largest(TorchDispatchMode):
    """Notes the most elements that any operator has written."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        # A fused attention kernel is one operator here; the unfused way would show its matrix.
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


def largest(forward: Callable[[Tensor], Tensor], images: Tensor) -> int:
    with torch.no_grad(), Largest() as mode:
        forward(images)
    return mode.elements


@FORWARDS
def test_no_matrix_of_all_logits_is_made(forward):
    """At 40 x 40 tokens it would be by far the largest tensor."""
    encoder, images, tokens = (make_encoder(40, depth=1, global_attn_indexes=(0,)), make_images(1, 640), 40 * 40)
    matrix = encoder.blocks[0].attn.num_heads * tokens**2
    assert largest(encoder, images) >= matrix
    fast = accelerate(encoder)
    assert largest(partial(forward, fast), images) < matrix / 2


def test_bfloat16_is_close_and_returns_float32():
    stock, images = make_encoder(20), make_images(2, 320)
    with torch.no_grad():
        expected = stock(images)
    for forward in (FastImageEncoderViT.forward, functional_forward):
        fast = accelerate(copy.deepcopy(stock))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            found = forward(fast, images)
        error = (found.float() - expected).pow(2).mean().sqrt() / expected.std()
        assert 1e-5 < error < 0.02
    with torch.autocast("cpu", torch.bfloat16):
        assert accelerate(copy.deepcopy(stock))(images).dtype == torch.float32


def test_layers_compile_into_one_graph_each():
    fast, seen = accelerate(make_encoder(20)), []

    def backend(graph, inputs):
        seen.append(graph)
        return graph.forward

    compiled = torch.compile(fast_encoder._block, dynamic=False, fullgraph=True, backend=backend)
    x = torch.randn(1, 20, 20, 128)
    for layer in fast.blocks:
        size = (WINDOW, WINDOW) if layer.window_size else (20, 20)
        tables = fast_encoder._position_tables(layer.attn, size, x.dtype)
        one_hot = fast_encoder._one_hot_positions(*size, x.device)
        with torch.no_grad():
            assert torch.allclose(compiled(layer, x, tables, one_hot), layer(x), atol=TOLERANCE)
    assert len(seen) == 2


def test_where_compiling_fails_the_reason_is_told(monkeypatch, caplog):
    def fails(function: Any, **_: Any) -> Any:
        def call(*args: Any) -> Any:
            raise RuntimeError("no compiler\nmore lines")

        return call

    monkeypatch.setattr(torch, "compile", fails)
    fast_encoder._compiled.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert fast_encoder._compiled(fast_encoder._block, "cpu") is fast_encoder._block
    fast_encoder._compiled.cache_clear()
    assert "torch.compile fails on cpu, going on without it: no compiler" in caplog.text


def test_backbone_reads_precision_and_compile(tiny_cfg, caplog):
    images = make_images(1, TINY_SIDE)
    results = {}
    for precision in ("fp32", "bf16"):
        cfg = tiny_cfg("MODEL.SAM.PRECISION", precision, "MODEL.SAM.COMPILE", precision == "bf16")
        backbone = SAMEncoder(cfg, None)
        assert isinstance(backbone.image_encoder, FastImageEncoderViT)
        fast_encoder._warn_once.cache_clear()
        with caplog.at_level(logging.WARNING):
            results[precision] = backbone(images)["image_embedding"]
        assert ("MODEL.SAM.COMPILE: ignored on the CPU" in caplog.text) == (precision == "bf16")
    assert results["bf16"].dtype == torch.float32
    assert 0 < (results["bf16"] - results["fp32"]).abs().max() < 0.1


def test_mixed_precision_of_training_leaves_the_frozen_encoder_alone(tiny_cfg):
    backbone, images = SAMEncoder(tiny_cfg(), None), make_images(1, TINY_SIDE)
    expected = backbone(images)["image_embedding"]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(backbone(images)["image_embedding"], expected)


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_tokens_behind_a_layer_are_those_that_it_gave(layer):
    stock, images = make_encoder(20, depth=3), make_images(2, 320)
    seen = []
    stock.blocks[layer].register_forward_hook(lambda module, given, tokens: seen.append(tokens))
    with torch.no_grad():
        expected = stock(images)
    embedding, tokens = accelerate(copy.deepcopy(stock)).look(images, layer)
    assert (embedding - expected).abs().max() < TOLERANCE and (tokens - seen[0]).abs().max() < TOLERANCE
