"""CATSeg once more, under the names of its published checkpoints: what they hold, and a plain computation from them.

Of the project nothing is used but the width of its tiny CLIP. The computation is of one picture and one class at a
time, with loops in place of views, and can be made wrong in one place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from wps_sam.encoders.clip import SIZES as CLIP_SIZES

import torch
from torch import Tensor
from torch.nn import functional as F

PREDICTOR = "sem_seg_head.predictor."
CLIP_MEAN, CLIP_STD = (122.7709383, 116.7460125, 104.09373615), (68.5005327, 66.6321579, 70.3231630)
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Sizes:
    """Of the networks; of CLIP's towers (width, hidden, layers, heads)."""

    image: int
    tokens: int
    text: tuple[int, int, int, int]
    vision: tuple[int, int, int, int]
    positions: int
    joint: int
    depths: tuple[int, int, int]
    inner: int
    templates: int
    width: int
    heads: int
    window: int
    decoder: tuple[int, int]
    guidance: tuple[int, int]


PUBLISHED = Sizes(
    **{"image": 384, "tokens": 49408, "text": (512, 2048, 12, 8), "vision": (768, 3072, 12, 12), "positions": 14},
    **{"joint": 512, "depths": (3, 4, 23), "inner": 64, "templates": 80, "width": 128, "heads": 4, "window": 12},
    **{"decoder": (64, 32), "guidance": (32, 16)},
)
TINY = Sizes(
    **{"image": 64, "tokens": 514, "text": (48, 96, 2, 4), "vision": (48, 96, 4, 4), "positions": 2},
    **{
        "joint": CLIP_SIZES["tiny"]["projection_dim"],
        "depths": (1, 1, 1),
        "inner": 8,
        "templates": 3,
        "width": 16,
        "heads": 2,
        "window": 2,
    },
    **{"decoder": (32, 16), "guidance": (8, 8)},
)


# ------------------------------------------------------------------ what a checkpoint holds


def layout(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a CAT-Seg checkpoint: 470 of the backbone, 302 of CLIP, 124 + 2 of the rest."""
    return {
        **{f"backbone.{name}": shape for name, shape in _backbone(sizes).items()},
        **{f"{PREDICTOR}clip_model.{name}": shape for name, shape in _clip(sizes).items()},
        **{f"{PREDICTOR}transformer.{name}": shape for name, shape in _aggregator(sizes).items()},
    }


def _both(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _backbone(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, *shape: int) -> None:
        found[f"{name}.weight"] = shape
        found.update({f"{name}.norm.{of}": shape[:1] for of in ("weight", "bias", "running_mean", "running_var")})

    convolution("stem.conv1", 64, 3, 7, 7)
    channels = 64
    for stage, depth in enumerate(sizes.depths, start=2):
        inner, out = sizes.inner << stage - 2, sizes.inner << stage
        for block in range(depth):
            name = f"res{stage}.{block}"
            convolution(f"{name}.conv1", inner, channels, 1, 1)
            convolution(f"{name}.conv2", inner, inner, 3, 3)
            convolution(f"{name}.conv3", out, inner, 1, 1)
            if block == 0:
                convolution(f"{name}.shortcut", out, channels, 1, 1)
            channels = out
    return found


def _clip(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    wide, narrow = sizes.vision[0], sizes.text[0]
    found: dict[str, tuple[int, ...]] = {
        "visual.class_embedding": (wide,),
        "visual.conv1.weight": (wide, 3, 16, 16),
        "visual.positional_embedding": (sizes.positions**2 + 1, wide),
        **_both("visual.ln_pre", wide),
        **_both("visual.ln_post", wide),
        "visual.proj": (wide, sizes.joint),
        "token_embedding.weight": (sizes.tokens, narrow),
        "positional_embedding": (77, narrow),
        **_both("ln_final", narrow),
        "text_projection": (narrow, sizes.joint),
        "logit_scale": (),
    }
    for tower, (width, hidden, layers, _) in (("visual.transformer", sizes.vision), ("transformer", sizes.text)):
        for i in range(layers):
            block = f"{tower}.resblocks.{i}"
            found[f"{block}.attn.in_proj_weight"], found[f"{block}.attn.in_proj_bias"] = (
                (3 * width, width),
                (3 * width,),
            )
            found |= _both(f"{block}.attn.out_proj", width, width) | _both(f"{block}.ln_1", width)
            found |= _both(f"{block}.mlp.c_fc", hidden, width) | _both(f"{block}.mlp.c_proj", width, hidden)
            found |= _both(f"{block}.ln_2", width)
    return found


def _aggregator(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    width, cells = sizes.width, sizes.window**2
    found = {
        **_both("conv1", width, sizes.templates, 7, 7),
        **_both("guidance_projection.0", width, 16 * sizes.inner, 3, 3),
        **_both("text_guidance_projection.0", width, sizes.joint),
        **_both("decoder_guidance_projection.0.0", sizes.guidance[0], 8 * sizes.inner, 3, 3),
        **_both("decoder_guidance_projection.1.0", sizes.guidance[1], 4 * sizes.inner, 3, 3),
        **_both("head", 1, sizes.decoder[1], 3, 3),
    }
    for layer in ("layers.0", "layers.1"):
        found |= _both(f"{layer}.swin_block.guidance_norm", width)
        attentions = [f"{layer}.attention.attention"]
        for block in ("block_1", "block_2"):
            name = f"{layer}.swin_block.{block}"
            attentions.append(f"{name}.attn")
            found |= (
                _both(f"{name}.norm1", width) | _both(f"{name}.norm2", width) | _both(f"{name}.attn.proj", width, width)
            )
            found |= _both(f"{name}.mlp.fc1", 4 * width, width) | _both(f"{name}.mlp.fc2", width, 4 * width)
        found[f"{layer}.swin_block.block_2.attn_mask"] = ((sizes.image // 16 // sizes.window) ** 2, cells, cells)
        for name in attentions:
            found |= _both(f"{name}.q", width, 2 * width) | _both(f"{name}.k", width, 2 * width)
            found |= _both(f"{name}.v", width, width)
        name = f"{layer}.attention"
        found |= _both(f"{name}.MLP.0", 4 * width, width) | _both(f"{name}.MLP.2", width, 4 * width)
        found |= _both(f"{name}.norm1", width) | _both(f"{name}.norm2", width)
    for i, (inputs, outputs) in enumerate(zip((width, sizes.decoder[0]), sizes.decoder)):
        name, up = f"decoder{i + 1}", inputs - sizes.guidance[i]
        found |= {f"{name}.up.weight": (inputs, up, 2, 2), f"{name}.up.bias": (up,)}
        for j, channels in ((0, inputs), (3, outputs)):
            found[f"{name}.conv.double_conv.{j}.weight"] = (outputs, channels, 3, 3)
            found |= _both(f"{name}.conv.double_conv.{j + 1}", outputs)
    return found


def random_checkpoint(sizes: Sizes) -> dict[str, Tensor]:
    """Weights float64 under which every step shows in the logits."""
    generator = torch.Generator().manual_seed(4)
    state: dict[str, Tensor] = {}
    for name, shape in layout(sizes).items():
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        if name.endswith("attn_mask"):
            state[name] = shifted_mask(sizes)
        elif name.endswith("running_var"):
            state[name] = 0.5 + drawn.abs()
        elif len(shape) < 2:
            # Norms' weights and logit_scale around 1, biases around 0.
            state[name] = 0.2 * drawn + (0.0 if name.endswith(("bias", "mean", "embedding")) else 1.0)
        elif "embedding" in name:
            state[name] = 0.5 * drawn
        else:
            state[name] = 1.5 * drawn / math.sqrt(math.prod(shape[1:]))
    # Values that float32 can hold, as files do.
    return {name: value.float().double() for name, value in state.items()}


def shifted_mask(sizes: Sizes) -> Tensor:
    """[windows, cells of one, cells of one]: 0 where both came from the same side of the grid, else -100."""
    side, window = sizes.image // 16, sizes.window
    starts = range(0, side, window)

    def wrapped(index: int) -> bool:
        """Whether a row or column of the rolled grid lay at the other end before."""
        return index >= side - window // 2

    mask = torch.zeros(len(starts) ** 2, window**2, window**2, dtype=torch.float64)
    for number, (y, x) in enumerate(product(starts, starts)):
        cells = [(y + r, x + c) for r, c in product(range(window), range(window))]
        for (i, one), (j, other) in product(enumerate(cells), enumerate(cells)):
            if [wrapped(k) for k in one] != [wrapped(k) for k in other]:
                mask[number, i, j] = -100.0
    return mask


# ------------------------------------------------------------------ the computation


def logits(
    state: Mapping[str, Tensor],
    sizes: Sizes,
    image: Tensor,
    texts: Sequence[Sequence[Sequence[int]]],
    background: Tensor,
    wrong: str = "",
) -> Tensor:
    """Logits float64 [K+1, S/4, S/4] of a picture uint8 RGB [3, h, w].

    Args:
        texts: of each class of each template the token ids, from start to end.
        background: [E].
        wrong: where to deviate, "" for nowhere; see the names in the code.
    """
    clip = {name[len(PREDICTOR) + 11 :]: v for name, v in state.items() if name.startswith(f"{PREDICTOR}clip_model.")}
    agg = {name[len(PREDICTOR) + 12 :]: v for name, v in state.items() if name.startswith(f"{PREDICTOR}transformer.")}
    square = F.interpolate(image[None].double(), (sizes.image, sizes.image), mode="bilinear", align_corners=False)[0]
    of_clip = (IMAGENET_MEAN, IMAGENET_STD) if wrong == "one normalisation" else (CLIP_MEAN, CLIP_STD)
    cells = dense_features(clip, sizes, normalised(square, *of_clip), wrong)
    features = backbone(state, sizes, normalised(square, IMAGENET_MEAN, IMAGENET_STD))
    text = torch.stack([torch.stack([unit(text_feature(clip, sizes, ids)) for ids in of_class]) for of_class in texts])
    if wrong != "background left out":
        text = torch.cat([text, unit(background.double()).expand(1, len(text[0]), -1)])
    if wrong == "templates averaged first":
        text = unit(text.mean(1, keepdim=True)).expand_as(text)
    return aggregate(agg, sizes, cells if wrong == "cells not of unit length" else unit(cells), text, features, wrong)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def normalised(square: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    return torch.stack([(channel - m) / s for channel, m, s in zip(square, mean, std)])


def norm(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def clip_block(
    state: Mapping[str, Tensor], name: str, x: Tensor, heads: int, allowed: Tensor | None = None, attends: bool = True
) -> Tensor:
    y = norm(state, f"{name}.ln_1", x)
    q, k, v = (y @ state[f"{name}.attn.in_proj_weight"].T + state[f"{name}.attn.in_proj_bias"]).chunk(3, -1)
    x = x + linear(state, f"{name}.attn.out_proj", attention(q, k, v, heads, allowed) if attends else v)
    y = linear(state, f"{name}.mlp.c_fc", norm(state, f"{name}.ln_2", x))
    return x + linear(state, f"{name}.mlp.c_proj", y * torch.sigmoid(1.702 * y))


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, allowed: Tensor | None) -> Tensor:
    """Of queries, keys and values [L, D], one head after the other; ``allowed`` [L, L]."""
    mixed = []
    for a, b, c in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1)):
        scores = a @ b.T / math.sqrt(a.shape[-1])
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -math.inf)
        mixed.append(scores.softmax(-1) @ c)
    return torch.cat(mixed, -1)


def dense_features(clip: Mapping[str, Tensor], sizes: Sizes, image: Tensor, wrong: str) -> Tensor:
    """[h * w, E]."""
    width, _, layers, heads = sizes.vision
    side = sizes.image // 16
    patches = F.conv2d(image[None], clip["visual.conv1.weight"], stride=16)[0].flatten(1).T
    positions = clip["visual.positional_embedding"]
    grid = positions[1:].T.reshape(1, width, sizes.positions, sizes.positions)
    mode = "bilinear" if wrong == "positions bilinear" else "bicubic"
    grid = F.interpolate(grid, (side, side), mode=mode, align_corners=False)[0].flatten(1).T
    x = torch.cat([(clip["visual.class_embedding"] + positions[0])[None], patches + grid])
    x = norm(clip, "visual.ln_pre", x)
    for i in range(layers):
        attends = i < layers - 1 or wrong == "attention in the last block"
        x = clip_block(clip, f"visual.transformer.resblocks.{i}", x, heads, attends=attends)
    return norm(clip, "visual.ln_post", x)[1:] @ clip["visual.proj"]


def text_feature(clip: Mapping[str, Tensor], sizes: Sizes, ids: Sequence[int]) -> Tensor:
    _, _, layers, heads = sizes.text
    x = clip["token_embedding.weight"][list(ids)] + clip["positional_embedding"][: len(ids)]
    before = torch.ones(len(ids), len(ids)).tril().bool()
    for i in range(layers):
        x = clip_block(clip, f"transformer.resblocks.{i}", x, heads, before)
    return norm(clip, "ln_final", x)[-1] @ clip["text_projection"]


def backbone(state: Mapping[str, Tensor], sizes: Sizes, image: Tensor) -> list[Tensor]:
    """res2, res3, res4, each [1, ., ., .]."""

    def convolved(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"backbone.{name}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        w, b, m, v = (
            state[f"backbone.{name}.norm.{of}"].view(-1, 1, 1)
            for of in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - m) / (v + 1e-5).sqrt() * w + b

    x = F.max_pool2d(convolved(image[None], "stem.conv1", 2).relu(), 3, stride=2, padding=1)
    found = []
    for stage, depth in enumerate(sizes.depths, start=2):
        for block in range(depth):
            name, stride = f"res{stage}.{block}", 2 if block == 0 and stage > 2 else 1
            y = convolved(x, f"{name}.conv1").relu()
            y = convolved(convolved(y, f"{name}.conv2", stride).relu(), f"{name}.conv3")
            x = (y + (convolved(x, f"{name}.shortcut", stride) if block == 0 else x)).relu()
        found.append(x)
    return found


def aggregate(
    s: Mapping[str, Tensor], sizes: Sizes, cells: Tensor, text: Tensor, features: Sequence[Tensor], wrong: str
) -> Tensor:
    """Cells [h * w, E] and text [T, P, E] to logits [T, 4h, 4w]."""
    side = sizes.image // 16

    def convolved(x: Tensor, name: str) -> Tensor:
        weight = s[f"{name}.weight"]
        return F.conv2d(x, weight, s.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    res2, res3, res4 = features
    of_cells = convolved(res4, "guidance_projection.0").relu()[0].flatten(1).T
    of_names = linear(s, "text_guidance_projection.0", unit(text.mean(1))).relu()
    fine = [convolved(res, f"decoder_guidance_projection.{i}.0").relu() for i, res in enumerate((res3, res2))]
    maps = []
    for of_class in text:
        cost = torch.stack([cells @ template for template in of_class]).view(1, sizes.templates, side, side)
        maps.append(convolved(cost, "conv1")[0].flatten(1).T)
    # [T, h * w, C]
    x = torch.stack(maps)
    for layer in ("layers.0", "layers.1"):
        g = norm(s, f"{layer}.swin_block.guidance_norm", of_cells)
        for block, shift in (("block_1", 0), ("block_2", sizes.window // 2)):
            allowed = neighbours(side, sizes.window, -shift if wrong == "rolled the other way" else shift, wrong)
            x = torch.stack([swin(s, f"{layer}.swin_block.{block}", m, g, allowed, sizes.heads, wrong) for m in x])
        if wrong != "no class step":
            x = class_step(s, f"{layer}.attention", x, of_names, side, sizes.heads, wrong)
    masks = []
    for of_class in x:
        m = of_class.T.view(1, -1, side, side)
        for i, guidance in enumerate(fine):
            name = f"decoder{i + 1}"
            m = F.conv_transpose2d(m, s[f"{name}.up.weight"], s[f"{name}.up.bias"], stride=2)
            m = torch.cat([guidance, m] if wrong == "guidance first" else [m, guidance], dim=1)
            for j in (0, 3):
                m = convolved(m, f"{name}.conv.double_conv.{j}")
                groups = 1 if wrong == "one group" else m.shape[1] // 16
                parts = [p - p.mean() for p in m.chunk(groups, 1)]
                m = torch.cat([p / (p.pow(2).mean() + 1e-5).sqrt() for p in parts], 1)
                w, b = (s[f"{name}.conv.double_conv.{j + 1}.{of}"].view(-1, 1, 1) for of in ("weight", "bias"))
                m = (m * w + b).relu()
        masks.append(convolved(m, "head")[0, 0])
    return torch.stack(masks)


def neighbours(side: int, window: int, shift: int, wrong: str) -> Tensor:
    """Which cells see each other, bool [h * w, h * w]: those of one window that are not a roll's doing."""

    def place(row: int, column: int) -> tuple[int, ...]:
        rolled = [(k - shift) % side for k in (row, column)]
        came_around = [k >= side - abs(shift) for k in rolled] if wrong != "no mask" else []
        return (*(k // window for k in rolled), *came_around)

    places = [place(*divmod(i, side)) for i in range(side * side)]
    return torch.tensor([[one == other for other in places] for one in places])


def swin(s: Mapping[str, Tensor], name: str, x: Tensor, g: Tensor, allowed: Tensor, heads: int, wrong: str) -> Tensor:
    y = norm(s, f"{name}.norm1", x)
    seen = torch.cat([y, torch.zeros_like(g) if wrong == "no guidance" else g], -1)
    q, k = (linear(s, f"{name}.attn.{letter}", seen) for letter in "qk")
    v = linear(s, f"{name}.attn.v", y + g if wrong == "values see the guidance" else y)
    x = x + linear(s, f"{name}.attn.proj", attention(q, k, v, heads, allowed))
    return x + linear(s, f"{name}.mlp.fc2", F.gelu(linear(s, f"{name}.mlp.fc1", norm(s, f"{name}.norm2", x))))


def class_step(
    s: Mapping[str, Tensor], name: str, x: Tensor, of_names: Tensor, side: int, heads: int, wrong: str
) -> Tensor:
    """x [T, h * w, C]: squares of 2 x 2 cells, one after the other, and back."""
    squares = x.view(len(x), side // 2, 2, side // 2, 2, -1).mean((2, 4))
    mixed = torch.empty_like(squares)
    for r, c in product(range(side // 2), range(side // 2)):
        u = squares[:, r, c]
        y = norm(s, f"{name}.norm1", u)
        seen = torch.cat([y, of_names], -1)
        q, k = (F.elu(linear(s, f"{name}.attention.{letter}", seen)) + 1 for letter in "qk")
        v = linear(s, f"{name}.attention.v", y)
        found = []
        for a, b, values in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1)):
            weights = a @ b.T
            total = 1.0 if wrong == "weights that do not add up" else weights.sum(-1, keepdim=True) + 1e-6
            found.append(weights / total @ values)
        out = u + torch.cat(found, -1)
        out = out + linear(s, f"{name}.MLP.2", linear(s, f"{name}.MLP.0", norm(s, f"{name}.norm2", out)).relu())
        mixed[:, r, c] = out - u if wrong == "no second residual" else out
    # Linear interpolation whose first and last points are the first and last cells.
    corners = torch.linspace(0, side // 2 - 1, side, dtype=x.dtype)
    if wrong == "corners not aligned":
        corners = ((torch.arange(side) + 0.5) / 2 - 0.5).clamp(0, side // 2 - 1).to(x.dtype)
    weight = (1 - (corners[:, None] - torch.arange(side // 2)).abs()).clamp(min=0)
    large = torch.einsum("ir,jc,trcd->tijd", weight, weight, mixed)
    return x + large.flatten(1, 2)


WRONG = (
    *("one normalisation", "cells not of unit length", "background left out", "templates averaged first"),
    *("positions bilinear", "attention in the last block", "rolled the other way", "no mask", "no guidance"),
    *("values see the guidance", "no class step", "weights that do not add up", "no second residual"),
    *("corners not aligned", "guidance first", "one group"),
)
