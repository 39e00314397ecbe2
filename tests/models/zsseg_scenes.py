"""A tiny ZSSeg, pictures for it, and the formulas of its specification computed anew, plainly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from wps_sam.config import add_wps_sam_config
from wps_sam.models.zsseg import ZSSeg
from wps_sam.vocabulary import PartVocabulary

import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from torch import Tensor
from torch.nn import functional as F

IGNORE = 65535
NAMES = ("cat's head", "cat's torso", "cat's tail", "bus's wheel", "bus's door", "bus's headlight")
# Six parts of two objects, two of them unseen, and an object without parts.
VOCABULARY = replace(PartVocabulary.from_names(NAMES), object_names=("cat", "bus", "boat")).with_unseen([1, 4])
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def tiny(*opts: Any) -> ZSSeg:
    """The same random weights every time, in eval mode, large enough that each step of the formulas shows."""
    cfg = get_cfg()
    add_wps_sam_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "ZSSeg"
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.ZSSEG.ARCH", "tiny", "MODEL.ZSSEG.NUM_QUERIES", 10, *opts])
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    with torch.no_grad():
        model.fuse_weight.fill_(0.7)
        model.prompts.contexts.mul_(20)
        if model.proposals is not None:
            for module in model.proposals.modules():
                if isinstance(module, (torch.nn.GroupNorm, torch.nn.LayerNorm)):
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.normal_(0, 0.3)
            model.proposals.queries.weight.mul_(10)
            model.proposals.mask_head[-1].weight.mul_(20)  # type: ignore[operator]
            model.proposals.class_head[0].weight.mul_(4)  # type: ignore[operator]
    model.set_vocabulary(VOCABULARY)
    return model


def picture(seed: int = 0, object_id: int = 0, height: int = 56, width: int = 72) -> dict[str, Any]:
    """Noise with an object in the middle that has two parts, one above the other, and a rim without label."""
    generator = torch.Generator().manual_seed(seed)
    parts = torch.full((height, width), IGNORE)
    objects = parts.clone()
    objects[10:40, 12:50] = object_id
    parts[12:25, 14:48] = 3 * object_id
    parts[25:38, 14:30] = 3 * object_id + 2
    image = torch.randint(256, (3, height, width), generator=generator).to(torch.uint8)
    image[:, 12:25, 14:48] //= 3
    return {
        **{"image": image, "sem_seg": parts, "obj_sem_seg": objects, "ignore_label": IGNORE},
        **{"category_id": object_id, "file_name": f"{seed}.jpg"},
    }


# ------------------------------------------------------------------ plain


def text(model: ZSSeg, c: int, shift: Tensor | None = None, wrong: str = "") -> Tensor:
    """SOS, V, object, W, part, ".", EOS as embeddings, through the text transformer: float [E], unit length."""
    clip, tower = model.clip, model.clip.model.text_model
    owner, part = NAMES[c].split("'s ", 1)
    words = tower.embeddings.token_embedding.weight
    learned = model.prompts.contexts[0] + (0 if shift is None else shift)
    tokenizer = clip.tokenizer

    def of(name: str) -> Tensor:
        return words[clip.tokens_of(name)]

    pieces = [words[[tokenizer.bos_token_id]], learned[:4], of(owner), learned[4:], of(part), of(".")]
    if wrong == "with 's":
        pieces.insert(3, of("'s"))
    if wrong == "V and W swapped":
        pieces[1], pieces[3] = pieces[3], pieces[1]
    row = torch.cat([*pieces, words[[tokenizer.eos_token_id]]])
    hidden = (row + tower.embeddings.position_embedding.weight[: len(row)])[None]
    for layer in tower.encoder.layers:
        a, normed = layer.self_attn, layer.layer_norm1(hidden)
        q, k, v = (p(normed).unflatten(2, (a.num_heads, -1)).transpose(1, 2) for p in (a.q_proj, a.k_proj, a.v_proj))
        scores = q @ k.mT * q.shape[-1] ** -0.5
        later = torch.ones(len(row), len(row)).triu(1).bool()
        attended = scores.masked_fill(later, float("-inf")).softmax(-1) @ v
        hidden = hidden + a.out_proj(attended.transpose(1, 2).flatten(2))
        hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
    return unit(clip.model.text_projection(tower.final_layer_norm(hidden)[0, -1]))


def unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)


def channels(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values)[:, None, None]


def proposals(model: ZSSeg, record: dict[str, Any], wrong: str = "") -> tuple[Tensor, Tensor]:
    """Of one picture the last layer's class features [Q, E] and mask logits [Q, H/4, W/4]."""
    parts = model.proposals
    assert parts is not None
    h, w = record["image"].shape[1:]
    size = [-(-side // 32) * 32 for side in (h, w)]
    image = torch.zeros(3, *size)
    image[:, :h, :w] = (record["image"] - channels(MEAN)) / channels(STD)
    inside = torch.zeros(1, *size)
    inside[0, :h, :w] = (record["obj_sem_seg"] != IGNORE).float()
    maps = parts.backbone(image[None])
    state = {name: value.detach() for name, value in parts.state_dict().items()}

    def convolved(x: Tensor, name: str, side: int) -> Tensor:
        x = F.conv2d(x, state[f"pixel_decoder.fpn.{name}.0.weight"], padding=side // 2)
        return F.group_norm(x, 32, *(state[f"pixel_decoder.fpn.{name}.1.{kind}"] for kind in ("weight", "bias")))

    x = convolved(maps[3], "stem", 3).relu()
    for k in range(3):
        left = convolved(maps[2 - k], f"layers.{k}.proj", 1)
        x = convolved(F.interpolate(x, left.shape[2:]) + left, f"layers.{k}.block", 3).relu()
    kinds = ("weight", "bias")
    pixels = F.conv2d(x, *(state[f"pixel_decoder.mask_projection.{kind}"] for kind in kinds), padding=1)[0]
    memory = F.conv2d(maps[3], *(state[f"input_projection.{kind}"] for kind in kinds))[0]
    position = sine(memory.shape[1:], len(memory))
    memory, position = memory.flatten(1).T, position.flatten(1).T
    cells = F.max_pool2d(inside, 32).flatten()
    bias = torch.where(cells > 0, 0.0, float("-inf"))
    if wrong == "additive attention":
        bias = 1 - cells

    def attention(name: str, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float) -> Tensor:
        weights, biases = (state[f"{name}.in_proj_{kind}"].chunk(3) for kind in kinds)
        q, k, v = (
            F.linear(x, m, b).unflatten(1, (4, -1)).transpose(0, 1) for x, m, b in zip((q, k, v), weights, biases)
        )
        found = (q @ k.mT * q.shape[-1] ** -0.5 + bias).softmax(-1) @ v
        return F.linear(found.transpose(0, 1).flatten(1), *(state[f"{name}.out_proj.{kind}"] for kind in kinds))

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], *(state[f"{name}.{kind}"] for kind in kinds))

    queries = state["queries.weight"]
    hidden = torch.zeros_like(queries)
    for k in range(2):
        layer = f"decoder.layers.{k}"
        asked = hidden + queries
        hidden = norm(hidden + attention(f"{layer}.self_attn", asked, asked, hidden, 0.0), f"{layer}.norm1")
        value = memory + position if wrong == "positions in values" else memory
        seen = attention(f"{layer}.multihead_attn", hidden + queries, memory + position, value, bias)
        hidden = norm(hidden + seen, f"{layer}.norm2")
        inner = F.linear(hidden, *(state[f"{layer}.linear1.{kind}"] for kind in kinds)).relu()
        hidden = norm(hidden + F.linear(inner, *(state[f"{layer}.linear2.{kind}"] for kind in kinds)), f"{layer}.norm3")
        if wrong == "the normed state goes on":
            hidden = norm(hidden, "decoder.norm")
    hidden = norm(hidden, "decoder.norm")

    def mlp(x: Tensor, name: str, places: tuple[int, ...]) -> Tensor:
        for k in places:
            x = F.linear(x if k == 0 else x.relu(), *(state[f"{name}.{k}.{kind}"] for kind in kinds))
        return x

    enlarged = F.interpolate(pixels[None], size)[0]
    of_object = (enlarged * inside).sum((1, 2)) / (size[0] * size[1])
    if wrong == "mean over the object":
        of_object = (enlarged * inside).sum((1, 2)) / inside.sum()
    if wrong == "no object in the class":
        of_object = 0 * of_object
    into_masks = hidden + of_object if wrong == "object in the masks" else hidden
    features = mlp(hidden + of_object, "class_head", (0, 2))
    return features, torch.einsum("qd,dhw->qhw", mlp(into_masks, "mask_head", (0, 2, 4)), pixels)


def sine(size: torch.Size, width: int) -> Tensor:
    """DETR's positions, of rows in the first half: float [width, h, w]."""
    out = torch.zeros(width, *size)
    for half, (axis, length) in enumerate(((0, size[0]), (1, size[1]))):
        places = torch.arange(1, length + 1) / (length + 1e-6) * 2 * torch.pi
        for k in range(width // 2):
            angle = places / 10000 ** (2 * (k // 2) / (width // 2))
            row = angle.cos() if k % 2 else angle.sin()
            out[half * width // 2 + k] = row[:, None] if axis == 0 else row[None]
    return out


def crop_of(record: dict[str, Any], scale: float = 1.2) -> tuple[slice, slice]:
    inside = record["obj_sem_seg"] != IGNORE
    spans = []
    for axis in (1, 0):
        places = inside.any(axis).nonzero()
        low, high = int(places.min()), int(places.max()) + 1
        middle, half = (low + high) / 2, scale * (high - low) / 2
        spans.append(slice(max(0, int(middle - half)), min(inside.shape[1 - axis], int(middle + half))))
    return spans[0], spans[1]


def clip_cells(model: ZSSeg, record: dict[str, Any], wrong: str = "") -> tuple[Tensor, Any]:
    """CLIP's dense features of the object's crop, [E, 4, 4] of unit length, and what squeezes a mask likewise."""
    rows, columns = crop_of(record, 1.0 if wrong == "the object's box" else 1.2)
    image = record["image"][:, rows, columns] / 255
    image = F.interpolate(((image - channels(CLIP_MEAN)) / channels(CLIP_STD))[None], (64, 64), mode="bilinear")
    vision = model.clip.model.vision_model
    states = vision(image, output_hidden_states=True, interpolate_pos_encoding=True).hidden_states
    last = vision.encoder.layers[-1]
    # Its attention alone is replaced.
    x = states[-2] + last.self_attn.out_proj(last.self_attn.v_proj(last.layer_norm1(states[-2])))
    x = x + last.mlp(last.layer_norm2(x))
    if wrong == "attention in the last block":
        x = states[-1]
    cells = model.clip.model.visual_projection(vision.post_layernorm(x))[0, 1:]
    if wrong != "cells not of unit length":
        cells = unit(cells)

    def squeeze(mask: Tensor) -> Tensor:
        there = F.interpolate(mask[None, None, rows, columns].float(), (64, 64))
        return F.max_pool2d(there, 16)[0, 0]

    return cells.T.unflatten(1, (4, 4)), squeeze


def seen_by_clip(model: ZSSeg, record: dict[str, Any], region: Tensor, wrong: str = "") -> tuple[Tensor, Tensor]:
    """The feature of a region, as it is mixed with its object's, and the object's: float [E]."""
    cells, squeeze = clip_cells(model, record, wrong)

    def mean(mask: Tensor) -> Tensor:
        there = squeeze(mask)
        return (cells * there).sum((1, 2)) / (there.sum() + 1e-6)

    part, whole = mean(region), mean(record["obj_sem_seg"] != IGNORE)
    weight = 1.0 if wrong == "the region alone" else model.fuse_weight
    mixed = weight * part + (1 - weight) * whole
    return unit(mixed) if wrong == "mixed, then of unit length" else mixed, whole


def scores(model: ZSSeg, record: dict[str, Any], wrong: str = "") -> Tensor:
    """Of all classes, at the network's size: float [K, h, w]."""
    h, w = record["image"].shape[1:]
    own = [c for c, name in enumerate(NAMES) if name.startswith(VOCABULARY.object_names[record["category_id"]])]
    texts = torch.stack([text(model, c, wrong=wrong) for c in range(len(NAMES))])
    features, masks = proposals(model, record, wrong)
    assert model.no_object is not None
    classes = 100 * unit(features) @ torch.cat([texts, unit(model.no_object)]).T
    probability = classes.softmax(1)[:, :-1]
    if wrong == "no object left out before the softmax":
        probability = classes[:, :-1].softmax(1)
    size = [4 * side for side in masks.shape[1:]]
    masks = F.interpolate(masks[None], size, mode="bilinear")[0, :, :h, :w].sigmoid()
    first = torch.einsum("qk,qhw->khw", probability, masks)
    best = first.argmax(0) if wrong != "only own classes compete" else first[own].argmax(0) + own[0]
    inside = record["obj_sem_seg"] != IGNORE
    second = torch.zeros_like(first)
    for c in range(len(NAMES)):
        region = best == c
        if not (region & inside).any():
            continue
        mixed, whole = seen_by_clip(model, record, region, wrong)
        if model.conditional and wrong != "words that do not move":
            texts = torch.stack([text(model, k, whole) for k in range(len(NAMES))])
        second[own] += (100 * texts[own] @ mixed).softmax(0)[:, None, None] * region
    seen = torch.tensor([c not in VOCABULARY.unseen for c in range(len(NAMES))])
    power = torch.where(seen, model.weight, 1 - model.weight)[:, None, None]
    if wrong == "exponents swapped":
        power = 1 - power
    return first**power * second ** (1 - power)
