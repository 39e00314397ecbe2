"""SAM's frozen mask decoder for the prompts of several images at once, without work whose result nobody reads.

Axes in comments: B images, K prompts of all of them, T tokens a prompt (SAM's own 5 and the prompt's 2),
P = h * w cells of the image embedding, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor, nn
from torch.nn import functional as F

from .sam import FrozenModule

# A prompt takes about 40 MiB at 1024 pixels while it is decoded. A GPU wants many at once, a CPU its caches warm.
PROMPTS_AT_ONCE = 64
PROMPTS_AT_ONCE_ON_CPU = 4


class FrozenMaskDecoder(FrozenModule):
    """SAM's mask decoder, single-mask output, frozen; gradients may still flow through it to the prompts.

    The same weights and, up to rounding, the same masks as ``segment_anything.modeling.MaskDecoder``, which decodes
    one image a call, projects that image once for every prompt, and computes four masks and their quality for the
    one mask that is used.
    """

    def __init__(self, mask_decoder: MaskDecoder) -> None:
        super().__init__()
        self.mask_decoder = mask_decoder
        self.freeze()

    def forward(
        self, image_embedding: Tensor, tokens: Sequence[Tensor], no_mask: Tensor, position: Tensor
    ) -> list[Tensor]:
        """The masks of every image's prompts.

        Args:
            image_embedding: [B, 256, h, w].
            tokens: for each image its prompts [K_i, 2, 256]; K_i may be 0.
            no_mask: SAM's embedding of "no mask", [1, 256, h, w].
            position: SAM's dense position encoding, [1, 256, h, w].

        Returns:
            For each image mask logits [K_i, 4h, 4w].
        """
        height, width = image_embedding.shape[-2:]
        counts = [len(of_image) for of_image in tokens]
        if len(counts) != len(image_embedding):
            raise ValueError(f"{len(image_embedding)} images, but prompts for {len(counts)}")
        if not any(counts):
            return [image_embedding.new_zeros(0, 4 * height, 4 * width) for _ in counts]
        decoder = self.mask_decoder
        pixels = (image_embedding + no_mask).flatten(2).transpose(1, 2).contiguous()  # [B, P, 256]
        position = position.flatten(2).transpose(1, 2).contiguous()  # [1, P, 256]
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        prompts = torch.cat([own.expand(sum(counts), -1, -1), torch.cat(list(tokens))], dim=1)  # [K, T, 256]

        first = decoder.transformer.layers[0]
        placed = pixels + position
        queries = among_tokens(first, prompts, prompts)
        seen = _tokens_to_shared_images(
            first.cross_attn_token_to_image, queries + prompts, placed, pixels, counts
        )
        queries = take_in(first, queries, seen)
        image_of = [i for i, count in enumerate(counts) for _ in range(count)]
        at_once = PROMPTS_AT_ONCE_ON_CPU if pixels.device.type == "cpu" else PROMPTS_AT_ONCE
        masks = []
        for start in range(0, len(queries), at_once):
            some = slice(start, start + at_once)
            images = image_of[some]
            masks.append(self._draw(queries[some], prompts[some], placed[images], pixels[images], position))
        # Rows are laid out by image, so that the masks of one do not keep the others' alive.
        return [in_rows(of_image, height, width) for of_image in torch.cat(masks).split(counts)]

    def _draw(
        self, queries: Tensor, prompts: Tensor, placed: Tensor, pixels: Tensor, position: Tensor
    ) -> Tensor:
        """Masks [k, P * 16] of some prompts, from where each changes its own copy [k, P, 256] of the image."""
        transformer = self.mask_decoder.transformer
        first, *others = transformer.layers
        pixels = image_to_tokens(first, pixels, q=placed, k=queries + prompts, v=queries)
        placed = pixels + position
        for layer in others:
            queries = among_tokens(layer, queries, prompts)
            seen = tokens_to_image(layer.cross_attn_token_to_image, q=queries + prompts, k=placed, v=pixels)
            queries = take_in(layer, queries, seen)
            pixels = image_to_tokens(layer, pixels, q=placed, k=queries + prompts, v=queries)
            placed = pixels + position
        # Of the tokens that could look once more, only that of the single mask is ever read.
        query = queries[:, 1:2]
        seen = tokens_to_image(transformer.final_attn_token_to_image, query + prompts[:, 1:2], placed, pixels)
        query = transformer.norm_final_attn(query + seen)
        weights = self.mask_decoder.output_hypernetworks_mlps[0](query)  # [k, 1, 32]
        return (enlarge_twice(self.mask_decoder, pixels) @ weights.transpose(1, 2)).squeeze(2)


def enlarge_twice(decoder: MaskDecoder, pixels: Tensor) -> Tensor:
    """[k, P, 256] to [k, P * 16, 32]: each cell's 16 pixels one after the other."""
    enlarge, norm, gelu, enlarge_again, gelu_again = decoder.output_upscaling
    quarters = F.layer_norm(_enlarge(enlarge, pixels), norm.weight.shape, norm.weight, norm.bias, norm.eps)
    return gelu_again(_enlarge(enlarge_again, gelu(quarters)))


def in_rows(masks: Tensor, height: int, width: int) -> Tensor:
    """Masks [..., h * w * 16] of :func:`enlarge_twice`'s pixels to [..., 4h, 4w]."""
    # The 16 pixels of a cell come as 2 x 2 of 2 x 2: rows to rows, columns to columns.
    cells = masks.unflatten(-1, (height, width, 2, 2, 2, 2))
    first = cells.ndim - 6
    order = (*range(first), first, first + 2, first + 4, first + 1, first + 3, first + 5)
    return cells.permute(order).reshape(*masks.shape[:-1], 4 * height, 4 * width)


def _enlarge(conv: nn.ConvTranspose2d, pixels: Tensor) -> Tensor:
    """A transposed convolution whose stride is its kernel, 2: a linear map of each pixel, [k, n, c] to [k, n * 4, d].

    The four new pixels stay together, so channels stay last, where layer norm and the next map want them.
    """
    assert conv.bias is not None and conv.stride == conv.kernel_size == (2, 2)
    weight = conv.weight.permute(2, 3, 1, 0).flatten(0, 2)  # [4 * d, c]
    return F.linear(pixels, weight, conv.bias.repeat(4)).view(len(pixels), -1, conv.out_channels)


def among_tokens(layer: TwoWayAttentionBlock, queries: Tensor, prompts: Tensor) -> Tensor:
    """The tokens [K, T, 256] of one prompt attend to each other."""
    if layer.skip_first_layer_pe:
        return layer.norm1(layer.self_attn(q=queries, k=queries, v=queries))
    q = queries + prompts
    return layer.norm1(queries + layer.self_attn(q=q, k=q, v=queries))


def take_in(layer: TwoWayAttentionBlock, queries: Tensor, seen: Tensor) -> Tensor:
    """The tokens [K, T, 256] after what they saw of the image, [K, T, 256]."""
    queries = layer.norm2(queries + seen)
    return layer.norm3(queries + layer.mlp(queries))


def _tokens_to_shared_images(
    attention: Attention, q: Tensor, k: Tensor, v: Tensor, counts: Sequence[int]
) -> Tensor:
    """Tokens [K, T, 256] attend to images [B, P, 256] that no prompt has changed yet, ``counts`` prompts to each.

    Here tokens do not see each other, so those of all prompts of an image can ask at once, and it is projected once.
    """
    seen = [
        attention(q=of_image.flatten(0, 1)[None], k=k[i : i + 1], v=v[i : i + 1])
        for i, of_image in enumerate(q.split(list(counts)))
        if len(of_image)
    ]
    return torch.cat(seen, dim=1).view_as(q)


def tokens_to_image(attention: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``attention`` of tokens q [k, T, 256] to pixels k and v [k, P, 256], in a cheaper order.

    A logit ``(Wq t) . (Wk p)`` is also ``(Wk' Wq t) . p``, and T tokens are fewer to project than P = 4096 pixels. The
    bias of the keys adds the same to all logits of a token, which a softmax does not see.
    """
    heads = attention.num_heads
    query = _split(attention.q_proj(q), heads)  # [k, H, T, d]
    query = query @ _per_head(attention.k_proj, heads) / math.sqrt(query.shape[-1])
    weights = (query.flatten(1, 2) @ k.transpose(1, 2)).softmax(-1)  # [k, H * T, P]
    value = (weights @ v).unflatten(1, (heads, -1))  # [k, H, T, 256]
    value = value @ _per_head(attention.v_proj, heads).transpose(1, 2)  # [k, H, T, d]
    return attention.out_proj(value.transpose(1, 2).flatten(2) + attention.v_proj.bias)


def image_to_tokens(layer: TwoWayAttentionBlock, pixels: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Pixels q [k, P, 256] attend to tokens k and v [k, T, 256], in a cheaper order too; gives the new ``pixels``."""
    attention = layer.cross_attn_image_to_token
    heads, tokens = attention.num_heads, k.shape[1]
    key = _split(attention.k_proj(k), heads)  # [k, H, T, d]
    key = key / math.sqrt(key.shape[-1])
    bias = _tokens_first(key @ attention.q_proj.bias.view(heads, -1, 1))  # [k, T * H, 1]
    key = _tokens_first(key @ _per_head(attention.q_proj, heads))  # [k, T * H, 256]
    logits = torch.baddbmm(bias, key, q.transpose(1, 2)).unflatten(1, (tokens, heads))
    weights = logits.softmax(1).flatten(1, 2)  # [k, T * H, P]
    out = attention.out_proj.weight.t().unflatten(0, (heads, -1))  # [H, d, 256]
    value = _tokens_first(_split(attention.v_proj(v), heads) @ out)  # [k, T * H, 256]
    # The weights of a head sum to 1, so the bias can come in equal shares from all heads.
    value = value + attention.out_proj.bias / heads
    return layer.norm4(torch.baddbmm(pixels, weights.transpose(1, 2), value))


def _split(tokens: Tensor, heads: int) -> Tensor:
    """[k, T, H * d] to [k, H, T, d]."""
    return tokens.unflatten(2, (heads, -1)).transpose(1, 2)


def _tokens_first(of_heads: Tensor) -> Tensor:
    """[k, H, T, c] to [k, T * H, c]: a softmax over seven tokens is fast over any axis but the last."""
    return of_heads.transpose(1, 2).flatten(1, 2)


def _per_head(linear: nn.Linear, heads: int) -> Tensor:
    """The weight [H * d, 256] of a projection as [H, d, 256]."""
    return linear.weight.unflatten(0, (heads, -1))
