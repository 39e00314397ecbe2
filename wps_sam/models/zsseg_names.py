"""The names that the weights of ZSSeg+ have in the checkpoints of OV-PARTS' code."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..encoders.openai_clip import from_openai
from .resnet import from_detectron2

_PIXEL, _PREDICTOR, _ADAPTER = "sem_seg_head.pixel_decoder.", "sem_seg_head.predictor.", "clip_adapter."
_BLOCKS = {"adapter": "proj", "layer": "block"}
# Patterns of whole names, and what they become; the first that fits counts. None: nothing, such as weights of the
# loss, which depend on the data set, and words that CLIP's vocabulary has anyway.
_RULES: tuple[tuple[str, Callable[[re.Match[str]], str] | None], ...] = (
    (r"criterion\.empty_weight", None),
    (r"(?:clip_adapter\.)?prompt_learner\.\w+_signal", None),
    # The adapter's and the prompts' are one.
    (r"clip_adapter\.prompt_learner\.fuse_weight", None),
    (r"(?:clip_adapter|prompt_learner)\.fuse_weight", lambda m: "fuse_weight"),
    (r"clip_adapter\.non_object_embedding", lambda m: "no_object"),
    (_PIXEL + r"layer_4\.(norm\.)?(\w+)", lambda m: f"pixel_decoder.fpn.stem.{_at(m[1])}.{m[2]}"),
    (
        _PIXEL + r"(adapter|layer)_([123])\.(norm\.)?(\w+)",
        lambda m: f"pixel_decoder.fpn.layers.{3 - int(m[2])}.{_BLOCKS[m[1]]}.{_at(m[3])}.{m[4]}",
    ),
    (_PIXEL + r"mask_features\.(\w+)", lambda m: f"pixel_decoder.mask_projection.{m[1]}"),
    (_PREDICTOR + r"query_embed\.weight", lambda m: "queries.weight"),
    (_PREDICTOR + r"input_proj\.(\w+)", lambda m: f"input_projection.{m[1]}"),
    (_PREDICTOR + r"transformer\.decoder\.(.*)", lambda m: f"decoder.{m[1]}"),
    # Between linear layers lie activations.
    (_PREDICTOR + r"(mask|class)_embed\.layers\.(\d)\.(\w+)", lambda m: f"{m[1]}_head.{2 * int(m[2])}.{m[3]}"),
)


def _at(norm: str | None) -> int:
    """The place of a convolution, or of the norm behind it."""
    return 1 if norm else 0


def from_official(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict of OV-PARTS' code, of the model or of prompts alone, by the names of :class:`ZSSeg`; others stay."""
    renamed: dict[str, Any] = {}
    words = [
        state.get(f"{place}prompt_learner.{kind}_prompt") for kind in ("prefix", "connect") for place in ("", _ADAPTER)
    ]
    contexts = [word for word in words if word is not None]
    if len(contexts) == 2:
        renamed["prompts.contexts"] = torch.cat(contexts)[None].float()
    for name, value in state.items():
        if name.endswith(("prompt_learner.prefix_prompt", "prompt_learner.connect_prompt")) and len(contexts) == 2:
            continue
        for pattern, new in _RULES:
            found = re.fullmatch(pattern, name)
            if found:
                if new is not None:
                    ours = new(found)
                    renamed[ours if ours in ("fuse_weight", "no_object") else f"proposals.{ours}"] = value
                break
        else:
            renamed[name] = value
    for theirs, ours, convert in (
        ("backbone.", "proposals.backbone.", from_detectron2),
        (f"{_ADAPTER}clip_model.", "clip.model.", from_openai),
    ):
        inside = {n.removeprefix(theirs): renamed.pop(n) for n in list(renamed) if n.startswith(theirs)}
        renamed |= {ours + name: value for name, value in convert(inside).items()}
    return renamed
