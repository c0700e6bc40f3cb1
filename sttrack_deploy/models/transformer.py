"""Attention and the three stacks made of it: encoder, decoder, memory attention.

All tensors are batch first: ``(B, tokens, dim)``. Padding enters as an additive bias
``(B, 1, 1, keys)`` with a finite -1e4: a fully masked row then gives a uniform result instead of NaN,
it survives FP16, and it is the form that TensorRT fuses.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["MASKED", "Attention", "Decoder", "Encoder", "MemoryAttention", "padding_bias"]

MASKED = -1.0e4


def padding_bias(mask: Tensor) -> Tensor:
    """bool ``(B, keys)``, True = padding, to a float bias ``(B, 1, 1, keys)``."""
    return mask.float()[:, None, None, :] * MASKED


class Attention(nn.Module):
    """Multi-head attention with separate projections and the scale on the query."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        q = self._split(self.q_proj(query) * self.scale)
        k = self._split(self.k_proj(key))
        v = self._split(self.v_proj(value))
        scores = q @ k.transpose(-2, -1)
        if bias is not None:
            scores = scores + bias
        mixed = torch.softmax(scores, dim=-1) @ v
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        """``(B, tokens, dim)`` to ``(B, heads, tokens, dim / heads)``."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear2(self.dropout(torch.relu(self.linear1(x))))
        return out


class EncoderLayer(nn.Module):
    """Post-norm self-attention; the position is added to query and key only."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(dim, heads)
        self.feed_forward = FeedForward(dim, hidden, dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor, bias: Tensor) -> Tensor:
        placed = x + position
        x = self.norm1(x + self.dropout(self.self_attention(placed, placed, x, bias)))
        x = self.norm2(x + self.dropout(self.feed_forward(x)))
        return x


class Encoder(nn.Module):
    """Joint self-attention over template and search tokens; no final norm."""

    def __init__(self, layers: int, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(dim, heads, hidden, dropout) for _ in range(layers))

    def forward(self, x: Tensor, position: Tensor, bias: Tensor) -> Tensor:
        """``(B, tokens, dim)`` in and out; masked tokens are never attended to but are still computed."""
        for layer in self.layers:
            x = layer(x, position, bias)
        return x


class DecoderLayer(nn.Module):
    """Post-norm self-attention, cross-attention and feed-forward for the one query."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(dim, heads)
        self.cross_attention = Attention(dim, heads)
        self.feed_forward = FeedForward(dim, hidden, dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, query_position: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        placed = x + query_position
        x = self.norm1(x + self.dropout(self.self_attention(placed, placed, x, None)))
        x = self.norm2(x + self.dropout(self.cross_attention(x + query_position, key, value, bias)))
        x = self.norm3(x + self.dropout(self.feed_forward(x)))
        return x


class Decoder(nn.Module):
    """From a zero target and the query as its position, to the spatial query."""

    def __init__(self, layers: int, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(dim, heads, hidden, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, query: Tensor, tokens: Tensor, position: Tensor, bias: Tensor) -> Tensor:
        """
        Args:
            query: ``(B, dim)``, the embedding of frame 1 or the temporal query of the frame before.
            tokens: the encoder's output ``(B, tokens, dim)``; ``position`` and ``bias`` belong to it.

        Returns:
            the spatial query ``(B, dim)``.
        """
        query_position = query[:, None]
        x = torch.zeros_like(query_position)
        key = tokens + position
        for layer in self.layers:
            x = layer(x, query_position, key, tokens, bias)
        out: Tensor = self.norm(x)[:, 0]
        return out


class MemoryLayer(nn.Module):
    """Post-norm cross-attention to the stored queries and feed-forward; no self-attention."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.cross_attention = Attention(dim, heads)
        self.feed_forward = FeedForward(dim, hidden, dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor, bias: Tensor) -> Tensor:
        x = self.norm1(x + self.dropout(self.cross_attention(x, memory, memory, bias)))
        x = self.norm2(x + self.dropout(self.feed_forward(x)))
        return x


class MemoryAttention(nn.Module):
    """The published "update": the spatial query attends to the stored ones and becomes the temporal query."""

    def __init__(self, layers: int, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MemoryLayer(dim, heads, hidden, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, spatial_query: Tensor, memory: Tensor, bias: Tensor) -> Tensor:
        """``(B, dim)`` and ``(B, capacity, dim)`` to the temporal query ``(B, dim)``.

        No position: the order of the entries does not matter, which is what makes a ring exact.
        """
        x = spatial_query[:, None]
        for layer in self.layers:
            x = layer(x, memory, bias)
        out: Tensor = self.norm(x)[:, 0]
        return out
