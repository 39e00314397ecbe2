"""Promptable segmenters of transformers: what differs between their families, their published sizes, their weights.

Wherever transformers has a class for the family, weights come from a folder of Hugging Face's, or, where the layout of
the authors' own file is known, from that file.
"""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.transformer import TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from .build_sam import RANDOM_WEIGHTS_SEED, key_differences, read_state_dict, refuse_differences
from .clip import import_transformers
from .fast_encoder import FastImageEncoderViT, accelerate
from .frozen import hash_tensors
from .mask_decoder import Cut, grid_to_pixels, mask_weights, pixels_to_grid, tokens_read, upscale
from .official_names import OFFICIAL_NAMES

# Mean and deviation of RGB in 0..255: ImageNet's, as all SAMs but the third have them.
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
HALF = ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))

Shapes = dict[str, tuple[int, int, int]]


@dataclass(frozen=True)
class Family:
    """One architecture of transformers, whatever its size.

    Args:
        title: its published name.
        model, config: transformers' classes.
        box_tokens: tokens of a box; SAM 2 and its kin add a padding token to the two corners.
        scales_both_sides: a picture fills the square, its shape lost; else its longest side does, padded at the bottom
            and right.
        shapes: a configuration to the shapes (channels, h, w) of the features that are kept, by name.
        image_encoder: a network, and whether to pass it through ``torch.compile``, to what sees inputs [B, 3, S, S].
        look: a network and what was seen to those features.
        own_tokens: names of the mask decoder's own tokens, in the order in which they stand before those of a prompt.
        read: whether it is asked for the three masks of an ambiguous prompt, to which of these are read.
        cutter: the mask decoder, the features of a batch, and the same, to how masks are cut out of it.
        normalisation: mean and deviation of RGB in 0..255.
        needs_all_levels: why its decoder has no use for the embedding alone; "" if it has.
    """

    title: str
    model: str
    config: str
    box_tokens: int
    scales_both_sides: bool
    shapes: Callable[[Any], Shapes]
    image_encoder: Callable[[Any, bool], Callable[[Tensor], Any]]
    look: Callable[[Any, Any], dict[str, Tensor]]
    own_tokens: tuple[str, ...]
    read: Callable[[bool], list[int]]
    cutter: Callable[[Any, Mapping[str, Tensor], bool], Cut]
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    needs_all_levels: str = ""


def _hq_shapes(config: Any) -> Shapes:
    cells = config.prompt_encoder_config.image_embedding_size
    channels = config.vision_config.output_channels
    return {
        "image_embedding": (channels, cells, cells),
        "hq_features": (channels // 8, 4 * cells, 4 * cells),
    }


def _hq_image_encoder(network: Any, compiled: bool) -> Callable[[Tensor], tuple[Tensor, Tensor | None]]:
    """SAM's, of which the tokens behind the first block with global attention are read, too."""
    first = min(network.config.vision_config.global_attn_indexes)
    return partial(cast(FastImageEncoderViT, accelerate(_sam_image_encoder(network), compiled)).look, layer=first)


def _hq_look(network: Any, seen: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    embedding, early_tokens = seen
    decoder = network.mask_decoder
    act = decoder.activation
    # Those after the first block with global attention, and the last: what both add to the masks follows from the
    # picture alone, whatever the prompts.
    early = act(decoder.compress_vit_norm(decoder.compress_vit_conv1(early_tokens.movedim(-1, 1))))
    late = act(decoder.encoder_norm(decoder.encoder_conv1(embedding)))
    return {
        "image_embedding": embedding,
        "hq_features": decoder.compress_vit_conv2(early) + decoder.encoder_conv2(late),
    }


def _hq_read(multimask: bool) -> list[int]:
    """As of SAM, and SAM-HQ's own token, the last."""
    return [*tokens_read(multimask), 5]


def _hq_cutter(decoder: Any, features: Mapping[str, Tensor], multimask: bool) -> Cut:
    """SAM-HQ's masks (section 3.2): those of its own token are added to SAM's. The three of an ambiguous prompt come
    the best first.

    Not as the decoder's own forward, which (transformers 5.23) cuts masks out of the image as it was before the prompts
    met it, rows and columns exchanged.
    """
    height, width = features["image_embedding"].shape[-2:]

    def cut(queries: Tensor, keys: Tensor, images: list[int]) -> tuple[Tensor, Tensor | None]:
        pixels = upscale(_upscaling(decoder), keys)
        weights, iou = mask_weights(decoder, queries, multimask)
        if iou is not None:
            iou, order = iou.sort(dim=1, descending=True)
            weights = weights.gather(1, order[..., None].expand_as(weights))
        fine = decoder.mask_conv1(pixels_to_grid(pixels, height, width))
        fine = decoder.activation(decoder.mask_norm(fine).movedim(1, -1).flatten(1, 2))  # [k, P * 16, 64]
        # The last convolution is linear, and so is the cut: of its channels each prompt needs but one sum.
        of_token, last = decoder.hq_mask_mlp(queries[:, -1]), decoder.mask_conv2
        taps = torch.tensordot(of_token, last.weight.flip(-2, -1), 1).flatten(2)  # [k, 64, 9]
        hq = F.fold((fine @ taps).transpose(1, 2), (4 * height, 4 * width), last.kernel_size, padding=last.padding)
        hq = hq + (of_token @ last.bias)[:, None, None, None]
        hq = hq + torch.einsum("kc,kchw->khw", of_token, features["hq_features"][images])[:, None]
        return pixels @ weights.transpose(1, 2) + grid_to_pixels(hq, 4), iou

    return cut


def _upscaling(decoder: Any) -> tuple[Any, ...]:
    return (
        decoder.upscale_conv1,
        decoder.upscale_layer_norm,
        decoder.activation,
        decoder.upscale_conv2,
        decoder.activation,
    )


def _pyramid_shapes(config: Any) -> Shapes:
    fine, middle, coarse = (tuple(size) for size in config.vision_config.backbone_feature_sizes)
    channels = config.vision_config.fpn_hidden_size
    return {
        "image_embedding": (channels, *coarse),
        "high_res_0": (channels // 8, *fine),
        "high_res_1": (channels // 4, *middle),
    }


def _pyramid_image_encoder(network: Any, compiled: bool) -> Callable[[Tensor], list[Tensor]]:
    if compiled:
        network.vision_encoder.compile()
    return network.get_image_embeddings


def _pyramid_look(network: Any, seen: list[Tensor]) -> dict[str, Tensor]:
    # Projected for the decoder, and with the "no memory" of a single picture added.
    fine, middle, coarse = seen
    return {"image_embedding": coarse, "high_res_0": fine, "high_res_1": middle}


def _pyramid_cutter(decoder: Any, features: Mapping[str, Tensor], multimask: bool) -> Cut:
    """Without exchanging the single mask of a prompt for another where it looks unstable, as SAM 2 does by default: the
    masks that a prompter learns from would not be those that it is asked for."""
    finer = grid_to_pixels(features["high_res_1"], 2), grid_to_pixels(features["high_res_0"], 4)

    def cut(queries: Tensor, keys: Tensor, images: list[int]) -> tuple[Tensor, Tensor | None]:
        pixels = upscale(_upscaling(decoder), keys, (finer[0][images], finer[1][images]))
        weights, iou = mask_weights(decoder, queries, multimask)
        return pixels @ weights.transpose(1, 2), iou

    return cut


def _pyramid(title: str, name: str, normalisation: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET) -> Family:
    """SAM 2's ways, which EdgeTAM and SAM 3 took over."""
    own_tokens = ("obj_score_token", "iou_token", "mask_tokens")
    read = partial(tokens_read, iou_token=1)
    ways = (_pyramid_shapes, _pyramid_image_encoder, _pyramid_look, own_tokens, read, _pyramid_cutter)
    return Family(title, f"{name}Model", f"{name}Config", 3, True, *ways, normalisation)


HQ = Family(
    *("SAM-HQ", "SamHQModel", "SamHQConfig", 2, False, _hq_shapes, _hq_image_encoder),
    *(_hq_look, ("iou_token", "mask_tokens", "hq_token"), _hq_read, _hq_cutter),
    needs_all_levels="without hq_features SAM-HQ is SAM, MODEL.SAM.ARCH vit_*",
)
SAM2 = _pyramid("SAM 2", "Sam2")
EDGETAM = _pyramid("EdgeTAM", "EdgeTam")
SAM3 = _pyramid("SAM 3", "Sam3Tracker", HALF)


@dataclass(frozen=True)
class Arch:
    """One size of a family: what differs from the defaults of its configuration, by section."""

    family: Family
    sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def _hq(width: int, depth: int, heads: int, with_global_attention: Iterable[int]) -> Arch:
    vision: dict[str, Any] = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads}
    vision["global_attn_indexes"] = list(with_global_attention)
    return Arch(HQ, {"vision_config": vision, "mask_decoder_config": {"vit_dim": width}})


def _hiera(width: int, heads: int, depths: Iterable[int], with_global_attention: Iterable[int], **more: Any) -> Arch:
    widths = [width << stage for stage in range(4)]
    trunk = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": width,
        "embed_dim_per_stage": widths,
        "num_attention_heads": heads,
        "num_attention_heads_per_stage": [heads << stage for stage in range(4)],
        "blocks_per_stage": list(depths),
        "global_attention_blocks": list(with_global_attention),
        **more,
    }
    return Arch(SAM2, {"vision_config": {"backbone_config": trunk, "backbone_channel_list": widths[::-1]}})


_REPVIT = {
    "model_type": "timm_wrapper",
    "architecture": "repvit_m1",
    # Of a head that is not built; transformers can't do without the number.
    "num_classes": 1000,
    "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
}
# Published sizes, by MODEL.SAM.ARCH: SAM-HQ (arXiv 2306.01567) on SAM's three ViTs, SAM 2.1 (arXiv 2408.00714, table of
# its model zoo), EdgeTAM (arXiv 2501.07256), and of SAM 3 (arXiv 2511.16719) the part that takes points and boxes.
HUGGING_FACE_ARCHS: dict[str, Arch] = {
    "hq_b": _hq(768, 12, 12, (2, 5, 8, 11)),
    "hq_l": _hq(1024, 24, 16, (5, 11, 17, 23)),
    "hq_h": _hq(1280, 32, 16, (7, 15, 23, 31)),
    "sam2_tiny": _hiera(96, 1, (1, 2, 7, 2), (5, 7, 9)),
    "sam2_small": _hiera(96, 1, (1, 2, 11, 2), (7, 10, 13)),
    "sam2_base_plus": _hiera(112, 2, (2, 3, 16, 3), (12, 16, 20), window_positional_embedding_background_size=[14, 14]),
    "sam2_large": _hiera(144, 2, (2, 6, 36, 4), (23, 33, 43), window_size_per_stage=[8, 4, 16, 8]),
    "edgetam": Arch(EDGETAM, {"vision_config": {"backbone_config": _REPVIT}}),
    "sam3": Arch(SAM3),
}


def config_of(arch: str) -> Any:
    """transformers' configuration of MODEL.SAM.ARCH ``arch``; ValueError where transformers is missing."""
    of_arch = HUGGING_FACE_ARCHS[arch]
    config = getattr(import_transformers("this MODEL.SAM.ARCH"), of_arch.family.config)
    return config(**copy.deepcopy(dict(of_arch.sizes)))


def read_network(arch: str, weights: str = "") -> Any:
    """The network of MODEL.SAM.ARCH ``arch`` in eval mode, float32.

    Args:
        arch: a key of :data:`HUGGING_FACE_ARCHS`.
        weights: a folder of Hugging Face's, or its name on the hub; the authors' own file; "" for seeded random ones.

    Raises:
        ValueError: the weights are missing, damaged, or not exactly those of ``arch``; all differences are named.
    """
    family = HUGGING_FACE_ARCHS[arch].family
    model = getattr(import_transformers("this MODEL.SAM.ARCH"), family.model)
    if weights and not Path(weights).is_file():
        return _without_unread_levels(_read_folder(model, arch, weights)).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_WEIGHTS_SEED)
        network = model(config_of(arch))
    if weights:
        state = _read_file(family, weights)
        _refuse(key_differences(network.state_dict(), state), weights, arch)
        network.load_state_dict(state)
    return _without_unread_levels(network).eval()


def _without_unread_levels(network: Any) -> Any:
    """SAM 3's neck makes one level more than is read. transformers adds "no memory" to the last level, so that it is
    lost with that one; the authors drop the level first (sam3/model/sam1_task_predictor.py), as it is done here."""
    levels = getattr(network.vision_encoder.neck, "fpn_layers", None)
    if levels is not None:
        del levels[len(network.backbone_feature_sizes) :]
    return network


def _read_folder(model: Any, arch: str, weights: str) -> Any:
    try:
        # Weights that are missing or of another shape are random for now; they are refused below, all at once.
        network, info = model.from_pretrained(
            weights,
            config=config_of(arch),
            output_loading_info=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
        where = "" if Path(weights).is_dir() else " is no file or folder here, and from the hub came"
        raise ValueError(f"MODEL.SAM.WEIGHTS {weights}{where}: {error}") from error
    other = [f"{key} ({tuple(found)}, expected {tuple(own)})" for key, found, own in info["mismatched_keys"]]
    found = {"missing": info["missing_keys"], "unexpected": info["unexpected_keys"], "of another shape": other}
    _refuse({kind: sorted(keys) for kind, keys in found.items()}, weights, arch)
    return network


def _read_file(family: Family, weights: str) -> dict[str, Tensor]:
    """The authors' own file under transformers' names, without what only videos need."""
    if family.title not in OFFICIAL_NAMES:
        raise ValueError(
            f"MODEL.SAM.WEIGHTS {weights}: of {family.title} a folder of Hugging Face is read, with config.json and "
            "model.safetensors; this is a file"
        )
    return OFFICIAL_NAMES[family.title](read_state_dict(weights))


def _refuse(differences: Mapping[str, list[str]], weights: str, arch: str) -> None:
    refuse_differences(differences, f"{weights}: these are not the weights of {arch}.")


def weights_hash(arch: str, weights: str) -> str:
    """SHA-256 of all weights of :func:`read_network`, which are read anew only when a file has changed."""
    path = Path(weights)
    files = sorted(path.iterdir()) if weights and path.is_dir() else [path] if path.is_file() else []
    stats = tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    return _weights_hash(arch, weights, stats)


@functools.lru_cache
def _weights_hash(arch: str, weights: str, _: tuple[tuple[str, int, int], ...]) -> str:
    return network_hash(read_network(arch, weights))


def network_hash(network: Any) -> str:
    """SHA-256 of all weights of a network."""
    return hash_tensors(sorted(network.state_dict().items()))


def sam_transformer(transformer: Any) -> TwoWayTransformer:
    """The two-way transformer of a mask decoder under the names of the ``segment_anything`` package, with the same
    parameters: it is SAM's, whatever the family."""
    layers = transformer.layers
    width, hidden = layers[0].self_attn.q_proj.in_features, 1
    with torch.device("meta"):
        ours = TwoWayTransformer(len(layers), width, layers[0].self_attn.num_attention_heads, hidden)
    for own, theirs in zip(ours.layers, layers):
        own.mlp = theirs.mlp
        for place in range(1, 5):
            setattr(own, f"norm{place}", getattr(theirs, f"layer_norm{place}"))
        for name in ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token"):
            _share_projections(getattr(own, name), getattr(theirs, name))
    _share_projections(ours.final_attn_token_to_image, transformer.final_attn_token_to_image)
    ours.norm_final_attn = transformer.layer_norm_final_attn
    return ours


def _sam_image_encoder(network: Any) -> ImageEncoderViT:
    """SAM-HQ's image encoder, which is SAM's, under the names of the ``segment_anything`` package, with the same
    parameters."""
    theirs, config = network.vision_encoder, network.config.vision_config
    if config.hidden_act != "gelu":
        raise ValueError(f"hidden_act is {config.hidden_act!r}; expected 'gelu'")
    with torch.device("meta"):
        ours = ImageEncoderViT(
            img_size=config.image_size,
            patch_size=config.patch_size,
            embed_dim=config.hidden_size,
            depth=len(theirs.layers),
            num_heads=config.num_attention_heads,
            out_chans=config.output_channels,
            use_abs_pos=False,
            use_rel_pos=config.use_rel_pos,
            window_size=config.window_size,
            global_attn_indexes=tuple(config.global_attn_indexes),
        )
    ours.patch_embed.proj, ours.pos_embed = theirs.patch_embed.projection, theirs.pos_embed
    for own, layer in zip(ours.blocks, theirs.layers):
        own.norm1, own.norm2 = layer.layer_norm1, layer.layer_norm2
        own.attn.qkv, own.attn.proj = layer.attn.qkv, layer.attn.proj
        own.mlp.lin1, own.mlp.lin2 = layer.mlp.lin1, layer.mlp.lin2
        if config.use_rel_pos:
            own.attn.rel_pos_h, own.attn.rel_pos_w = layer.attn.rel_pos_h, layer.attn.rel_pos_w
    ours.neck = nn.Sequential(theirs.neck.conv1, theirs.neck.layer_norm1, theirs.neck.conv2, theirs.neck.layer_norm2)
    return ours


def _share_projections(own: Any, theirs: Any) -> None:
    own.q_proj, own.k_proj, own.v_proj = theirs.q_proj, theirs.k_proj, theirs.v_proj
    own.out_proj = theirs.o_proj if hasattr(theirs, "o_proj") else theirs.out_proj
