"""MobileSAM: the keys of its official file, TinyViT against timm's, pictures against SamPredictor, training."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator
from typing import Any

from wps_sam.benchmark.stock import timm_mobile_sam
from wps_sam.config import check_config
from wps_sam.download import read_table
from wps_sam.encoders import SAMEncoder, build_encoder, build_sam
from wps_sam.encoders.build_sam import SAM_ARCHS, recognise_arch
from wps_sam.encoders.fast_encoder import accelerate, without_acceleration
from wps_sam.encoders.tiny_vit import Block, TinyViT
from wps_sam.engine import Trainer
from wps_sam.models import WPSSAM

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from segment_anything import SamPredictor, sam_model_registry
from tiny_wps_sam import MOBILE_TEST, make_inputs, tiny_config
from torch import Tensor, nn

# 80 cells of 4 pixels, so that windows of 3, 4 and 3 among 40, 20 and 20 cells end in padding, or do not.
SIDE = 320
SIZES = {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 2, 1), "num_heads": (1, 2, 3, 4), "window_sizes": (7, 3, 4, 3)}
TOLERANCE = 1e-5


def randomise(network: nn.Module) -> nn.Module:
    """Weights and statistics that matter everywhere: a new network has biases of zero, and tells no pictures apart."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if name.endswith("running_var"):
            tensor.data.uniform_(0.5, 2, generator=generator)
        elif name.endswith(("bias", "running_mean", "attention_biases")):
            tensor.data.normal_(std=0.3, generator=generator)
        elif tensor.ndim == 1:
            tensor.data.uniform_(0.5, 1.5, generator=generator)
        elif tensor.ndim > 1:
            tensor.data.normal_(std=(2 / tensor[0].numel()) ** 0.5, generator=generator)
    return network


@pytest.fixture(scope="module")
def network() -> TinyViT:
    torch.manual_seed(0)
    return randomise(TinyViT(SIDE, **SIZES)).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def expected(network: TinyViT, images: Tensor) -> Tensor:
    with torch.no_grad():
        return timm_mobile_sam(network)(images)


# ---------------------------------------------------------------- the network


@torch.no_grad()
def test_equals_timms_network(network: TinyViT, images: Tensor, expected: Tensor) -> None:
    assert expected.shape == (2, 256, SIDE // 16, SIDE // 16) and (expected[0] - expected[1]).std() > 0.1
    torch.testing.assert_close(network(images), expected, atol=TOLERANCE, rtol=TOLERANCE)
    fast = accelerate(copy.deepcopy(network))
    torch.testing.assert_close(fast(images), expected, atol=TOLERANCE, rtol=TOLERANCE)
    # One image at a time: no last bit depends on what else is in a batch.
    assert torch.equal(fast(images)[1:], fast(images[1:]))
    assert list(fast.state_dict()) == list(network.state_dict())
    with torch.enable_grad():
        assert not fast(images).requires_grad
    assert type(without_acceleration(fast)) is TinyViT


def test_equals_timms_network_in_training(network: TinyViT, images: Tensor) -> None:
    """Norms take the statistics of the batch, and gradients reach every weight but the classifier's."""
    ours = copy.deepcopy(network).double().train()
    theirs = timm_mobile_sam(ours).double()
    found, expected = ours(images.double()), theirs(images.double())
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    found.square().mean().backward()
    expected.square().mean().backward()
    missing = {name for name, parameter in ours.named_parameters() if parameter.grad is None}
    assert missing == {"norm_head.weight", "norm_head.bias", "head.weight", "head.bias"}
    stem, of_timm = ours.patch_embed["seq"][0], theirs[0].patch_embed.conv1
    off = (stem.c.weight.grad - of_timm.conv.weight.grad).abs().max()
    assert off < 1e-6 * of_timm.conv.weight.grad.abs().max()
    torch.testing.assert_close(stem.bn.running_var, of_timm.bn.running_var)


def _transposed(network: TinyViT) -> None:
    """Rows for columns."""
    for attention in _attentions(network):
        table, side = attention.attention_biases, attention.window
        table.data = table.data.unflatten(1, (side, side)).transpose(1, 2).flatten(1)


def _padded_after_the_norm(network: TinyViT) -> None:
    """With zeros, which the norm does not see."""
    for attention in _attentions(network):
        zeros = torch.zeros_like(attention.norm.bias)
        attention.norm = nn.Sequential(attention.norm)
        attention.norm.bias = zeros


def _heads_within_queries(network: TinyViT) -> None:
    """All queries first, then all keys: SAM's order of the rows."""
    for attention in _attentions(network):
        for tensor in (attention.qkv.weight, attention.qkv.bias):
            tensor.data = tensor.data.unflatten(0, (3, attention.heads, -1)).transpose(0, 1).flatten(0, 2)


def _another_epsilon(network: TinyViT) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3


def _attentions(network: TinyViT) -> list[Any]:
    return [layer.attn for layer in network.blocks() if isinstance(layer, Block)]


@pytest.mark.parametrize("wrong", [_transposed, _padded_after_the_norm, _heads_within_queries, _another_epsilon])
@torch.no_grad()
def test_wrong_networks_differ(wrong: Callable, network: TinyViT, images: Tensor, expected: Tensor) -> None:
    changed = copy.deepcopy(network)
    wrong(changed)
    assert (changed(images) - expected).abs().max() > 100 * TOLERANCE


@torch.no_grad()
def test_in_bfloat16_it_is_close(network: TinyViT, images: Tensor, expected: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        found = accelerate(copy.deepcopy(network))(images)
    assert found.dtype == torch.float32
    assert 1e-5 < (found - expected).abs().mean() < 0.02 * expected.std()


# ---------------------------------------------------------------- the official file


def official_shapes() -> dict[str, tuple[int, ...]]:
    """The image encoder's tensors in mobile_sam.pt."""
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, out: int, into: int) -> None:
        shapes.update({f"{name}.weight": (out, into), f"{name}.bias": (out,)})

    def norm(name: str, dim: int) -> None:
        shapes.update({f"{name}.weight": (dim,), f"{name}.bias": (dim,)})

    def conv(name: str, out: int, into: int, kernel: int) -> None:
        shapes[f"{name}.c.weight"] = (out, into, kernel, kernel)
        norm(f"{name}.bn", out)
        shapes.update({f"{name}.bn.running_mean": (out,), f"{name}.bn.running_var": (out,)})
        shapes[f"{name}.bn.num_batches_tracked"] = ()

    conv("patch_embed.seq.0", 32, 3, 3)
    conv("patch_embed.seq.2", 64, 32, 3)
    for block in ("layers.0.blocks.0", "layers.0.blocks.1"):
        conv(f"{block}.conv1", 256, 64, 1)
        conv(f"{block}.conv2", 256, 1, 3)
        conv(f"{block}.conv3", 64, 256, 1)
    for stage, dim, out in ((0, 64, 128), (1, 128, 160), (2, 160, 320)):
        conv(f"layers.{stage}.downsample.conv1", out, dim, 1)
        conv(f"layers.{stage}.downsample.conv2", out, 1, 3)
        conv(f"layers.{stage}.downsample.conv3", out, out, 1)
    for stage, depth, dim, heads, offsets in ((1, 2, 128, 4, 49), (2, 6, 160, 5, 196), (3, 2, 320, 10, 49)):
        for block in (f"layers.{stage}.blocks.{i}" for i in range(depth)):
            shapes[f"{block}.attn.attention_biases"] = (heads, offsets)
            norm(f"{block}.attn.norm", dim)
            linear(f"{block}.attn.qkv", 3 * dim, dim)
            linear(f"{block}.attn.proj", dim, dim)
            norm(f"{block}.mlp.norm", dim)
            linear(f"{block}.mlp.fc1", 4 * dim, dim)
            linear(f"{block}.mlp.fc2", dim, 4 * dim)
            conv(f"{block}.local_conv", dim, 1, 3)
    norm("norm_head", 320)
    linear("head", 1000, 320)
    shapes.update({"neck.0.weight": (256, 320, 1, 1), "neck.2.weight": (256, 256, 3, 3)})
    norm("neck.1", 256)
    norm("neck.3", 256)
    return {f"image_encoder.{name}": shape for name, shape in shapes.items()}


def test_the_published_size_has_the_official_files_tensors() -> None:
    with torch.device("meta"):
        state = build_sam("mobile_sam").state_dict()
        of_sam_b = sam_model_registry["vit_b"]().state_dict()
    beside = {key: tuple(v.shape) for key, v in of_sam_b.items() if not key.startswith("image_encoder.")}
    assert {key: tuple(value.shape) for key, value in state.items()} == official_shapes() | beside
    # As many bytes as the official file has; the rest of it are names.
    (file,) = read_table()["mobile_sam"].files
    written = io.BytesIO()
    torch.save({key: torch.zeros(value.shape, dtype=value.dtype) for key, value in state.items()}, written)
    assert file.size is not None and abs(written.tell() - file.size) < 0.002 * file.size
    assert recognise_arch(state) == "mobile_sam" and recognise_arch(of_sam_b) == "vit_b"


@pytest.fixture
def small_arch(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setitem(SAM_ARCHS, "mobile_test", MOBILE_TEST)
    yield "mobile_test"


def test_files_are_read_strictly(small_arch: str, tmp_path) -> None:
    state = build_sam(small_arch).state_dict()
    path = str(tmp_path / "mobile_sam.pt")
    torch.save({key: value + 1 for key, value in state.items()}, path)
    for key, value in build_sam(small_arch, path).state_dict().items():
        assert torch.equal(value, state[key] + 1) and value.dtype == state[key].dtype, key
    with pytest.raises(ValueError, match="It looks like a mobile_test: set MODEL.SAM.ARCH"):
        build_sam("vit_tiny", path)
    broken = dict(state)
    broken.pop("image_encoder.layers.1.blocks.0.attn.attention_biases")
    broken["image_encoder.layers.1.blocks.0.attn.attention_bias_idxs"] = torch.zeros(9, 9)
    broken["image_encoder.patch_embed.seq.0.c.weight"] = torch.zeros(4, 3, 4, 4)
    torch.save(broken, path)
    with pytest.raises(ValueError, match="mobile_sam.pt: these are not the weights") as error:
        build_sam(small_arch, path)
    for named in (
        "1 missing: image_encoder.layers.1.blocks.0.attn.attention_biases",
        "1 unexpected: image_encoder.layers.1.blocks.0.attn.attention_bias_idxs",
        r"image_encoder.patch_embed.seq.0.c.weight ((4, 3, 4, 4), expected (4, 3, 3, 3))",
    ):
        assert named in str(error.value)


# ---------------------------------------------------------------- as a promptable encoder


@pytest.mark.parametrize(("height", "width"), [(97, 301), (203, 37), (61, 61)], ids=["landscape", "portrait", "square"])
@torch.no_grad()
def test_picture_to_mask_equals_sams_own_predictor(small_arch: str, height: int, width: int) -> None:
    sam = build_sam(small_arch)
    randomise(sam.image_encoder)
    encoder, predictor = SAMEncoder.from_sam(copy.deepcopy(sam)), SamPredictor(sam)
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    predictor.set_image(picture)
    box = np.array([5.0, 6.0, width / 2, height / 2])
    single, _, _ = predictor.predict(box=box, multimask_output=False, return_logits=True)
    three, quality, _ = predictor.predict(box[None, 2:], np.array([1]), multimask_output=True, return_logits=True)
    resized = encoder.spec.resize.get_transform(picture).apply_image(picture)
    square, frame = encoder.preprocess(torch.from_numpy(resized.transpose(2, 0, 1).copy()))
    features = encoder(square[None])
    torch.testing.assert_close(features["image_embedding"], predictor.get_image_embedding(), atol=1e-5, rtol=1e-5)
    scaled = torch.from_numpy(predictor.transform.apply_boxes(box, (height, width))).float()
    ((of_box, _),) = encoder.decode(features, [encoder.encode_prompts(boxes=scaled)])
    asked = [encoder.encode_prompts(points=scaled[:, 2:])]
    ((of_point, iou),) = encoder.decode(features, asked, multimask=True)
    for found, expected in ((of_box, single), (of_point, three)):
        in_picture = sam.postprocess_masks(found, (frame.height, frame.width), (height, width))[0]
        torch.testing.assert_close(in_picture, torch.from_numpy(expected), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(iou[0], torch.from_numpy(quality), atol=1e-5, rtol=1e-4)
    if height != width:
        # Both sides scaled to the square, as SAM 2 has it, are another picture.
        stretched = nn.functional.interpolate(square[None, :, : frame.height, : frame.width], square.shape[-2:])
        assert (encoder(stretched)["image_embedding"] - features["image_embedding"]).abs().max() > 1e-2


@pytest.mark.parametrize("prompter", ["DETRPrompter", "DensePrompter"])
def test_trains_live_and_from_features_alike(small_arch: str, prompter: str) -> None:
    opts = ("MODEL.SAM.ARCH", small_arch, "MODEL.PROMPTER.NAME", prompter)
    size = MOBILE_TEST.image_size
    records = make_inputs(sizes=((size, size // 2 + 3), (size // 3, size)))
    for record in records:
        # Made for pictures four times as large.
        record["instances"].gt_boxes.tensor.mul_(0.25)
    losses = {}
    for features in ("live", "cache"):
        cfg = tiny_config(*opts, "MODEL.SAM.FEATURES", features)
        check_config(cfg)
        torch.manual_seed(0)
        model = build_model(cfg).train()
        assert isinstance(model, WPSSAM) and (model.backbone.image_encoder is None) == (features == "cache")
        if features == "cache":
            embeddings = build_encoder(tiny_config(*opts))
            records = [{**record, **_cached(embeddings, record["image"])} for record in records]
        optimizer = Trainer.build_optimizer(cfg, model)
        losses[features] = [_step(model, optimizer, records) for _ in range(3)]
    assert losses["live"] == pytest.approx(losses["cache"], abs=1e-5)
    assert len({round(loss, 4) for loss in losses["live"]}) == 3


def _cached(encoder: SAMEncoder, image: Tensor) -> dict:
    embedding = encoder(encoder.preprocess(image)[0][None])["image_embedding"][0]
    return {"image_embedding": embedding, "image_size": tuple(image.shape[-2:])}


def _step(model: WPSSAM, optimizer: torch.optim.Optimizer, records: list[dict]) -> float:
    loss = torch.stack(list(model(records).values())).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())
