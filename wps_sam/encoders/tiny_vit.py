"""TinyViT-5M (Wu et al., ECCV 2022, arXiv 2207.10666) as MobileSAM's image encoder (Zhang et al., arXiv 2306.14289).

Convolutions at strides 4 and 8, attention within windows at 8 and 16. MobileSAM leaves out the last halving, so that a
cell is 16 pixels as in SAM's ViTs, and ends in SAM's neck. Modules are named as in ``mobile_sam.pt``, its unused
classifier among them.

Axes: B images, [h, w] the grid of a stage, D its channels, H heads of C channels, N = window * window tokens that see
each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

# Strides of the stages' ends, after the stem's 4.
_MERGING_STRIDES = (2, 2, 1)
_EXPANSION = 4
_NUM_CLASSES = 1000


class TinyViT(nn.Module):
    """TinyViT with SAM's neck.

    Args:
        image_size: side of the square in pixels, a multiple of 16.
        embed_dims, depths, num_heads, window_sizes: of the four stages; the first is convolutional and has no use for
            the last two.
        out_channels: of the neck.
    """

    def __init__(
        self,
        image_size: int,
        embed_dims: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_sizes: Sequence[int],
        out_channels: int = 256,
    ) -> None:
        super().__init__()
        # As segment_anything calls it.
        self.img_size = image_size
        first, last = embed_dims[0], embed_dims[-1]
        stem = (ConvNorm(3, first // 2, 3, stride=2), nn.GELU(), ConvNorm(first // 2, first, 3, stride=2))
        self.patch_embed = nn.ModuleDict({"seq": nn.Sequential(*stem)})
        self.layers = nn.ModuleList()
        for i, (dim, depth) in enumerate(zip(embed_dims, depths)):
            blocks = [Block(dim, num_heads[i], window_sizes[i]) if i else InvertedBottleneck(dim) for _ in range(depth)]
            stage = nn.ModuleDict({"blocks": nn.ModuleList(blocks)})
            if i < len(_MERGING_STRIDES):
                stage["downsample"] = Bottleneck(dim, embed_dims[i + 1], embed_dims[i + 1], _MERGING_STRIDES[i])
            self.layers.append(stage)
        self.norm_head = nn.LayerNorm(last)
        self.head = nn.Linear(last, _NUM_CLASSES)
        self.neck = nn.Sequential(
            nn.Conv2d(last, out_channels, 1, bias=False),
            LayerNorm2d(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            LayerNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images [B, 3, S, S], of any S that is a multiple of 16, to [B, out_channels, S/16, S/16]."""
        return self.neck(self.look(x))

    def look(self, x: Tensor) -> Tensor:
        """As :meth:`forward`, before the neck: [B, D, S/16, S/16]."""
        x = self.embed(x)
        for layer in self.blocks():
            x = layer(x)
        return x

    def embed(self, x: Tensor) -> Tensor:
        """[B, 3, S, S] to patches [B, D, S/4, S/4]; from here on channels come last in memory."""
        return self.patch_embed["seq"](x.contiguous(memory_format=torch.channels_last))

    def blocks(self) -> Iterator[Block | Bottleneck]:
        """What an image goes through between patches and neck."""
        stages: Any = self.layers
        for stage in stages:
            yield from stage["blocks"]
            if "downsample" in stage:
                yield stage["downsample"]


class ConvNorm(nn.Module):
    """A convolution, [B, D, h, w] to [B, D', h', w'], and its batch norm, which is folded into it out of training."""

    def __init__(self, channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.bn(self.c(x))
        return self.folded()(x)

    def folded(self) -> Callable[..., Tensor]:
        """The convolution that is both: a function of a map and, where it differs, its padding (rows, columns)."""
        bn = self.bn
        assert bn.running_mean is not None and bn.running_var is not None
        scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
        weight, bias = self.c.weight * scale[:, None, None, None], bn.bias - bn.running_mean * scale
        margin = weight.shape[-1] // 2

        def convolve(x: Tensor, padding: tuple[int, int] = (margin, margin)) -> Tensor:
            if not margin:
                # A matrix product, channels being last.
                return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
            return F.conv2d(x, weight, bias, self.c.stride, padding, groups=self.c.groups)

        return convolve


class Bottleneck(nn.Module):
    """To ``hidden`` channels, among neighbours with a ``stride``, and to ``out_dim`` channels: between two stages."""

    def __init__(self, dim: int, hidden: int, out_dim: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = ConvNorm(dim, hidden)
        self.conv2 = ConvNorm(hidden, hidden, 3, stride, groups=hidden)
        self.conv3 = ConvNorm(hidden, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, D, h, w] to [B, D', h', w']."""
        return self.joined(x, self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x))))))

    def joined(self, x: Tensor, made: Tensor) -> Tensor:
        """The layer's result, of its input and what the convolutions made of it."""
        return made


class InvertedBottleneck(Bottleneck):
    """MBConv (Sandler et al., CVPR 2018): a layer of the first stage."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, _EXPANSION * dim, dim)

    def joined(self, x: Tensor, made: Tensor) -> Tensor:
        """See :meth:`Bottleneck.joined`."""
        return F.gelu(x + made)


class Block(nn.Module):
    """Attention within windows, a depthwise convolution and an MLP; [B, D, h, w] to the same, channels last."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.attn = _WindowAttention(dim, heads, window)
        self.mlp = _Mlp(dim)
        self.local_conv = ConvNorm(dim, dim, 3, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.permute(0, 2, 3, 1)
        x = self.local_conv((tokens + self.attn(tokens)).permute(0, 3, 1, 2))
        tokens = x.permute(0, 2, 3, 1)
        return (tokens + self.mlp(tokens)).permute(0, 3, 1, 2)


class _Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, _EXPANSION * dim)
        self.fc2 = nn.Linear(_EXPANSION * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class _WindowAttention(nn.Module):
    """Attention within windows, whose logits have a learned bias for each distance in rows and columns."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        # Of head h for a distance of y rows and x columns: [h, y * window + x].
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, h, w, D] to what each has seen, [B, h, w, D]."""
        batch, height, width, dim = x.shape
        window = self.window
        qkv = self.qkv(self.norm(x))
        down, right = -height % window, -width % window
        if down or right:
            # TinyViT pads with zeros before the norm, which makes its bias of them.
            padded = self.qkv(self.norm.bias).to(qkv.dtype).expand(batch, height + down, width + right, -1).clone()
            padded[:, :height, :width] = qkv
            qkv = padded
        rows, columns = qkv.shape[1] // window, qkv.shape[2] // window
        # Of every head its queries, keys and values in turn.
        qkv = qkv.view(batch, rows, window, columns, window, self.heads, 3, -1).permute(6, 0, 1, 3, 5, 2, 4, 7)
        q, k, v = qkv.reshape(3, batch * rows * columns, self.heads, window * window, -1).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self._bias_of_pairs().to(q.dtype))
        mixed = mixed.view(batch, rows, columns, self.heads, window, window, -1).permute(0, 1, 4, 2, 5, 3, 6)
        mixed = mixed.reshape(batch, rows * window, columns * window, dim)[:, :height, :width]
        return self.proj(mixed)

    def _bias_of_pairs(self) -> Tensor:
        """[1, H, N, N], of query and key."""
        steps = torch.arange(self.window, device=self.attention_biases.device)
        distance = (steps[:, None] - steps[None, :]).abs()
        table = self.attention_biases.unflatten(1, (self.window, self.window))
        of_pairs = table[:, distance[:, None, :, None], distance[None, :, None, :]]  # [H, rows, columns, rows, columns]
        return of_pairs.flatten(3).flatten(1, 2)[None]
