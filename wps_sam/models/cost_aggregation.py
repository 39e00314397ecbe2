"""CAT-Seg's cost aggregation (arXiv 2303.11797, section 3): from cosines of cells and names to one mask a name.

Axes in comments: B images, T classes with the background, P templates, E width of CLIP's joint embedding, h x w cells,
C width of the aggregator, G width of a guidance. The names of the modules are those of the published checkpoints.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Added to the attention between cells that only a roll has made neighbours.
_APART = -100.0
# Channels that share one mean and deviation in the decoder.
_CHANNELS_PER_GROUP = 16


class CostAggregation(nn.Module):
    """Cosines of each cell with each template of each class, aggregated over space, then over classes, then decoded.

    Args:
        grid: (h, w) of the cells.
        num_templates: P, input channels of the first convolution, so that their order is part of the weights.
        text_dim: E.
        guidance_dims: channels of the backbone's res2, res3 and res4.
        width: C, also of both guidances.
        num_heads: of all attentions.
        window: side in cells of the windows of attention; divides the grid's.
        pool: side of the squares of cells that the attention over classes sees as one; divides the grid's.
        num_layers: each spatial, then over classes.
        decoder_dims: channels after each doubling of the resolution, multiples of 16.
        decoder_guidance_dims: of these channels' inputs, those that come from res3 and from res2.
    """

    def __init__(
        self,
        *,
        grid: tuple[int, int],
        num_templates: int,
        text_dim: int,
        guidance_dims: tuple[int, int, int],
        width: int,
        num_heads: int,
        window: int,
        pool: int,
        num_layers: int,
        decoder_dims: tuple[int, int],
        decoder_guidance_dims: tuple[int, int],
    ) -> None:
        super().__init__()
        fine, middle, coarse = guidance_dims
        self.conv1 = nn.Conv2d(num_templates, width, 7, padding=3)
        self.guidance_projection = _projected(coarse, width)
        self.text_guidance_projection = nn.Sequential(nn.Linear(text_dim, width), nn.ReLU())
        self.decoder_guidance_projection = nn.ModuleList(
            _projected(channels, dim) for channels, dim in zip((middle, fine), decoder_guidance_dims)
        )
        self.layers = nn.ModuleList(
            AggregationLayer(grid, width, num_heads, window=window, pool=pool) for _ in range(num_layers)
        )
        self.decoder1 = UpBlock(width, decoder_dims[0], decoder_guidance_dims[0])
        self.decoder2 = UpBlock(decoder_dims[0], decoder_dims[1], decoder_guidance_dims[1])
        self.head = nn.Conv2d(decoder_dims[1], 1, 3, padding=1)

    def forward(self, cells: Tensor, text: Tensor, res2: Tensor, res3: Tensor, res4: Tensor) -> Tensor:
        """Logits float [B, T, 4h, 4w].

        Args:
            cells: CLIP's features, float [B, h, w, E] of unit length.
            text: of each class each template's, float [T, P, E] of unit length.
            res2, res3, res4: of the backbone, float [B, ., 4h, 4w], [B, ., 2h, 2w] and [B, ., h, w].
        """
        num_classes = len(text)
        cost = torch.einsum("bhwe,tpe->btphw", cells, text)
        x = self.conv1(cost.flatten(0, 1)).unflatten(0, (-1, num_classes)).permute(0, 1, 3, 4, 2)
        of_cells = self.guidance_projection(res4).permute(0, 2, 3, 1)[:, None]
        of_names = self.text_guidance_projection(F.normalize(text.mean(1), dim=-1))
        for layer in self.layers:
            x = layer(x, of_cells, of_names)
        x = x.permute(0, 1, 4, 2, 3).flatten(0, 1)
        for decoder, project, features in zip(
            (self.decoder1, self.decoder2), self.decoder_guidance_projection, (res3, res2)
        ):
            x = decoder(x, project(features))
        return self.head(x)[:, 0].unflatten(0, (-1, num_classes))


def _projected(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.ReLU())


class AggregationLayer(nn.Module):
    """Attention among the cells of a class, in windows that shift, then among the classes of a cell (section 3.2)."""

    def __init__(self, grid: tuple[int, int], width: int, num_heads: int, *, window: int, pool: int) -> None:
        super().__init__()
        self.swin_block = SpatialAggregation(grid, width, num_heads, window)
        self.attention = ClassAggregation(width, num_heads)
        self.pool = pool

    def forward(self, x: Tensor, of_cells: Tensor, of_names: Tensor) -> Tensor:
        """x float [B, T, h, w, C], guidances float [B, 1, h, w, C] and [T, C], to the same shape as x."""
        x = self.swin_block(x, of_cells)
        num_classes, (height, width) = x.shape[1], x.shape[2:4]
        cells = F.avg_pool2d(x.permute(0, 1, 4, 2, 3).flatten(0, 1), self.pool).unflatten(0, (-1, num_classes))
        mixed = self.attention(cells.permute(0, 3, 4, 1, 2), of_names).permute(0, 3, 4, 1, 2).flatten(0, 1)
        large = F.interpolate(mixed, (height, width), mode="bilinear", align_corners=True)
        # What was mixed carries its own input along, so x counts about twice.
        return x + large.unflatten(0, (-1, num_classes)).permute(0, 1, 3, 4, 2)


class SpatialAggregation(nn.Module):
    """Two Swin blocks whose queries and keys, not values, also see the picture."""

    def __init__(self, grid: tuple[int, int], width: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.block_1 = SwinBlock(grid, width, num_heads, window, shift=0)
        self.block_2 = SwinBlock(grid, width, num_heads, window, shift=window // 2)
        self.guidance_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """x float [B, T, h, w, C] and guidance float [B, 1, h, w, C] to the same shape as x."""
        guidance = self.guidance_norm(guidance)
        return self.block_2(self.block_1(x, guidance), guidance)


class SwinBlock(nn.Module):
    """A block of Swin (arXiv 2103.14030) with guidance and without relative positions."""

    attn_mask: Tensor | None

    def __init__(self, grid: tuple[int, int], width: int, num_heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, num_heads, window, shift)
        self.norm2 = nn.LayerNorm(width)
        layers = {"fc1": nn.Linear(width, 4 * width), "gelu": nn.GELU(), "fc2": nn.Linear(4 * width, width)}
        self.mlp = nn.Sequential(OrderedDict(layers))
        # Checkpoints hold it.
        self.register_buffer("attn_mask", shifted_mask(grid, window, shift) if shift else None)

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """x float [B, T, h, w, C] and guidance float [B, 1, h, w, C] to the same shape as x."""
        x = x + self.attn(self.norm1(x), guidance, self.attn_mask)
        return x + self.mlp(self.norm2(x))


class WindowAttention(nn.Module):
    """Attention inside windows of window x window cells, which are ``shift`` cells further to the right and below."""

    def __init__(self, width: int, num_heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.num_heads, self.window, self.shift = num_heads, window, shift
        self.q = nn.Linear(2 * width, width)
        self.k = nn.Linear(2 * width, width)
        self.v = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, guidance: Tensor, mask: Tensor | None) -> Tensor:
        """x float [B, T, h, w, C], guidance float [B, 1, h, w, C], and a mask as of :func:`shifted_mask`."""
        projected = (_guided(self.q, x, guidance), _guided(self.k, x, guidance), self.v(x))
        query, key, value = (self._windows(part) for part in projected)
        of_heads = None if mask is None else mask.repeat_interleave(self.num_heads, dim=0)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=of_heads)
        return self.proj(self._cells(mixed, x.shape))

    def _windows(self, x: Tensor) -> Tensor:
        """[B, T, h, w, C] to [B * T, windows * heads, window * window, C / heads]."""
        rolled = x.roll((-self.shift, -self.shift), dims=(2, 3))
        cut = rolled.unflatten(4, (self.num_heads, -1)).unflatten(3, (-1, self.window)).unflatten(2, (-1, self.window))
        return cut.permute(0, 1, 2, 4, 6, 3, 5, 7).flatten(5, 6).flatten(2, 4).flatten(0, 1)

    def _cells(self, x: Tensor, shape: torch.Size) -> Tensor:
        """The inverse of :meth:`_windows`."""
        images, classes, height, width, _ = shape
        rows, columns = height // self.window, width // self.window
        cut = x.reshape(images, classes, rows, columns, self.num_heads, self.window, self.window, -1)
        return cut.permute(0, 1, 2, 5, 3, 6, 4, 7).reshape(shape).roll((self.shift, self.shift), dims=(2, 3))


def shifted_mask(grid: tuple[int, int], window: int, shift: int) -> Tensor:
    """Swin's mask (section 3.2) float [windows, window^2, window^2]: cells that a roll alone made neighbours are kept
    apart.

    ``shift`` is by how many cells the grid was rolled up and to the left.
    """
    # Along an axis of the rolled grid: whole windows, then the last window's own cells, then those that came around.
    rows, columns = (
        torch.cat([torch.full((cells,), k) for k, cells in enumerate((side - window, window - shift, shift))])
        for side in grid
    )
    regions = 3 * rows[:, None] + columns
    cut = regions.unflatten(1, (-1, window)).unflatten(0, (-1, window)).transpose(1, 2).flatten(2).flatten(0, 1)
    return _APART * (cut[:, None] != cut[:, :, None]).float()


class ClassAggregation(nn.Module):
    """A transformer's layer among the classes of each cell, whose attention is linear in their number."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = LinearAttention(width, num_heads)
        self.norm2 = nn.LayerNorm(width)
        self.MLP = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """x float [..., T, C] and guidance float [T, C] to the same shape as x."""
        x = x + self.attention(self.norm1(x), guidance)
        return x + self.MLP(self.norm2(x))


class LinearAttention(nn.Module):
    """Attention with the kernel elu + 1 (arXiv 2006.16236, section 3.2)."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(2 * width, width)
        self.k = nn.Linear(2 * width, width)
        self.v = nn.Linear(width, width)

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """x float [..., T, C] and guidance float [T, C] to the same shape as x."""
        projected = (_guided(self.q, x, guidance), _guided(self.k, x, guidance), self.v(x))
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3) for part in projected)
        query, key = F.elu(query) + 1, F.elu(key) + 1
        total = query @ key.sum(-2, keepdim=True).transpose(-1, -2) + 1e-6
        mixed = query @ (key.transpose(-1, -2) @ value) / total
        return mixed.transpose(-2, -3).flatten(-2)


def _guided(linear: nn.Linear, x: Tensor, guidance: Tensor) -> Tensor:
    """``linear`` of [x, guidance], where all of a broadcast guidance is computed once."""
    of_x, of_guidance = linear.weight.split([x.shape[-1], guidance.shape[-1]], dim=1)
    return F.linear(x, of_x) + F.linear(guidance, of_guidance, linear.bias)


class UpBlock(nn.Module):
    """Twice the resolution, guided by the picture's features there."""

    def __init__(self, in_dim: int, out_dim: int, guidance_dim: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_dim, in_dim - guidance_dim, 2, stride=2)
        self.conv = DoubleConv(in_dim, out_dim)

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """x float [B * T, C, h, w] and guidance float [B, G, 2h, 2w] to float [B * T, C', 2h, 2w]."""
        repeated = guidance.repeat_interleave(len(x) // len(guidance), dim=0)
        return self.conv(torch.cat([self.up(x), repeated], dim=1))


class DoubleConv(nn.Module):
    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        groups = out_dim // _CHANNELS_PER_GROUP
        self.double_conv = nn.Sequential(
            *(nn.Conv2d(in_dim, out_dim, 3, padding=1, bias=False), nn.GroupNorm(groups, out_dim), nn.ReLU()),
            *(nn.Conv2d(out_dim, out_dim, 3, padding=1, bias=False), nn.GroupNorm(groups, out_dim), nn.ReLU()),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.double_conv(x)
