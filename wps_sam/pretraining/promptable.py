"""SAM as it is trained: windows of its padded square, the prompts of many images in one call, start weights."""

from __future__ import annotations

from collections.abc import Mapping

from wps_sam.encoders.build_sam import PATCH_SIZE, check_state_dict, in_float32, read_state_dict
from wps_sam.encoders.fast_encoder import ImageEncoder
from wps_sam.encoders.mask_decoder import (
    image_to_token_attention,
    pixels_to_grid,
    token_mlp,
    token_self_attention,
    token_to_image_attention,
    upscale,
)
from wps_sam.encoders.tiny_vit import TinyViT

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from segment_anything.modeling.image_encoder import Attention, add_decomposed_rel_pos
from torch import Tensor, nn


def init_weights(sam: Sam, seed: int) -> None:
    """Truncated normal 0.02 for the image encoder, as ViTs are started; the other parts keep the package's init.

    The package leaves the encoder's position embeddings at zero, because it expects pre-trained weights.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in sam.image_encoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, parameter in sam.image_encoder.named_parameters():
        if name.endswith(("pos_embed", "rel_pos_h", "rel_pos_w")):
            nn.init.trunc_normal_(parameter, std=0.02, generator=generator)


def load_weights(sam: Sam, path: str, arch: str) -> None:
    """Starts ``sam`` from the weights of a SAM of the same layers that sees the same or another square.

    Absolute positions, of the encoder and of the prompts, stay shares of the side: the embeddings are stretched.
    Relative ones stay steps between tokens: tables are cut, or continued with their last entries.

    Raises:
        ValueError: as :func:`wps_sam.encoders.build_sam.build_sam` for other layers or damaged files.
    """
    state = read_state_dict(path)
    new_state = sam.state_dict()
    resized: dict[str, Tensor] = {key: in_float32(value) for key, value in state.items()}
    # A TinyViT has none.
    positions, own = (of.get("image_encoder.pos_embed") for of in (resized, new_state))
    if positions is not None and own is not None and positions.shape[1:3] != own.shape[1:3]:
        _resize_positions(resized, new_state)
    check_state_dict(sam, resized, source=path, arch=arch)
    sam.load_state_dict(resized)


def take_decoder(teacher: Sam, sam: Sam) -> None:
    """Gives ``sam`` the teacher's prompt encoder and mask decoder, of the same sizes; they are then not trained."""
    for own, theirs in ((sam.prompt_encoder, teacher.prompt_encoder), (sam.mask_decoder, teacher.mask_decoder)):
        own.load_state_dict(theirs.state_dict())
        own.requires_grad_(False)


def _resize_positions(state: dict[str, Tensor], new_state: Mapping[str, Tensor]) -> None:
    grid = new_state["image_encoder.pos_embed"].shape[1:3]
    positions = state["image_encoder.pos_embed"].permute(0, 3, 1, 2)
    stretched = F.interpolate(positions, tuple(grid), mode="bicubic", align_corners=False)
    state["image_encoder.pos_embed"] = stretched.permute(0, 2, 3, 1)
    for key, table in new_state.items():
        if key.endswith(("rel_pos_h", "rel_pos_w")) and key in state:
            more = (len(table) - len(state[key])) // 2
            index = torch.arange(-more, len(state[key]) + more).clamp(0, len(state[key]) - 1)
            state[key] = state[key][index]


def encode_views(encoder: ImageEncoder, images: Tensor, origins: Tensor) -> Tensor:
    """The image encoder on windows of its padded square.

    Args:
        encoder: of the ``segment_anything`` package, or MobileSAM's, which knows of no place in the square.
        images: normalised [B, 3, s, s], s a multiple of 16 and of the attention windows, up to the square's side.
        origins: int64 [B, 2], where in the square each window begins: x, y in pixels, multiples of 16.

    Returns:
        [B, 256, s/16, s/16]; for s the whole side, what the encoder itself returns.
    """
    if isinstance(encoder, TinyViT):
        return encoder(images)
    x = encoder.patch_embed(images)
    x = x + window_of(encoder.pos_embed.permute(0, 3, 1, 2), origins, x.shape[1]).permute(0, 2, 3, 1)
    for block in encoder.blocks:
        if block.window_size:
            x = block(x)
        else:
            x = x + _global_attention(block.attn, block.norm1(x))
            x = x + block.mlp(block.norm2(x))
    return encoder.neck(x.permute(0, 3, 1, 2))


def window_of(grid: Tensor, origins: Tensor, side: int) -> Tensor:
    """Windows [B, C, side, side] of position encodings [1, C, h, w], beginning at origins [B, 2] (xy, pixels)."""
    if side == grid.shape[-1]:
        return grid
    corners = (origins // PATCH_SIZE).tolist()
    return torch.cat([grid[..., y : y + side, x : x + side] for x, y in corners])


def _global_attention(attention: Attention, x: Tensor) -> Tensor:
    """Global attention among the tokens [B, h, w, C] of a view: ``Attention.forward`` with the middle of its tables.

    The package stretches its tables of relative positions when it sees fewer tokens; here a step stays a step.
    """
    batch, height, width, _ = x.shape
    qkv = attention.qkv(x).reshape(batch, height * width, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.flatten(1, 2).unbind(0)
    logits = (q * attention.scale) @ k.transpose(-2, -1)
    if attention.use_rel_pos:
        middle = (
            table[len(table) // 2 - n + 1 : len(table) // 2 + n]
            for table, n in ((attention.rel_pos_h, height), (attention.rel_pos_w, width))
        )
        logits = add_decomposed_rel_pos(logits, q, *middle, (height, width), (height, width))
    mixed = (logits.softmax(dim=-1).to(v.dtype) @ v).view(batch, attention.num_heads, height, width, -1)
    return attention.proj(mixed.permute(0, 2, 3, 1, 4).flatten(3))


def decode_masks(
    sam: Sam, embeddings: Tensor, sparse: Tensor, dense: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """SAM's mask decoder for prompts on an image each; the package's forward takes one image per call.

    The same results up to rounding; attention in the order of :mod:`wps_sam.encoders.mask_decoder`, which takes a
    quarter of the time in training.

    Args:
        sam: whose mask decoder is used.
        embeddings: [P, 256, h, w] of the image encoder, for every prompt.
        sparse: [P, T, 256] of the prompt encoder.
        dense: [P or 1, 256, h or 1, w or 1] of the prompt encoder.
        positions: [P or 1, 256, h, w], position encoding of the embedding.

    Returns:
        mask logits [P, 4, 4h, 4w], the single-mask output first, then the three ambiguous ones; predicted IoU [P, 4].
    """
    decoder = sam.mask_decoder
    height, width = embeddings.shape[-2:]
    outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    prompts = torch.cat([outputs.expand(len(sparse), -1, -1), sparse], dim=1)
    pixels = (embeddings + dense).flatten(2).transpose(1, 2)
    position = positions.flatten(2).transpose(1, 2)
    queries, placed = prompts, pixels + position
    for layer in decoder.transformer.layers:
        queries = token_self_attention(layer, queries, prompts)
        attended = token_to_image_attention(layer.cross_attn_token_to_image, q=queries + prompts, k=placed, v=pixels)
        queries = token_mlp(layer, queries, attended)
        pixels = image_to_token_attention(layer, pixels, q=placed, k=queries + prompts, v=queries)
        placed = pixels + position
    attended = token_to_image_attention(
        decoder.transformer.final_attn_token_to_image, queries + prompts, placed, pixels
    )
    queries = decoder.transformer.norm_final_attn(queries + attended)
    kernels = [mlp(queries[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)]
    masks = upscale(decoder.output_upscaling, pixels) @ torch.stack(kernels, dim=2)
    return pixels_to_grid(masks, height, width), decoder.iou_prediction_head(queries[:, 0])
