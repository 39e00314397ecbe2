"""From the names of tensors in the authors' own files of weights to those in transformers' classes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

# Regular expressions and what takes their place, in this order.
Rules = Sequence[tuple[str, str]]


def _numbered(place: str, names: Mapping[int, str]) -> Rules:
    """``place``.0. and so on to names, as of the layers of an nn.Sequential."""
    return [(rf"\b{place}\.{number}\.", f"{name}.") for number, name in names.items()]


# Of three layers.
_PERCEPTRON = r"(?:output_hypernetworks_mlps\.\d|iou_prediction_head|pred_obj_score_head|hf_mlp)"
# What the decoders and prompt encoders of all SAMs call alike.
_COMMON: Rules = [
    (r"\bpe_layer\.positional_encoding_gaussian_matrix$", "shared_embedding.positional_embedding"),
    (r"\bpoint_embeddings\.", "point_embed."),
    *_numbered(
        r"mask_downscaling",
        {
            0: "mask_embed.conv1",
            1: "mask_embed.layer_norm1",
            3: "mask_embed.conv2",
            4: "mask_embed.layer_norm2",
            6: "mask_embed.conv3",
        },
    ),
    *_numbered(r"output_upscaling", {0: "upscale_conv1", 1: "upscale_layer_norm", 3: "upscale_conv2"}),
    (rf"({_PERCEPTRON})\.layers\.0\.", r"\1.proj_in."),
    (rf"({_PERCEPTRON})\.layers\.2\.", r"\1.proj_out."),
    (rf"({_PERCEPTRON})\.layers\.1\.", r"\1.layers.0."),
    (r"\.norm(?=\d|_final)", ".layer_norm"),
    (r"\bpatch_embed\.proj\.", "patch_embed.projection."),
]
_HQ: Rules = [
    (r"^image_encoder\.", "vision_encoder."),
    (r"^vision_encoder\.blocks\.", "vision_encoder.layers."),
    *_numbered(r"neck", {0: "neck.conv1", 1: "neck.layer_norm1", 2: "neck.conv2", 3: "neck.layer_norm2"}),
    *_COMMON,
    (r"\bhf_token\.", "hq_token."),
    (r"\bhf_mlp\.", "hq_mask_mlp."),
    *_numbered(r"compress_vit_feat", {0: "compress_vit_conv1", 1: "compress_vit_norm", 3: "compress_vit_conv2"}),
    *_numbered(r"embedding_encoder", {0: "encoder_conv1", 1: "encoder_norm", 3: "encoder_conv2"}),
    *_numbered(r"embedding_maskfeature", {0: "mask_conv1", 1: "mask_norm", 3: "mask_conv2"}),
]
# Of two.
_SHORT_PERCEPTRON = r"(?:vision_encoder\.backbone\.blocks\.\d+|transformer\.layers\.\d)\.mlp"
_SAM2: Rules = [
    (r"^sam_prompt_encoder\.", "prompt_encoder."),
    (r"^sam_mask_decoder\.", "mask_decoder."),
    (r"^image_encoder\.trunk\.body\.", "vision_encoder.backbone.timm_model."),
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^image_encoder\.neck\.convs\.(\d)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"^no_mem_embed$", "no_memory_embedding"),
    (rf"({_SHORT_PERCEPTRON})\.layers\.0\.", r"\1.proj_in."),
    (rf"({_SHORT_PERCEPTRON})\.layers\.1\.", r"\1.proj_out."),
    (r"^(mask_decoder\..*)\bout_proj\.", r"\1o_proj."),
    *_COMMON,
]
# Of files for videos: what a single picture does not ask for.
_OF_VIDEOS = re.compile(r"memory_|maskmem_|mask_downsample\.|no_mem_pos_enc|no_obj_|obj_ptr_|spatial_perceiver\.")


def _renamed(state: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    # One matrix for prompts and for the places of cells.
    matrix = renamed.get("prompt_encoder.shared_embedding.positional_embedding")
    if matrix is not None:
        renamed["shared_image_embedding.positional_embedding"] = matrix
    return renamed


def sam_hq_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """sam_hq_vit_{b,l,h}.pth as SamHQModel has it."""
    return _renamed(state, _HQ)


def sam2_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """sam2.1_hiera_*.pt, or edgetam.pt, as Sam2Model or EdgeTamModel has it: without the memory of videos."""
    renamed = _renamed({key: value for key, value in state.items() if not _OF_VIDEOS.match(key)}, _SAM2)
    kinds = [f"prompt_encoder.point_embed.{kind}.weight" for kind in range(4)]
    if all(kind in renamed for kind in kinds):
        renamed["prompt_encoder.point_embed.weight"] = torch.cat([renamed.pop(kind) for kind in kinds])
    return renamed


# By the title of a family. Of SAM 3 transformers' own folder is what is published for its classes.
OFFICIAL_NAMES: dict[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]] = {
    "SAM-HQ": sam_hq_names,
    "SAM 2": sam2_names,
    "EdgeTAM": sam2_names,
}
