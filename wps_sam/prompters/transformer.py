"""The post-norm transformer encoder-decoder inside the paper's prompter (DETR, arXiv 2005.12872, figure 10).

Positions are added to queries and keys of every attention, never to values. The encoder has no dropout.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward over memory cells [B, L, D]."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, memory: Tensor, position: Tensor) -> Tensor:
        query = memory + position
        memory = self.norm1(memory + self.self_attn(query, query, memory, need_weights=False)[0])
        return self.norm2(memory + self.linear2(F.relu(self.linear1(memory))))


class DecoderLayer(nn.Module):
    """Self-attention among queries [B, N, D], cross-attention to the memory, feed-forward.

    ``dropout``: of attention weights, of what each of the three adds, and inside of the feed-forward.
    """

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, num_heads, dropout, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(dim, num_heads, dropout, batch_first=True)
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        hidden: Tensor,
        query_position: Tensor,
        memory: Tensor,
        position: Tensor,
        memory_mask: Tensor | None = None,
    ) -> Tensor:
        query = hidden + query_position
        attended = self.self_attn(query, query, hidden, need_weights=False)[0]
        hidden = self.norm1(hidden + self.dropout(attended))
        attended = self.multihead_attn(
            hidden + query_position, memory + position, memory, key_padding_mask=memory_mask, need_weights=False
        )[0]
        hidden = self.norm2(hidden + self.dropout(attended))
        inside = self.dropout(F.relu(self.linear1(hidden)))
        return self.norm3(hidden + self.dropout(self.linear2(inside)))


class Encoder(nn.Module):
    """A stack of ``EncoderLayer``."""

    def __init__(self, num_layers: int, dim: int, num_heads: int, ffn_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(dim, num_heads, ffn_dim) for _ in range(num_layers))

    def forward(self, memory: Tensor, position: Tensor) -> Tensor:
        for layer in self.layers:
            memory = layer(memory, position)
        return memory


class Decoder(nn.Module):
    """A stack of ``DecoderLayer`` and a norm for what each of them says."""

    def __init__(self, num_layers: int, dim: int, num_heads: int, ffn_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(dim, num_heads, ffn_dim, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        hidden: Tensor,
        query_position: Tensor,
        memory: Tensor,
        position: Tensor,
        memory_mask: Tensor | None = None,
    ) -> Tensor:
        """What every layer says, normed, [L, B, N, D]; each goes on from what the last one says before the norm.

        ``memory_mask`` [B, cells]: bool, True where queries must not look; or float, added to the scores of the cells.
        """
        states = []
        for layer in self.layers:
            hidden = layer(hidden, query_position, memory, position, memory_mask)
            states.append(self.norm(hidden))
        return torch.stack(states)


class Transformer(nn.Module):
    """Encoder over the image memory, decoder over the queries; all matrices start Xavier-uniform."""

    def __init__(
        self, *, dim: int, num_heads: int, ffn_dim: int, num_encoder_layers: int, num_decoder_layers: int
    ) -> None:
        super().__init__()
        self.encoder = Encoder(num_encoder_layers, dim, num_heads, ffn_dim)
        self.decoder = Decoder(num_decoder_layers, dim, num_heads, ffn_dim)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, memory: Tensor, position: Tensor, query_position: Tensor) -> Tensor:
        """Memory [B, L, D] with positions [1, L, D], query positions [N, D] to query states [B, N, D]."""
        memory = self.encoder(memory, position)
        query_position = query_position.expand(len(memory), -1, -1)
        return self.decoder(query_position.new_zeros(query_position.shape), query_position, memory, position)[-1]
