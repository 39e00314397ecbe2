"""tools/convert_checkpoint.py against a plain re-computation of the authors' model on random weights.

The reference below is written from the description of their network and from the names of their tensors, with
functional operators only; it shares no code with wps_sam.models.
"""

from __future__ import annotations

import dataclasses
import math
import os
import runpy
from collections.abc import Callable
from pathlib import Path

from wps_sam.checkpoint_conversion import ConvertedWPSSAM, convert_sam, convert_wps_sam, write_wps_sam
from wps_sam.config import add_wps_sam_config
from wps_sam.encoders import build_sam
from wps_sam.encoders.semantic_networks import read_network

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from safetensors.torch import load_file, save_file
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional as F

TOOL = Path(__file__).resolve().parents[2] / "tools" / "convert_checkpoint.py"
TOLERANCE = 1e-4
DIM, HEADS = 256, 8
State = dict[str, Tensor]


# ---------------------------------------------------------------- a checkpoint in the authors' layout


def sam_shapes(arch: str) -> dict[str, torch.Size]:
    """Names and shapes of SAM's tensors; those of ViT-B from the official registry, not from our builder."""
    with torch.device("meta"):
        sam: Sam = build_sam(arch) if arch == "vit_tiny" else sam_model_registry[arch](checkpoint=None)
    return {key: value.shape for key, value in sam.state_dict().items()}


def own_shapes(
    *, num_classes: int, num_queries: int, num_layers: int, ffn_dim: int, memory_size: int
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that the authors' checkpoint has beside SAM's."""
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, DIM, memory_size, memory_size),
        "query_embed.weight": (num_queries, DIM),
    }

    def linear(name: str, outputs: int, inputs: int) -> None:
        shapes.update({f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)})

    def norm(name: str) -> None:
        shapes.update({f"{name}.weight": (DIM,), f"{name}.bias": (DIM,)})

    def attention(name: str) -> None:
        shapes.update({f"{name}.in_proj_weight": (3 * DIM, DIM), f"{name}.in_proj_bias": (3 * DIM,)})
        linear(f"{name}.out_proj", DIM, DIM)

    for conv, following_norm in ((0, 1), (3, 4)):
        shapes.update({f"conv_layers.{conv}.weight": (DIM, DIM, 3, 3), f"conv_layers.{conv}.bias": (DIM,)})
        norm(f"conv_layers.{following_norm}")
    for stack, norms in (("encoder", 2), ("decoder", 3)):
        for i in range(num_layers):
            layer = f"prompter.{stack}.layers.{i}"
            attention(f"{layer}.self_attn")
            if stack == "decoder":
                attention(f"{layer}.multihead_attn")
            linear(f"{layer}.linear1", ffn_dim, DIM)
            linear(f"{layer}.linear2", DIM, ffn_dim)
            for j in range(norms):
                norm(f"{layer}.norm{j + 1}")
    norm("prompter.decoder.norm")
    linear("class_embed", num_classes + 1, DIM)
    linear("coords_embed.0", 2 * DIM, DIM)
    linear("coords_embed.2", 2 * DIM, 2 * DIM)
    return shapes


def random_tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    """Values that keep activations near one, and norms and biases far enough from their start to be told apart."""
    if "norm" in name and name.endswith("weight"):
        return 1 + 0.3 * torch.randn(shape)
    if len(shape) > 1:
        return torch.randn(shape) / math.sqrt(math.prod(shape[1:]))
    return 0.2 * torch.randn(shape)


def authors_checkpoint(arch: str, *, with_encoder: bool = True, **sizes: int) -> State:
    """A flat state dict with random weights. Without the encoder, whose values no test looks at, its 0.4 GB at
    ViT-B are one number a tensor, repeated with stride 0: it has the keys and shapes, and the file stays small."""
    torch.manual_seed(3)
    state: State = {}
    for name, shape in sam_shapes(arch).items():
        if name.startswith("image_encoder.") and not with_encoder:
            state[f"SAM_model.{name}"] = torch.randn(1).expand(shape)
        else:
            state[f"SAM_model.{name}"] = random_tensor(name, tuple(shape))
    state.update({name: random_tensor(name, shape) for name, shape in own_shapes(**sizes).items()})
    return state


TINY_SIZES = dict(num_classes=3, num_queries=5, num_layers=2, ffn_dim=48, memory_size=8)
PAPER_SIZES = dict(num_classes=40, num_queries=25, num_layers=6, ffn_dim=1024, memory_size=16)


# ---------------------------------------------------------------- the reference


def reference_attention(state: State, name: str, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Multi-head attention of [B, L, D] tensors, head by head."""
    weights = state[f"{name}.in_proj_weight"].split(DIM)
    biases = state[f"{name}.in_proj_bias"].split(DIM)
    q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
    width = DIM // HEADS
    heads = []
    for h in range(HEADS):
        part = slice(h * width, (h + 1) * width)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(width)
        heads.append(scores.softmax(-1) @ v[..., part])
    return reference_linear(state, f"{name}.out_proj", torch.cat(heads, -1))


def reference_linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def reference_norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, (DIM,), state[f"{name}.weight"], state[f"{name}.bias"])


def reference_feed_forward(state: State, layer: str, x: Tensor) -> Tensor:
    return reference_linear(state, f"{layer}.linear2", reference_linear(state, f"{layer}.linear1", x).relu())


def reference_prompter(state: State, embedding: Tensor, num_layers: int) -> tuple[Tensor, Tensor]:
    """Image embedding [B, 256, h, w] to logits [B, N, C+1] and tokens [B, N, 2, 256]."""
    x = embedding
    for conv, norm in (("conv_layers.0", "conv_layers.1"), ("conv_layers.3", "conv_layers.4")):
        x = F.conv2d(x, state[f"{conv}.weight"], state[f"{conv}.bias"], stride=2, padding=1)
        mean, variance = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
        x = (x - mean) / (variance + 1e-6).sqrt()
        x = F.gelu(x * state[f"{norm}.weight"].view(-1, 1, 1) + state[f"{norm}.bias"].view(-1, 1, 1))
    memory = x.flatten(2).transpose(1, 2)
    position = state["pos_embed"].flatten(2).transpose(1, 2)
    for i in range(num_layers):
        layer = f"prompter.encoder.layers.{i}"
        query = memory + position
        memory = memory + reference_attention(state, f"{layer}.self_attn", query, query, memory)
        memory = reference_norm(state, f"{layer}.norm1", memory)
        memory = memory + reference_feed_forward(state, layer, memory)
        memory = reference_norm(state, f"{layer}.norm2", memory)
    queries = state["query_embed.weight"].expand(len(embedding), -1, -1)
    hidden = torch.zeros_like(queries)
    for i in range(num_layers):
        layer = f"prompter.decoder.layers.{i}"
        query = hidden + queries
        hidden = hidden + reference_attention(state, f"{layer}.self_attn", query, query, hidden)
        hidden = reference_norm(state, f"{layer}.norm1", hidden)
        hidden = hidden + reference_attention(
            state, f"{layer}.multihead_attn", hidden + queries, memory + position, memory
        )
        hidden = reference_norm(state, f"{layer}.norm2", hidden)
        hidden = hidden + reference_feed_forward(state, layer, hidden)
        hidden = reference_norm(state, f"{layer}.norm3", hidden)
    hidden = reference_norm(state, "prompter.decoder.norm", hidden)
    logits = reference_linear(state, "class_embed", hidden)
    tokens = reference_linear(state, "coords_embed.2", F.gelu(reference_linear(state, "coords_embed.0", hidden)))
    return logits, tokens.unflatten(-1, (2, DIM))


def reference_masks(state: State, arch: str, embedding: Tensor, tokens: Tensor) -> Tensor:
    """Tokens [K, 2, 256] to mask logits [K, 4h, 4w] by segment_anything's own modules."""
    with torch.device("meta"):
        sam: Sam = build_sam(arch) if arch == "vit_tiny" else sam_model_registry[arch](checkpoint=None)
    for name in ("prompt_encoder", "mask_decoder"):
        prefix = f"SAM_model.{name}."
        part = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
        getattr(sam, name).load_state_dict(part, assign=True)
    no_mask = state["SAM_model.prompt_encoder.no_mask_embed.weight"].view(1, DIM, 1, 1)
    masks, _ = sam.mask_decoder(
        image_embeddings=embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=tokens,
        dense_prompt_embeddings=no_mask.expand(len(tokens), -1, *embedding.shape[-2:]),
        multimask_output=False,
    )
    return masks[:, 0]


# ---------------------------------------------------------------- the comparison


def largest_differences(
    converted: ConvertedWPSSAM, state: State, arch: str, num_layers: int, folder: Path
) -> dict[str, float]:
    """Converts, loads into a fresh model as a user would, and returns the largest differences of its outputs."""
    checkpoint, sam = folder / "wps_sam.pth", folder / "sam.safetensors"
    write_wps_sam(converted, str(checkpoint), str(sam))
    cfg = get_cfg()
    add_wps_sam_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.SAM.WEIGHTS = str(sam)
    cfg.merge_from_list([item for option in converted.options.items() for item in option])
    model = build_model(cfg).eval()
    DetectionCheckpointer(model).load(str(checkpoint))
    side = model.backbone.image_size // 16
    embedding = torch.randn(1, DIM, side, side, generator=torch.Generator().manual_seed(11))
    with torch.no_grad():
        prediction = model.prompter(embedding)
        masks = model.backbone.decode({"image_embedding": embedding}, [prediction.tokens[0, :3]])[0].logits[:, 0]
        logits, tokens = reference_prompter(state, embedding, num_layers)
        expected_masks = reference_masks(state, arch, embedding, tokens[0, :3])
    return {
        "logits": (prediction.logits - logits).abs().max().item(),
        "tokens": (prediction.tokens - tokens).abs().max().item(),
        "masks": (masks - expected_masks).abs().max().item(),
    }


@pytest.fixture(scope="module")
def tiny_state() -> State:
    return authors_checkpoint("vit_tiny", **TINY_SIZES)


@pytest.fixture
def tiny_file(tiny_state: State, tmp_path: Path) -> Path:
    path = tmp_path / "authors.pth"
    torch.save(tiny_state, path)
    return path


@pytest.fixture(scope="module")
def run_tool() -> Callable[..., int]:
    main = runpy.run_path(str(TOOL))["main"]
    return lambda *argv: main([str(argument) for argument in argv])


def test_converted_model_computes_what_the_authors_does(tiny_state: State, tiny_file: Path, tmp_path: Path) -> None:
    converted = convert_wps_sam(str(tiny_file))
    assert converted.options["MODEL.SAM.ARCH"] == "vit_tiny"
    assert converted.options["MODEL.PROMPTER.NUM_CLASSES"] == 3
    assert converted.options["MODEL.DETR_PROMPTER.NUM_QUERIES"] == 5
    differences = largest_differences(converted, tiny_state, "vit_tiny", 2, tmp_path)
    assert max(differences.values()) < TOLERANCE, differences


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("transformer.decoder.layers.0.norm1", "transformer.decoder.layers.0.norm2"),
        ("transformer.encoder.layers.0.norm1", "transformer.encoder.layers.0.norm2"),
        ("neck.1", "neck.4"),
        ("transformer.decoder.layers.0", "transformer.decoder.layers.1"),
    ],
)
def test_comparison_notices_a_wrong_conversion(
    tiny_state: State, tiny_file: Path, tmp_path: Path, one: str, other: str
) -> None:
    right = convert_wps_sam(str(tiny_file))
    wrong = dict(right.prompter)
    for key in right.prompter:
        if key.startswith(one + "."):
            counterpart = other + key[len(one) :]
            wrong[key], wrong[counterpart] = right.prompter[counterpart], right.prompter[key]
    converted = dataclasses.replace(right, prompter=wrong)
    differences = largest_differences(converted, tiny_state, "vit_tiny", 2, tmp_path)
    assert min(differences["logits"], differences["tokens"]) > 10 * TOLERANCE, differences


def test_vit_b_checkpoint_converts_whole(tmp_path: Path) -> None:
    state = authors_checkpoint("vit_b", with_encoder=False, **PAPER_SIZES)
    own = [key for key in state if not key.startswith("SAM_model.")]
    assert (len(state) - len(own), len(own)) == (314, 198)
    assert sum(state[key].numel() for key in own) == 12_717_609  # trainable parameters at C = 40
    path = tmp_path / "authors.pth"
    torch.save(state, path)
    converted = convert_wps_sam(str(path))
    assert (len(converted.sam), len(converted.prompter)) == (314, 198)
    differences = largest_differences(converted, state, "vit_b", 6, tmp_path)
    assert max(differences.values()) < TOLERANCE, differences


# ---------------------------------------------------------------- the tool


def test_tool_converts_wps_sam(
    run_tool: Callable[..., int], tiny_state: State, tiny_file: Path, tmp_path: Path
) -> None:
    output, sam = tmp_path / "out" / "wps_sam.pth", tmp_path / "out" / "sam.safetensors"
    assert run_tool("--from", "wps-sam", tiny_file, output, "--sam-output", sam) == 0
    written = torch.load(output, weights_only=True)["model"]
    own = {key for key in tiny_state if not key.startswith("SAM_model.")}
    assert len([key for key in written if key.startswith("prompter.")]) == len(own)
    assert len(load_file(sam)) == len(tiny_state) - len(own)
    assert sorted(p.name for p in output.parent.glob("[!.]*")) == ["sam.safetensors", "wps_sam.pth"]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_tool_converts_sam(run_tool: Callable[..., int], tmp_path: Path, suffix: str) -> None:
    sam = build_sam("vit_tiny")
    source, output = tmp_path / "official.pth", tmp_path / f"sam{suffix}"
    torch.save(sam.state_dict(), source)
    assert run_tool("--from", "sam", source, output) == 0
    arch, state = convert_sam(str(output))
    assert arch == "vit_tiny"
    assert state.keys() == sam.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in sam.state_dict().items())


def test_tool_names_the_file_and_every_difference(
    run_tool: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = build_sam("vit_tiny").state_dict()
    del state["mask_decoder.iou_token.weight"]
    state["mask_decoder.extra"] = torch.zeros(1)
    state["image_encoder.neck.0.weight"] = torch.zeros(256, 7, 1, 1)
    source = tmp_path / "broken.pth"
    torch.save(state, source)
    assert run_tool("--from", "sam", source, tmp_path / "sam.pth") == 2
    message = capsys.readouterr().err
    for part in ("broken.pth", "mask_decoder.iou_token.weight", "mask_decoder.extra", "(256, 7, 1, 1)"):
        assert part in message
    assert not (tmp_path / "sam.pth").exists()


def test_another_sam_than_named_is_recognised(tmp_path: Path) -> None:
    source = tmp_path / "tiny.pth"
    torch.save(build_sam("vit_tiny").state_dict(), source)
    with pytest.raises(ValueError, match=r"(?s)tiny\.pth.*not the weights of SAM vit_b.*looks like a vit_tiny"):
        convert_sam(str(source), "vit_b")


class Command:
    """Runs a command when it is unpickled without care."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("convert", [convert_sam, convert_wps_sam])
def test_pickle_with_code_is_refused(convert: Callable[[str], object], tmp_path: Path) -> None:
    source = tmp_path / "evil.pth"
    torch.save({"weight": Command(tmp_path / "made_by_code")}, source)
    with pytest.raises(ValueError, match=r"evil\.pth"):
        convert(str(source))
    assert not (tmp_path / "made_by_code").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("coords_embed.2.bias"), r"(?s)authors\.pth.*prompt_head\.2\.bias"),
        (lambda state: state.pop("class_embed.bias"), r"authors\.pth.*class_head\.bias"),
        (lambda state: state.update({"box_head.weight": torch.zeros(1)}), r"authors\.pth.*box_head\.weight"),
        (lambda state: state.update({"pos_embed": torch.zeros(1, 256, 9, 9)}), r"(?s)position.*9, 9"),
        (lambda state: state.pop("SAM_model.mask_decoder.iou_token.weight"), r"(?s)authors\.pth.*iou_token"),
    ],
)
def test_damaged_wps_sam_checkpoint_is_refused(
    tiny_state: State, tmp_path: Path, change: Callable[[State], object], message: str
) -> None:
    state = dict(tiny_state)
    change(state)
    path = tmp_path / "authors.pth"
    torch.save(state, path)
    with pytest.raises(ValueError, match=message):
        write_wps_sam(convert_wps_sam(str(path)), str(tmp_path / "out.pth"), str(tmp_path / "sam.pth"))
    assert not (tmp_path / "out.pth").exists()


# ---------------------------------------------------------------- a training's checkpoint to a file to ship


def test_exported_training_predicts_without_its_data_set(run_tool, tiny_model, tmp_path: Path) -> None:
    """Class names travel with the weights: in the .pth of a training, and in what is exported from it."""
    from wps_sam import PartPredictor

    saved = torch.load(tiny_model.weights, weights_only=True)
    saved["trainer"] = {"class_names": ["Animal Head", "Animal Body", "Car Body"]}
    trained, shipped = tmp_path / "model_final.pth", tmp_path / "shipped.safetensors"
    torch.save(saved, trained)
    run_tool("--from", "training", str(trained), str(shipped))
    opts = ("DATASETS.DESCRIPTIONS", [], "DATASETS.TRAIN", ())
    image = torch.randint(256, (64, 48, 3), dtype=torch.uint8).numpy()
    results = [PartPredictor(tiny_model.config_file, path, opts=opts)(image) for path in (trained, shipped)]
    assert results[0].class_names == ("Animal Head", "Animal Body", "Car Body") == results[1].class_names
    assert results[0].names == results[1].names and len(results[0]) > 0
    assert (results[0].part_map != results[1].part_map).mean() < 0.02
    assert shipped.stat().st_size < 0.6 * tiny_model.weights.stat().st_size


def test_a_checkpoint_without_class_names_is_not_exported(run_tool, tiny_model, tmp_path: Path, capsys) -> None:
    assert run_tool("--from", "training", str(tiny_model.weights), str(tmp_path / "shipped.safetensors")) == 2
    assert "holds no class names" in capsys.readouterr().err


# ---------------------------------------------------------------- a MobileNetV2 whose norms are folded


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Tensor]]:
    """A file of random tensors in that layout: expansion, depth-wise and projection of every block in turn."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}

    def convolution(outputs: int, inputs: int, side: int) -> None:
        name, scale = f"convs.{len(tensors) // 2}", (2 / (inputs * side * side)) ** 0.5
        tensors[f"{name}.weight"] = torch.randn(outputs, inputs, side, side, generator=generator) * scale
        tensors[f"{name}.bias"] = torch.randn(outputs, generator=generator) * 0.1

    convolution(32, 3, 3)
    width = 32
    for expansion, channels, count in (
        (1, 16, 1),
        (6, 24, 2),
        (6, 32, 3),
        (6, 64, 4),
        (6, 96, 3),
        (6, 160, 3),
        (6, 320, 1),
    ):
        for _ in range(count):
            hidden = width * expansion
            if expansion > 1:
                convolution(hidden, width, 1)
            convolution(hidden, 1, 3)
            convolution(channels, hidden, 1)
            width = channels
    convolution(1280, 320, 1)
    tensors["classifier.weight"] = torch.randn(1001, 1280, 1, 1, generator=generator) * 0.02
    tensors["classifier.bias"] = torch.randn(1001, generator=generator)
    path = tmp_path_factory.mktemp("folded") / "mobilenet_v2.safetensors"
    save_file(tensors, path)
    return str(path), tensors


def plain_mobilenet(tensors: dict[str, Tensor], x: Tensor, right: int) -> dict[int, Tensor]:
    """The last map of each stride, with functional operators.

    3 x 3 convolutions of stride 2 are padded at the right and bottom, by ``right`` pixels, as TensorFlow does by one.
    """
    number, maps, stride = 0, {}, 2

    def convolution(x: Tensor, step: int = 1, groups: int = 1, clip: bool = True) -> Tensor:
        nonlocal number
        weight, bias = tensors[f"convs.{number}.weight"], tensors[f"convs.{number}.bias"]
        number += 1
        if weight.shape[-1] == 3:
            x = F.pad(x, (1, 1, 1, 1) if step == 1 else (1 - right, right, 1 - right, right))
        x = F.conv2d(x, weight, bias, step, groups=groups)
        return x.clamp(0, 6) if clip else x

    x = convolution(x, 2)
    for expansion, count, first in ((1, 1, 1), (6, 2, 2), (6, 3, 2), (6, 4, 2), (6, 3, 1), (6, 3, 2), (6, 1, 1)):
        for k in range(count):
            step = first if k == 0 else 1
            stride *= step
            hidden = convolution(x) if expansion > 1 else x
            hidden = convolution(hidden, step, hidden.shape[1])
            out = convolution(hidden, clip=False)
            x = out + x if k else out
            maps[stride] = x
    return maps


def test_a_folded_mobilenet_becomes_timms(
    run_tool: Callable[..., int], folded: tuple[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    path, tensors = folded
    assert run_tool("--from", "folded-mobilenet-v2", path, str(tmp_path / "out")) == 0
    network = read_network("timm", str(tmp_path / "out"))
    assert network.pixel_mean == network.pixel_std == (0.5, 0.5, 0.5)
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        for (stride, expected), found in zip(sorted(plain_mobilenet(tensors, images, 1).items())[2:], network(images)):
            torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
            assert not torch.allclose(found, plain_mobilenet(tensors, images, 0)[stride], atol=0.1)


def test_a_folded_mobilenet_that_is_none_is_refused(
    run_tool: Callable[..., int], folded: tuple[str, dict[str, Tensor]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    _, tensors = folded
    wrong = tmp_path / "wrong.safetensors"
    save_file({key: value for key, value in tensors.items() if key != "convs.7.bias"}, wrong)
    assert run_tool("--from", "folded-mobilenet-v2", str(wrong), str(tmp_path / "out")) == 2
    assert "wrong.safetensors: convs.7.bias: expected a tensor (144,), got none" in capsys.readouterr().err
