"""OpenAI's CLIP, as checkpoints of CAT-Seg and its kin hold it, under the names of transformers' CLIPModel."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# OpenAI's names, as regular expressions, to transformers'. Of the first that fits, the rest is kept.
_RENAMED = {
    r"visual\.class_embedding$": "vision_model.embeddings.class_embedding",
    r"visual\.conv1\.": "vision_model.embeddings.patch_embedding.",
    r"visual\.positional_embedding$": "vision_model.embeddings.position_embedding.weight",
    # Sic.
    r"visual\.ln_pre\.": "vision_model.pre_layrnorm.",
    r"visual\.ln_post\.": "vision_model.post_layernorm.",
    r"visual\.proj$": "visual_projection.weight",
    r"visual\.transformer\.resblocks\.": "vision_model.encoder.layers.",
    r"transformer\.resblocks\.": "text_model.encoder.layers.",
    r"token_embedding\.": "text_model.embeddings.token_embedding.",
    r"positional_embedding$": "text_model.embeddings.position_embedding.weight",
    r"ln_final\.": "text_model.final_layer_norm.",
    r"text_projection$": "text_projection.weight",
    r"logit_scale$": "logit_scale",
}
_RENAMED_IN_BLOCKS = {
    ".attn.out_proj.": ".self_attn.out_proj.",
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
}
_TRANSPOSED = ("visual_projection.weight", "text_projection.weight")


def from_openai(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of OpenAI's CLIP as one of transformers' CLIPModel.

    Raises:
        ValueError: a name is none of OpenAI's.
    """
    converted: dict[str, Tensor] = {}
    for name, value in state.items():
        old = next((pattern for pattern in _RENAMED if re.match(pattern, name)), None)
        if old is None:
            raise ValueError(f"{name}: no tensor of OpenAI's CLIP is called so")
        new = re.sub(old, _RENAMED[old], name, count=1)
        for part, renamed in _RENAMED_IN_BLOCKS.items():
            new = new.replace(part, renamed)
        if ".attn.in_proj_" in new:
            block, kind = new.split(".attn.in_proj_")
            for letter, third in zip("qkv", value.chunk(3)):
                converted[f"{block}.self_attn.{letter}_proj.{kind}"] = third
        else:
            converted[new] = value.T if new in _TRANSPOSED else value
    return converted
