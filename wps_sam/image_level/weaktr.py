"""WeakTr's mask generator (arXiv 2304.01184), on which SemPLeS was published: a small ViT whose attention makes maps.

Written after the paper and its public code's shapes, so that its checkpoints load. Axes: B images, C classes, P = h * w
patches, N = C + P tokens, D width, H heads, K layers.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from timm.layers import DropPath, Mlp
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders.build_sam import RANDOM_WEIGHTS_SEED, read_state_dict

logger = logging.getLogger(__name__)

PATCH = 16


class WeakTrMaps(NamedTuple):
    """``tags``: class logits [B, C] of the class tokens; ``coarse``: patch logits [B, C, h, w]; ``fused``: the coarse
    ones where the class tokens look; ``fine``: fused ones, passed on to where patches look, both at least 0."""

    tags: Tensor
    coarse: Tensor
    fused: Tensor
    fine: Tensor


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The output [B, N, D] and the attention [B, H, N, N]."""
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2)), weights


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = _Attention(dim, heads)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attended, weights = self.attn(self.norm1(tokens))
        tokens = tokens + self.drop_path(attended)
        return tokens + self.drop_path(self.mlp(self.norm2(tokens))), weights, attended


class AdaptiveAttentionFusion(nn.Module):
    """How much each head of each layer counts, from what it found: [B, H * K] in 0..1, heads first.

    Args:
        heads: H * K.
        width: D / H, what a head finds per token.
        reduction: of the bottleneck among heads: 8 for VOC, 4 for COCO.
        pool: over tokens, "max" for VOC, "mean" for COCO.
    """

    def __init__(self, heads: int, width: int, reduction: int = 8, pool: str = "max") -> None:
        super().__init__()
        self.pool = pool
        self.attn_head_ffn = nn.Sequential(
            nn.Linear(heads, heads // reduction, bias=False),
            nn.ReLU(),
            nn.Linear(heads // reduction, heads, bias=False),
            nn.Sigmoid(),
        )
        self.attn_feat_ffn = nn.Sequential(nn.Linear(width, width // 8), nn.Linear(width // 8, 1))

    def forward(self, found: Tensor) -> Tensor:
        """``found`` [B, H * K, N, D / H]."""
        pooled = found.amax(2) if self.pool == "max" else found.mean(2)
        return self.attn_head_ffn(self.attn_feat_ffn(pooled)[..., 0])


class WeakTr(nn.Module):
    """DeiT-S with a token for each class, a convolution on its patches, and fused attention.

    Args:
        num_classes: C, 20 for VOC, 80 for COCO.
        unused: of its slots those that no class has: of COCO's ids 1 to 90 ten have no pictures. They attend with the
            others; the maps leave them out, so that class c is the c-th slot in use.
        reduction, pool: of :class:`AdaptiveAttentionFusion`.
        dim, depth, heads: 384, 12, 6 are DeiT-S.
        image_size: side of the pictures that positions were learned at.
        drop_path: of the last block, rising evenly.
    """

    def __init__(
        self,
        num_classes: int,
        reduction: int = 8,
        pool: str = "max",
        dim: int = 384,
        depth: int = 12,
        heads: int = 6,
        image_size: int = 224,
        drop_path: float = 0.1,
        unused: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.num_classes, self.heads = num_classes, heads
        self.slots = num_classes + len(unused)
        self.used = [slot for slot in range(self.slots) if slot not in unused]
        if len(self.used) != num_classes:
            raise ValueError(f"unused: expected slots below {self.slots}, each once, got {list(unused)}")
        self.side = image_size // PATCH
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, PATCH, stride=PATCH)})
        self.cls_token = nn.Parameter(torch.zeros(1, self.slots, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.slots + self.side**2, dim))
        rates = [drop_path * k / max(depth - 1, 1) for k in range(depth)]
        self.blocks = nn.ModuleList(_Block(dim, heads, rate) for rate in rates)
        # Of DeiT; in the checkpoints, and not used.
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Conv2d(dim, self.slots, 3, padding=1)
        self.adaptive_attention_fusion = AdaptiveAttentionFusion(heads * depth, dim // heads, reduction, pool)
        for parameter in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, images: Tensor, frozen_tokens: bool = False) -> WeakTrMaps:
        """Maps of normalised images [B, 3, H, W]; what is left of whole patches at the right and below is cut off.

        ``frozen_tokens``: as SemPLeS trains it: gradients reach the convolution, through fine maps too, and the fusion,
        not the transformer. Without, as WeakTr's own training: the fine maps teach the fusion alone.
        """
        height, width = images.shape[2] // PATCH, images.shape[3] // PATCH
        patches = self.patch_embed["proj"](images[..., : height * PATCH, : width * PATCH]).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1)
        tokens = tokens + self._positions(height, width)
        attention, found = [], []
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen_tokens):
            for block in self.blocks:
                tokens, weights, attended = block(tokens)
                attention.append(weights.detach())
                found.append(attended.detach())
        of_patches = tokens[:, self.slots :]
        coarse = self.head(of_patches.transpose(1, 2).unflatten(2, (height, width)))[:, self.used]
        fused, passed = self._fuse(attention, found)
        seen = F.relu(coarse if frozen_tokens else coarse.detach())
        fused = fused.unflatten(2, (height, width)) * seen
        fine = (passed @ fused.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (height, width))
        return WeakTrMaps(tokens[:, self.used].mean(-1), coarse, fused, fine)

    def _fuse(self, attention: list[Tensor], found: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Mean attention of all heads by their weights: classes to patches [B, C, P], and among patches [B, P, P]."""
        # Heads first, then layers: index 12 * head + layer for DeiT-S.
        weights = torch.stack(attention, dim=2).flatten(1, 2)
        # As published, the head of a channel is its index modulo H, although a head's output is a block of channels.
        of_heads = torch.stack([f.unflatten(2, (-1, self.heads)) for f in found], dim=1)  # [B, K, N, D / H, H]
        gamma = self.adaptive_attention_fusion(of_heads.permute(0, 4, 1, 2, 3).flatten(1, 2))
        mean = (gamma[..., None, None] * weights).mean(1)
        patches = mean[:, :, self.slots :]
        return patches[:, self.used], patches[:, self.slots :]

    def _positions(self, height: int, width: int) -> Tensor:
        """[1, C + P, D]; the grid resized by the factors (h + 0.1) / side, which guard against rounding."""
        if (height, width) == (self.side, self.side):
            return self.pos_embed
        classes, grid = self.pos_embed[:, : self.slots], self.pos_embed[:, self.slots :]
        grid = grid.transpose(1, 2).unflatten(2, (self.side, self.side))
        factors = ((height + 0.1) / self.side, (width + 0.1) / self.side)
        grid = F.interpolate(grid, scale_factor=factors, mode="bicubic")
        return torch.cat([classes, grid.flatten(2).transpose(1, 2)], dim=1)


def build_weaktr(
    num_classes: int,
    weights: str = "",
    reduction: int = 8,
    pool: str = "max",
    unused: Sequence[int] = (),
    **sizes: int,
) -> WeakTr:
    """A WeakTr in eval mode.

    Args:
        weights: a checkpoint of WeakTr; "": random ones from a fixed seed, for tests.
        sizes: of tests.

    Raises:
        ValueError: the checkpoint is missing, damaged, or of another network; names what does not fit.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(RANDOM_WEIGHTS_SEED)
        model = WeakTr(num_classes, reduction, pool, unused=unused, **sizes)
    if not weights:
        logger.warning("no weights of WeakTr are given: its maps mean nothing")
    else:
        state = read_state_dict(weights)
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"{weights}: not of a WeakTr of {model.slots} classes: {error}") from error
    return model.eval()


def multi_scale_maps(model: WeakTr, image: Tensor, scales: tuple[float, ...] = (1.0, 1.2)) -> Tensor:
    """Fine maps [C, H, W] of one normalised image [3, H, W]: the sum over scales and their mirror images, each 0..1.

    Images are resized bicubically; SemPLeS resizes before it normalises, which is the same up to 8-bit rounding.
    """
    height, width = image.shape[1:]
    total = image.new_zeros(model.num_classes, height, width)
    for scale in scales:
        size = (max(PATCH, round(height * scale)), max(PATCH, round(width * scale)))
        scaled = F.interpolate(image[None], size, mode="bicubic", align_corners=False, antialias=True)
        for mirrored in (False, True):
            with torch.no_grad():
                fine = model(scaled.flip(3) if mirrored else scaled).fine
            large = F.interpolate(fine, (height, width), mode="bilinear", align_corners=False)[0]
            total += large.flip(2) if mirrored else large
    low, high = total.amin((1, 2), keepdim=True), total.amax((1, 2), keepdim=True)
    return (total - low) / (high - low + 1e-8)


def learned_parameters(model: WeakTr) -> list[nn.Parameter]:
    """What SemPLeS trains of it: the convolution and the fusion."""
    return [*model.head.parameters(), *model.adaptive_attention_fusion.parameters()]
