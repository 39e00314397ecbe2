"""SAM's mask decoder for the prompts of several images at once, without work whose result nobody reads.

The same weights and, up to rounding, the same masks as ``segment_anything.modeling.MaskDecoder``, which decodes one
image a call, projects that image once for every prompt, and computes four masks and their quality for the one mask
that is used. Functions are named after what they compute of ``segment_anything``'s ``TwoWayTransformer``.

Axes in comments: B images, K prompts of all of them, k of some of them, T tokens a prompt (SAM's own 5 and the prompt's
2), P = h * w cells of the image embedding, H heads, n masks a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock, TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from .promptable import MaskPredictions

# A prompt takes about 40 MiB at 1024 pixels while it is decoded. A GPU wants many at once, a CPU its caches warm.
PROMPTS_AT_ONCE = 64
PROMPTS_AT_ONCE_ON_CPU = 4
# What some prompts' masks are cut by, once tokens and image have seen each other: the tokens that are read [k, t, 256],
# each prompt's copy of the image [k, P, 256] and its number in the batch, to logits [k, P * 16, n], each cell's 16
# pixels one after the other, and expected IoU [k, n], or None.
Cut = Callable[[Tensor, Tensor, list[int]], tuple[Tensor, Tensor | None]]


def predict_masks(
    decoder: MaskDecoder,
    image_embedding: Tensor,
    prompts: Sequence[Tensor],
    no_mask: Tensor,
    position: Tensor,
    multimask: bool = False,
) -> list[MaskPredictions]:
    """The masks of every image's prompts.

    Args:
        decoder: of the ``segment_anything`` package; gradients may flow through it to the prompts.
        image_embedding: [B, 256, h, w].
        prompts: for each image its tokens [K_i, 2, 256]; K_i may be 0.
        no_mask: SAM's embedding of "no mask", [1, 256, h, w].
        position: SAM's dense position encoding, [1, 256, h, w].
        multimask: the three masks of an ambiguous prompt and the IoU that SAM expects of each, instead of the single
        one.

    Returns:
        For each image mask logits [K_i, n, 4h, 4w], n 1 or 3; expected IoU [K_i, 3], or None of single masks.
    """

    def cut(queries: Tensor, keys: Tensor, images: list[int]) -> tuple[Tensor, Tensor | None]:
        weights, iou = mask_weights(decoder, queries, multimask)
        return upscale(decoder.output_upscaling, keys) @ weights.transpose(1, 2), iou

    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    image, read = image_embedding + no_mask, tokens_read(multimask)
    return cut_masks(decoder.transformer, own, read, image, prompts, position, cut, multimask)


def tokens_read(multimask: bool, iou_token: int = 0) -> list[int]:
    """Which of the own tokens of a SAM are read: those of the expected IoU and of the three masks of an ambiguous
    prompt, which come last, or that of the single mask between them."""
    return [iou_token, *range(iou_token + 2, iou_token + 5)] if multimask else [iou_token + 1]


def mask_weights(decoder: Any, queries: Tensor, multimask: bool) -> tuple[Tensor, Tensor | None]:
    """What the tokens of :func:`tokens_read` [k, t, 256] say: each mask's weights of a pixel's channels [k, n, 32], and
    the IoU that is expected of three masks [k, 3]."""
    single, *three = decoder.output_hypernetworks_mlps
    if not multimask:
        return single(queries[:, :1]), None
    weights = torch.stack([mlp(queries[:, i]) for i, mlp in enumerate(three, start=1)], dim=1)
    return weights, decoder.iou_prediction_head(queries[:, 0])[:, 1:]


def cut_masks(
    transformer: TwoWayTransformer,
    own: Tensor,
    read: list[int],
    image: Tensor,
    prompts: Sequence[Tensor],
    position: Tensor,
    cut: Cut,
    multimask: bool,
) -> list[MaskPredictions]:
    """Lets images and prompts see each other, as every SAM does, and cuts masks out as one of them does.

    Args:
        transformer: of the ``segment_anything`` package.
        own: the decoder's own tokens [t, 256], which stand before those of a prompt.
        read: which of them ``cut`` reads, in its order.
        image: [B, 256, h, w], "no mask" added.
        prompts: for each image its tokens [K_i, T, 256]; K_i may be 0.
        position: the dense position encoding, [1, 256, h, w].
        cut: see :data:`Cut`.
        multimask: whether that is three masks and their IoU, or one without.

    Returns:
        As :func:`predict_masks`.
    """
    height, width = image.shape[-2:]
    counts = [len(of_image) for of_image in prompts]
    if len(counts) != len(image):
        raise ValueError(f"{len(image)} images, but prompts for {len(counts)}")
    if not any(counts):
        none = image.new_zeros(0, 3 if multimask else 1, 4 * height, 4 * width)
        return [MaskPredictions(none, none.new_zeros(0, 3) if multimask else None) for _ in counts]
    keys = image.flatten(2).transpose(1, 2).contiguous()  # [B, P, 256]
    key_position = position.flatten(2).transpose(1, 2).contiguous()  # [1, P, 256]
    tokens = torch.cat([own.expand(sum(counts), -1, -1), torch.cat(list(prompts))], dim=1)  # [K, T, 256]

    first = transformer.layers[0]
    placed_keys = keys + key_position
    queries = token_self_attention(first, tokens, tokens)
    attended = _token_to_shared_image_attention(
        first.cross_attn_token_to_image, queries + tokens, placed_keys, keys, counts
    )
    queries = token_mlp(first, queries, attended)
    image_of = [i for i, count in enumerate(counts) for _ in range(count)]
    at_once = PROMPTS_AT_ONCE_ON_CPU if keys.device.type == "cpu" else PROMPTS_AT_ONCE
    masks: list[Tensor] = []
    ious: list[Tensor] = []
    for start in range(0, len(queries), at_once):
        some = slice(start, start + at_once)
        images = image_of[some]
        seen = _see_each_other(
            transformer, queries[some], tokens[some], placed_keys[images], keys[images], key_position, read
        )
        of_some, iou = cut(*seen, images)
        masks.append(of_some)
        ious += [] if iou is None else [iou]
    expected: Sequence[Tensor | None] = torch.cat(ious).split(counts) if ious else [None] * len(counts)
    # Rows are laid out by image, so that the masks of one do not keep the others' alive.
    return [
        MaskPredictions(pixels_to_grid(of_image, height, width).contiguous(), iou)
        for of_image, iou in zip(torch.cat(masks).split(counts), expected)
    ]


def _see_each_other(
    transformer: TwoWayTransformer,
    queries: Tensor,
    tokens: Tensor,
    placed_keys: Tensor,
    keys: Tensor,
    key_position: Tensor,
    read: list[int],
) -> tuple[Tensor, Tensor]:
    """The tokens that are read and the image of some prompts, each of which changes its own copy [k, P, 256] of it."""
    first, *others = transformer.layers
    keys = image_to_token_attention(first, keys, q=placed_keys, k=queries + tokens, v=queries)
    placed_keys = keys + key_position
    for layer in others:
        queries = token_self_attention(layer, queries, tokens)
        attended = token_to_image_attention(layer.cross_attn_token_to_image, q=queries + tokens, k=placed_keys, v=keys)
        queries = token_mlp(layer, queries, attended)
        keys = image_to_token_attention(layer, keys, q=placed_keys, k=queries + tokens, v=queries)
        placed_keys = keys + key_position
    # Of the tokens that could attend once more, only those that are read do.
    queries, tokens = queries[:, read], tokens[:, read]
    attended = token_to_image_attention(transformer.final_attn_token_to_image, queries + tokens, placed_keys, keys)
    return transformer.norm_final_attn(queries + attended), keys


def upscale(layers: Iterable[Any], keys: Tensor, finer: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """SAM's ``output_upscaling``, ``layers``: [k, P, 256] to [k, P * 16, 32], a cell's 16 pixels one after the other.

    SAM 2 adds ``finer`` maps of the picture on the way, [k, P * 4, 64] and [k, P * 16, 32]; see :func:`grid_to_pixels`.
    """
    enlarge, norm, gelu, enlarge_again, gelu_again = layers
    quarters = upscale_twice(enlarge, keys)
    if finer is not None:
        quarters = quarters + finer[0]
    quarters = gelu(F.layer_norm(quarters, norm.weight.shape, norm.weight, norm.bias, norm.eps))
    pixels = upscale_twice(enlarge_again, quarters)
    return gelu_again(pixels if finer is None else pixels + finer[1])


def pixels_to_grid(pixels: Tensor, height: int, width: int) -> Tensor:
    """:func:`upscale`'s pixels, or their masks, [k, h * w * 16, c] to [k, c, 4h, 4w], channels last in memory."""
    # The 16 pixels of a cell come as 2 x 2 of 2 x 2: rows to rows, columns to columns.
    count, _, channels = pixels.shape
    cells = pixels.view(count, height, width, 2, 2, 2, 2, channels).permute(0, 1, 3, 5, 2, 4, 6, 7)
    return cells.reshape(count, 4 * height, 4 * width, channels).movedim(-1, 1)


def grid_to_pixels(grid: Tensor, times: int) -> Tensor:
    """A map [k, c, h * times, w * times], ``times`` 2 or 4, to [k, h * w * times ** 2, c], in the order of the pixels
    that :func:`upscale_twice` makes, once or twice."""
    count, channels, height, width = grid.shape
    if times == 2:
        cells = grid.view(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 3, 5, 1)
    else:
        cells = grid.view(count, channels, height // 4, 2, 2, width // 4, 2, 2).permute(0, 2, 5, 3, 6, 4, 7, 1)
    return cells.reshape(count, height * width, channels)


def upscale_twice(conv: nn.ConvTranspose2d, pixels: Tensor) -> Tensor:
    """A transposed convolution whose stride is its kernel, 2: a linear map of each pixel, [k, n, c] to [k, n * 4, d].

    The four new pixels stay together, so channels stay last, where layer norm and the next map want them.
    """
    assert conv.bias is not None and conv.stride == conv.kernel_size == (2, 2)
    weight = conv.weight.permute(2, 3, 1, 0).flatten(0, 2)  # [4 * d, c]
    return F.linear(pixels, weight, conv.bias.repeat(4)).view(len(pixels), -1, conv.out_channels)


def token_self_attention(layer: TwoWayAttentionBlock, queries: Tensor, tokens: Tensor) -> Tensor:
    """Self-attention among the tokens of a prompt: ``queries`` [K, T, 256], with ``tokens`` as their positions."""
    if layer.skip_first_layer_pe:
        return layer.norm1(layer.self_attn(q=queries, k=queries, v=queries))
    q = queries + tokens
    return layer.norm1(queries + layer.self_attn(q=q, k=q, v=queries))


def token_mlp(layer: TwoWayAttentionBlock, queries: Tensor, attended: Tensor) -> Tensor:
    """The rest of the block for the tokens [K, T, 256], after what they ``attended`` to of the image, [K, T, 256]."""
    queries = layer.norm2(queries + attended)
    return layer.norm3(queries + layer.mlp(queries))


def _token_to_shared_image_attention(
    attention: Attention, q: Tensor, k: Tensor, v: Tensor, counts: Sequence[int]
) -> Tensor:
    """Tokens [K, T, 256] attend to images [B, P, 256] that no prompt has changed yet, ``counts`` prompts to each.

    Here tokens do not see each other, so those of all prompts of an image can ask at once, and it is projected once.
    """
    attended = [
        attention(q=of_image.flatten(0, 1)[None], k=k[i : i + 1], v=v[i : i + 1])
        for i, of_image in enumerate(q.split(list(counts)))
        if len(of_image)
    ]
    return torch.cat(attended, dim=1).view_as(q)


def token_to_image_attention(attention: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``attention`` of tokens q [k, T, 256] to pixels k and v [k, P, 256], in a cheaper order.

    A logit ``(Wq t) . (Wk p)`` is also ``(Wk' Wq t) . p``, and T tokens are fewer to project than P = 4096 pixels. The
    bias of the keys adds the same to all logits of a token, which a softmax does not see.
    """
    heads = attention.num_heads
    query = _split_heads(attention.q_proj(q), heads)  # [k, H, T, d]
    query = query @ _per_head(attention.k_proj, heads) / math.sqrt(query.shape[-1])
    weights = (query.flatten(1, 2) @ k.transpose(1, 2)).softmax(-1)  # [k, H * T, P]
    value = (weights @ v).unflatten(1, (heads, -1))  # [k, H, T, 256]
    value = value @ _per_head(attention.v_proj, heads).transpose(1, 2)  # [k, H, T, d]
    return attention.out_proj(value.transpose(1, 2).flatten(2) + attention.v_proj.bias)


def image_to_token_attention(layer: TwoWayAttentionBlock, keys: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Pixels q [k, P, 256] attend to tokens k and v [k, T, 256], in a cheaper order too; gives the new ``keys``."""
    attention = layer.cross_attn_image_to_token
    heads, tokens = attention.num_heads, k.shape[1]
    key = _split_heads(attention.k_proj(k), heads)  # [k, H, T, d]
    key = key / math.sqrt(key.shape[-1])
    bias = _tokens_first(key @ attention.q_proj.bias.view(heads, -1, 1))  # [k, T * H, 1]
    key = _tokens_first(key @ _per_head(attention.q_proj, heads))  # [k, T * H, 256]
    logits = torch.baddbmm(bias, key, q.transpose(1, 2)).unflatten(1, (tokens, heads))
    weights = logits.softmax(1).flatten(1, 2)  # [k, T * H, P]
    out = attention.out_proj.weight.t().unflatten(0, (heads, -1))  # [H, d, 256]
    value = _tokens_first(_split_heads(attention.v_proj(v), heads) @ out)  # [k, T * H, 256]
    # The weights of a head sum to 1, so the bias can come in equal shares from all heads.
    value = value + attention.out_proj.bias / heads
    return layer.norm4(torch.baddbmm(keys, weights.transpose(1, 2), value))


def _split_heads(tokens: Tensor, heads: int) -> Tensor:
    """[k, T, H * d] to [k, H, T, d]."""
    return tokens.unflatten(2, (heads, -1)).transpose(1, 2)


def _tokens_first(of_heads: Tensor) -> Tensor:
    """[k, H, T, c] to [k, T * H, c]: a softmax over seven tokens is fast over any axis but the last."""
    return of_heads.transpose(1, 2).flatten(1, 2)


def _per_head(linear: nn.Linear, heads: int) -> Tensor:
    """The weight [H * d, 256] of a projection as [H, d, 256]."""
    return linear.weight.unflatten(0, (heads, -1))
