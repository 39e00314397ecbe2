"""SAM's and MobileSAM's image encoder, computed faster and in less memory from the same weights to the same results."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, Block, get_rel_pos
from torch import Tensor, nn
from torch.nn import functional as F

from .tiny_vit import Block as TinyViTBlock
from .tiny_vit import Bottleneck, TinyViT

logger = logging.getLogger(__name__)

ImageEncoder: TypeAlias = ImageEncoderViT | TinyViT
# Tables of one layer: per query row and key row (column) of the grid the relative position's vector, [size, size, C].
PositionTables = tuple[Tensor, Tensor]

# Rows of attention logits, and of the MLP's hidden layer, that exist at once on a CPU. More of them gain no speed, and
# memory comes in 4 KiB pages that the system clears at first use: large temporaries cost more than their arithmetic.
QUERY_ROWS = 256
TOKEN_ROWS = 1024
# Rows of a map that a TinyViT's convolutions make at once on a CPU, for the same reason.
MAP_ROWS = 8
# Fused attention kernels want a multiple of this as the width of a head.
HEAD_ALIGNMENT = 8


def accelerate(encoder: ImageEncoder, compiled: bool = False) -> ImageEncoder:
    """Makes ``encoder`` compute its results faster and in less memory, in place.

    Parameters, their names, the state dict and, to 1e-4 in float32, the results stay. Gradients are no longer
    computed. On a CPU one image is computed at a time, so a result never depends on the rest of its batch.

    Args:
        encoder: of the ``segment_anything`` package, or MobileSAM's; any size, on any device, before or after loading
            weights.
        compiled: pass its layers through ``torch.compile``; without it, and with a warning, where that fails.

    Raises:
        ValueError: its MLPs have another activation than the exact GELU.
    """
    fast: Any = encoder
    if isinstance(encoder, TinyViT):
        fast.__class__ = FastTinyViT
    else:
        for layer in encoder.blocks:
            if not isinstance(layer.mlp.act, nn.GELU) or layer.mlp.act.approximate != "none":
                raise ValueError(f"the image encoder's activation is {layer.mlp.act}; expected the exact GELU")
        fast.__class__ = FastImageEncoderViT
    fast.compiled = compiled
    return fast


def without_acceleration(encoder: ImageEncoder) -> ImageEncoder:
    """``encoder`` as it was before, in place: plain operators, of which other runtimes know all."""
    plain: Any = encoder
    plain.__class__ = TinyViT if isinstance(encoder, TinyViT) else ImageEncoderViT
    return plain


class FastTinyViT(TinyViT):
    """What :func:`accelerate` makes of a ``TinyViT``; not to be constructed."""

    compiled: bool

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Normalised images [B, 3, S, S] to embeddings float32 [B, 256, S/16, S/16], the neck in float32 always."""
        device = x.device.type
        if device == "cpu":
            _warn_if_compiled(self.compiled)
            return torch.cat([self._finish(self._forward_cpu(image)) for image in x.split(1)])
        look = _compiled(TinyViT.look, device) if self.compiled else TinyViT.look
        return self._finish(look(self, x))

    def _finish(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.neck(x.float())

    def _forward_cpu(self, image: Tensor) -> Tensor:
        """One image [1, 3, S, S] to what the neck takes."""
        x = self.embed(image)
        for layer in self.blocks():
            x = _bottleneck_cpu(layer, x) if isinstance(layer, Bottleneck) else _tiny_vit_block_cpu(layer, x)
        return x


def _bottleneck_cpu(layer: Bottleneck, x: Tensor) -> Tensor:
    """A layer on a map [1, D, h, w], some rows at a time: its hidden map has up to four times the channels."""
    first, middle, last = (conv.folded() for conv in (layer.conv1, layer.conv2, layer.conv3))
    height, stride = x.shape[2], layer.conv2.c.stride[0]
    parts = []
    for rows in _slices(-(-height // stride), MAP_ROWS):
        # The rows that the middle convolution sees: one more on each side.
        start, stop = rows.start * stride - 1, (rows.stop - 1) * stride + 2
        hidden = F.gelu(first(x[:, :, max(start, 0) : stop]))
        hidden = F.pad(hidden, (0, 0, max(-start, 0), max(stop - height, 0)))
        parts.append(layer.joined(x[:, :, rows], last(F.gelu(middle(hidden, (0, 1))))))
    return torch.cat(parts, dim=2)


def _tiny_vit_block_cpu(layer: TinyViTBlock, x: Tensor) -> Tensor:
    """A block on a map [1, D, h, w], some tokens at a time in the MLP."""
    tokens = x.permute(0, 2, 3, 1)
    x = layer.local_conv((tokens + layer.attn(tokens)).permute(0, 3, 1, 2))
    tokens = x.permute(0, 2, 3, 1)
    flat = tokens.reshape(-1, tokens.shape[-1])
    out = torch.empty_like(flat)
    for rows in _slices(len(flat), TOKEN_ROWS):
        torch.add(flat[rows], layer.mlp(flat[rows]), out=out[rows])
    return out.view(tokens.shape).permute(0, 3, 1, 2)


class FastImageEncoderViT(ImageEncoderViT):
    """What :func:`accelerate` makes of an ``ImageEncoderViT``; not to be constructed."""

    compiled: bool

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images [B, 3, S, S] to embeddings float32 [B, 256, S/16, S/16]."""
        return self.look(x)[0]

    @torch.no_grad()
    def look(self, x: Tensor, layer: int | None = None) -> tuple[Tensor, Tensor | None]:
        """As :meth:`forward`, and the tokens [B, S/16, S/16, D] behind a layer, which SAM-HQ reads as well.

        Under ``torch.autocast`` the layers' matrix products are of its type. What the layers add up to stays float32,
        and so does all before and after them: 1% of the arithmetic, but most of the error that bfloat16 would make (for
        a vit_tiny of 256 pixels 0.36% of the embedding's standard deviation, and 0.03% so).
        """
        device, kept = x.device.type, None if layer is None else self.blocks[layer]
        seen = None
        if device == "cpu":
            _warn_if_compiled(self.compiled)
            dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
            with torch.autocast("cpu", enabled=False):
                embeddings, tokens = zip(*(self._look_cpu(image, dtype, kept) for image in x.split(1)))
                return torch.cat(embeddings), None if kept is None else torch.cat(tokens)
        with torch.autocast(device, enabled=False):
            x = self._embed(x)
        block = _compiled(_block, device) if self.compiled else _block
        for one in self.blocks:
            size = (one.window_size, one.window_size) if one.window_size else (x.shape[1], x.shape[2])
            x = block(one, x, _position_tables(one.attn, size, x.dtype), _one_hot_positions(*size, x.device))
            if one is kept:
                seen = x
        with torch.autocast(device, enabled=False):
            return self.neck(x.permute(0, 3, 1, 2)), seen

    def _embed(self, x: Tensor) -> Tensor:
        """Images to tokens [B, H, W, D]."""
        x = self.patch_embed(x)
        return (x if self.pos_embed is None else x + self.pos_embed).contiguous()

    def _look_cpu(self, image: Tensor, dtype: torch.dtype, kept: Block | None) -> tuple[Tensor, Tensor | None]:
        """:meth:`look` at one image [1, 3, S, S], with matrix products of ``dtype`` in the layers."""
        tokens, seen = self._embed(image), None
        grid = tokens.shape[1:3]
        x = tokens.flatten(0, 2)
        # Once for all layers, for the reason given at QUERY_ROWS.
        qkv = torch.empty(len(x), 3 * x.shape[1], dtype=dtype)
        mixed = torch.empty(x.shape, dtype=dtype)
        for layer in self.blocks:
            attn = layer.attn
            heads = (attn.num_heads, x.shape[1] // attn.num_heads)
            weight, bias = _cast(attn.qkv, dtype)
            for rows in _slices(len(x), TOKEN_ROWS):
                torch.addmm(bias, layer.norm1(x[rows]).to(dtype), weight.t(), out=qkv[rows])
            attention = _window_attention_cpu if layer.window_size else _global_attention_cpu
            attention(layer, qkv.view(*grid, 3, *heads), bias.view(3, *heads), mixed.view(*grid, *heads))
            _add_linear(x, mixed, *_cast(attn.proj, dtype))
            _add_mlp_cpu(layer, x, dtype)
            if layer is kept:
                # The next layer changes them in place.
                seen = tokens.clone()
        return self.neck(tokens.permute(0, 3, 1, 2)), seen


def _block(layer: Block, x: Tensor, tables: PositionTables | None, one_hot: Tensor) -> Tensor:
    """One layer on tokens [B, H, W, D], by few large operators that keep nothing as large as the logits.

    Args:
        layer: with its weights.
        x: tokens [B, H, W, D].
        tables: see :data:`PositionTables`; None without relative positions.
        one_hot: of :func:`_one_hot_positions`, for the grid within which tokens see each other.
    """
    attn, window = layer.attn, layer.window_size
    batch, height, width, dim = x.shape
    qkv = attn.qkv(layer.norm1(x))
    down, right = (-height % window, -width % window) if window else (0, 0)
    if down or right:
        # SAM pads with zeros before this projection, which turns them into its bias.
        padded = qkv.new_zeros(batch, height + down, width + right, 3 * dim)
        if attn.qkv.bias is not None:
            padded = padded + attn.qkv.bias.to(qkv.dtype)
        padded[:, :height, :width] = qkv
        qkv = padded
    rows, columns = (window, window) if window else (height, width)
    down, right = (height + down) // rows, (width + right) // columns
    qkv = qkv.view(batch, down, rows, right, columns, 3, attn.num_heads, -1).permute(5, 0, 1, 3, 6, 2, 4, 7)
    q, k, v = qkv.reshape(3, batch * down * right, attn.num_heads, rows * columns, -1).unbind(0)
    mixed = _attention_with_positions(q, k, v, tables, one_hot, attn.scale)
    mixed = mixed.view(batch, down, right, attn.num_heads, rows, columns, -1).permute(0, 1, 4, 2, 5, 3, 6)
    mixed = mixed.reshape(batch, down * rows, right * columns, dim)[:, :height, :width]
    x = x + attn.proj(mixed)
    return x + layer.mlp(layer.norm2(x))


def _attention_with_positions(
    q: Tensor, k: Tensor, v: Tensor, tables: PositionTables | None, one_hot: Tensor, scale: float
) -> Tensor:
    """Softmax attention with SAM's relative positions, which fused kernels compute without the matrix of logits.

    The logit of a query and a key is q . k * scale + q . Rh + q . Rw, where Rh depends on the key through its row
    alone and Rw through its column. So q, followed by its products with the Rh of every row and the Rw of every column,
    times k, followed by the one-hot code of its row and of its column, is the whole of it.

    Args:
        q, k, v: [G, heads, N, C].
        tables, one_hot: see :func:`_block`.
        scale: of q . k alone.

    Returns:
        [G, heads, N, C].
    """
    if tables is None:
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    groups, heads, length, channels = q.shape
    height, width = len(tables[0]), len(tables[1])
    grid = q.view(groups, heads, height, width, channels)
    by_row = torch.einsum("gnhwc,hkc->gnhwk", grid, tables[0].to(q.dtype)).reshape(groups, heads, length, height)
    by_column = torch.einsum("gnhwc,wkc->gnhwk", grid, tables[1].to(q.dtype)).reshape(groups, heads, length, width)
    widened = channels + height + width
    padding = -widened % HEAD_ALIGNMENT
    q = F.pad(torch.cat([q * scale, by_row.to(q.dtype), by_column.to(q.dtype)], dim=-1), (0, padding))
    k = F.pad(torch.cat([k, one_hot.to(k.dtype).expand(groups, heads, -1, -1)], dim=-1), (0, padding))
    v = F.pad(v, (0, height + width + padding))
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :channels]


def _global_attention_cpu(layer: Block, qkv: Tensor, bias: Tensor, out: Tensor) -> None:
    """Global attention of qkv [H, W, 3, heads, C], written to ``out`` [H, W, heads, C]; ``bias`` is not needed.

    Some rows of queries and one head at a time, so that their logits stay in the processor's cache.
    """
    height, width, _, heads, _ = qkv.shape
    tables = _position_tables(layer.attn, (height, width), qkv.dtype)
    steps = _slices(height, max(1, QUERY_ROWS // width))
    buffer = qkv.new_empty(steps[0].stop * width, height * width)
    for head in range(heads):
        q, k, v = qkv[:, :, :, head].unbind(2)
        k, v = k.flatten(0, 1), v.flatten(0, 1)
        for rows in steps:
            part = q[rows]
            logits = buffer[: len(part) * width]
            if tables is not None:
                by_row = torch.bmm(part, tables[0][rows].transpose(1, 2))
                by_column = torch.bmm(part.transpose(0, 1), tables[1].transpose(1, 2)).transpose(0, 1)
                torch.add(by_row[..., None], by_column[:, :, None], out=logits.view(-1, width, height, width))
            logits.addmm_(part.flatten(0, 1), k.t(), beta=0 if tables is None else 1, alpha=layer.attn.scale)
            torch.softmax(logits, dim=-1, out=logits)
            torch.mm(logits, v, out=out[rows, :, head].flatten(0, 1))


def _window_attention_cpu(layer: Block, qkv: Tensor, bias: Tensor, out: Tensor) -> None:
    """Attention within windows of qkv [H, W, 3, heads, C], written to ``out`` [H, W, heads, C].

    Args:
        layer: with its window size.
        qkv: queries, keys and values of the tokens.
        bias: [3, heads, C], those of SAM's padding: zeros before the projection.
        out: is written.
    """
    height, width, _, heads, channels = qkv.shape
    window = layer.window_size
    tables = _position_tables(layer.attn, (window, window), qkv.dtype)
    columns = _slices(width, window)
    windows = qkv.new_empty(3, len(columns), heads, window, window, channels)
    logits = qkv.new_empty(len(columns) * heads, window * window, window * window)
    for rows in _slices(height, window):
        for i, part in enumerate(columns):
            tokens = qkv[rows, part].permute(2, 3, 0, 1, 4)
            if tokens.shape[2:4] != (window, window):
                windows[:, i] = bias[:, :, None, None]
            windows[:, i, :, : tokens.shape[2], : tokens.shape[3]] = tokens
        q, k, v = windows.view(3, -1, window * window, channels).unbind(0)
        if tables is not None:
            grid = q.view(-1, window, window, channels)
            by_row = torch.einsum("ghwc,hkc->ghwk", grid, tables[0])
            by_column = torch.einsum("ghwc,wkc->ghwk", grid, tables[1])
            torch.add(by_row[..., None], by_column[:, :, :, None], out=logits.view(*by_row.shape, window))
        logits.baddbmm_(q, k.transpose(1, 2), beta=0 if tables is None else 1, alpha=layer.attn.scale)
        torch.softmax(logits, dim=-1, out=logits)
        mixed = torch.bmm(logits, v).view(len(columns), heads, window, window, channels)
        for i, part in enumerate(columns):
            target = out[rows, part]
            target.copy_(mixed[i].permute(1, 2, 0, 3)[: target.shape[0], : target.shape[1]])


def _add_mlp_cpu(layer: Block, x: Tensor, dtype: torch.dtype) -> None:
    """Adds to tokens [N, D], float32, what the layer's MLP makes of them."""
    first, second = _cast(layer.mlp.lin1, dtype), _cast(layer.mlp.lin2, dtype)
    for rows in _slices(len(x), TOKEN_ROWS):
        hidden = F.linear(layer.norm2(x[rows]).to(dtype), *first)
        _add_linear(x[rows], torch.ops.aten.gelu_(hidden), *second)


def _add_linear(x: Tensor, features: Tensor, weight: Tensor, bias: Tensor) -> None:
    """``x += features @ weight.T + bias``, [N, D] float32, without a temporary where the types agree."""
    if features.dtype == x.dtype:
        x.add_(bias).addmm_(features, weight.t())
    else:
        x.add_(F.linear(features, weight, bias))


def _cast(linear: nn.Linear, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight and bias of ``linear``, zeros where it has none."""
    bias = linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias
    return linear.weight.to(dtype), bias.to(dtype)


def _warn_if_compiled(compiled: bool) -> None:
    if compiled:
        _warn_once("MODEL.SAM.COMPILE: ignored on the CPU, where the image encoder is faster without it")


@lru_cache
def _warn_once(message: str) -> None:
    logger.warning(message)


@lru_cache
def _compiled(function: Callable[..., Tensor], device: str) -> Callable[..., Tensor]:
    """``function`` through ``torch.compile``, or itself where that does not work on devices of this type."""
    try:
        # The whole chain, down to the compilers that it calls, is only known to work once something went through it.
        torch.compile(torch.sin)(torch.zeros(2, device=device))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        logger.warning("MODEL.SAM.COMPILE: torch.compile fails on %s, going on without it: %s", device, reason)
        return function
    return torch.compile(function, dynamic=False)


def _slices(length: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


@lru_cache(maxsize=16)
def _relative_index(size: int, device: torch.device) -> Tensor:
    """[size, size]: the row of a relative-position table for query i (row) and key j."""
    steps = torch.arange(size, device=device)
    return steps[:, None] - steps[None, :] + size - 1


@lru_cache(maxsize=16)
def _one_hot_positions(height: int, width: int, device: torch.device) -> Tensor:
    """[height * width, height + width]: which row and which column each position is in."""
    rows = torch.eye(height, device=device).repeat_interleave(width, dim=0)
    return torch.cat([rows, torch.eye(width, device=device).repeat(height, 1)], dim=1)


def _position_tables(attn: Attention, size: tuple[int, int], dtype: torch.dtype) -> PositionTables | None:
    """The layer's tables for a grid of ``size`` (rows, columns); None where it has no relative positions."""
    if not attn.use_rel_pos:
        return None
    by_row, by_column = (
        # get_rel_pos, for grids of another size than the table's, makes the index anew and on the CPU.
        (table[_relative_index(n, table.device)] if len(table) == 2 * n - 1 else get_rel_pos(n, n, table)).to(dtype)
        for n, table in zip(size, (attn.rel_pos_h, attn.rel_pos_w))
    )
    return by_row, by_column
