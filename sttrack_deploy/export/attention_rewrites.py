"""Encoder, decoder and memory attention with their weights folded: the same functions in fewer products.

Tokens are rows of a matrix ``(tokens * B, dim)``, token by token and within it target by target. A linear
layer on a matrix is one Gemm; on a batch of matrices engines put reshapes around it. ``(tokens, B, heads,
dim / heads)`` is a view of the rows, and with the batch behind the tokens the permutations before both products
of the attention are of the kind that ONNX Runtime reads in place instead of copying. It also keeps
"add and layer norm" two nodes: ONNX Runtime's fused one (1.20 to 1.32) takes five times as long on a CPU.

Weights are folded, and held, in float64; :func:`~sttrack_deploy.export.graph_rewrites.streamlined` rounds them once.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from sttrack_deploy.models.transformer import (
    Attention,
    Decoder,
    DecoderLayer,
    Encoder,
    EncoderLayer,
    FeedForward,
    MemoryAttention,
    MemoryLayer,
)

__all__ = ["Affine", "StreamlinedDecoder", "StreamlinedEncoder", "StreamlinedMemory"]


class Affine(nn.Module):
    """``rows @ weight + bias`` on a matrix of rows; written as two operators, which is what quantizers expect.

    Args:
        weight: ``(in, out)``, in the order of the product.
        bias: ``(out,)`` or ``None``.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", weight.contiguous())
        self.register_buffer("bias", bias)

    def forward(self, rows: Tensor) -> Tensor:
        product = rows @ self.weight
        return product if self.bias is None else product + self.bias


def _folded(linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight ``(in, out)`` and bias ``(out,)`` in float64."""
    return linear.weight.detach().double().T, linear.bias.detach().double()


def _output_bias(attention: Attention) -> Tensor:
    """``(dim,)``: what the value's and the output's bias add to every result, as attention weights sum to 1."""
    (_, value), (weight, bias) = _folded(attention.v_proj), _folded(attention.out_proj)
    return value @ weight + bias


class _RowFeedForward(nn.Module):
    """Two linear layers with a ReLU between, on rows."""

    def __init__(self, source: FeedForward) -> None:
        super().__init__()
        self.linear1 = Affine(*_folded(source.linear1))
        self.linear2 = Affine(*_folded(source.linear2))

    def forward(self, rows: Tensor) -> Tensor:
        out: Tensor = self.linear2(torch.relu(self.linear1(rows)))
        return out


class _RowAttention(nn.Module):
    """Self-attention on rows.

    The scale is in the query's weights. The key's bias is left out: it adds the same to all scores of a
    query, which a softmax does not see. The value's bias moved into the output's.
    """

    def __init__(self, source: Attention, tokens: int) -> None:
        super().__init__()
        self.tokens, self.heads = tokens, source.heads
        weight, bias = _folded(source.q_proj)
        self.query = Affine(weight * source.scale, bias * source.scale)
        self.key = Affine(_folded(source.k_proj)[0])
        self.value = Affine(_folded(source.v_proj)[0])
        self.out = Affine(_folded(source.out_proj)[0], _output_bias(source))

    def forward(self, placed: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
        """``placed`` and ``rows`` are ``(tokens * B, dim)``, with and without position; so is the result."""
        query = self._split(self.query(placed)).permute(1, 2, 0, 3)
        key = self._split(self.key(placed)).permute(1, 2, 3, 0)
        value = self._split(self.value(rows)).permute(1, 2, 0, 3)
        weights = torch.softmax(query @ key + bias, dim=-1)
        mixed = (weights @ value).permute(2, 0, 1, 3).reshape(rows.shape)
        out: Tensor = self.out(mixed)
        return out

    def _split(self, rows: Tensor) -> Tensor:
        """``(tokens * B, dim)`` to ``(tokens, B, heads, dim / heads)``."""
        return rows.reshape(self.tokens, -1, self.heads, rows.shape[1] // self.heads)


class _RowEncoderLayer(nn.Module):
    """One layer of the encoder on rows."""

    def __init__(self, source: EncoderLayer, tokens: int) -> None:
        super().__init__()
        self.attention = _RowAttention(source.self_attention, tokens)
        self.feed_forward = _RowFeedForward(source.feed_forward)
        self.norm1, self.norm2 = source.norm1, source.norm2

    def forward(self, rows: Tensor, position: Tensor, bias: Tensor) -> Tensor:
        rows = self.norm1(rows + self.attention(rows + position, rows, bias))
        rows = self.norm2(rows + self.feed_forward(rows))
        return rows


class StreamlinedEncoder(nn.Module):
    """The encoder on rows, for a fixed number of tokens."""

    def __init__(self, source: Encoder, tokens: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _RowEncoderLayer(cast(EncoderLayer, layer), tokens) for layer in source.layers
        )

    def forward(self, rows: Tensor, position: Tensor, bias: Tensor) -> Tensor:
        """``(tokens * B, dim)`` in and out; ``bias`` is the padding's, ``(B, 1, 1, tokens)``."""
        for layer in self.layers:
            rows = layer(rows, position, bias)
        return rows


class _OneQueryAttention(nn.Module):
    """Cross-attention of one query for each target; no token is projected.

    ``q . (W k)`` is ``(W^T q) . k``, and a weighted sum of projected values is the projection of the weighted
    sum. So the products with the key's and the value's weights are taken once for the query instead of once
    for every token. (Merging them with the query's and the output's weights saves four more operators a
    layer and no time, for ``heads`` times the weights.)

    Args:
        source: the attention to fold.
        known: ``(dim,)``, a constant part of the query. It is added to the query before the projection, and to
            the result, where the residual connection would.
    """

    key: Tensor
    value: Tensor

    def __init__(self, source: Attention, known: Tensor | None = None) -> None:
        super().__init__()
        self.heads = source.heads
        weight, bias = _folded(source.q_proj)
        weight, bias = weight * source.scale, bias * source.scale
        out_bias = _output_bias(source)
        if known is not None:
            bias, out_bias = bias + known @ weight, out_bias + known
        dim = weight.shape[0]
        self.query = Affine(weight, bias)
        self.register_buffer("key", _folded(source.k_proj)[0].T.reshape(self.heads, -1, dim))
        value = _folded(source.v_proj)[0].reshape(dim, self.heads, -1)
        self.register_buffer("value", value.transpose(0, 1).contiguous())
        self.out = Affine(_folded(source.out_proj)[0], out_bias)

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """``(B, dim)``, twice ``(B, tokens, dim)`` and ``(B, 1, tokens)`` to ``(B, dim)``."""
        dim = keys.shape[2]
        asked = self.query(query).reshape(-1, self.heads, 1, dim // self.heads) @ self.key
        scores = asked.reshape(-1, self.heads, dim) @ keys.transpose(1, 2) + bias
        mixed = (torch.softmax(scores, dim=-1) @ values).unsqueeze(2) @ self.value
        out: Tensor = self.out(mixed.reshape(-1, dim))
        return out


class _FirstDecoderLayer(nn.Module):
    """The decoder's first layer, whose target is zero: its self-attention and first norm are a constant."""

    def __init__(self, source: DecoderLayer) -> None:
        super().__init__()
        norm = source.norm1
        known = nn.functional.layer_norm(
            _output_bias(source.self_attention),
            norm.normalized_shape,
            norm.weight.detach().double(),
            norm.bias.detach().double(),
            norm.eps,
        )
        self.attention = _OneQueryAttention(source.cross_attention, known)
        self.feed_forward = _RowFeedForward(source.feed_forward)
        self.norm2, self.norm3 = source.norm2, source.norm3

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        x = self.norm2(self.attention(query, keys, values, bias))
        out: Tensor = self.norm3(x + self.feed_forward(x))
        return out


class _LaterDecoderLayer(nn.Module):
    """Any other layer of the decoder; self-attention over one query is a linear map, and so with its residual."""

    def __init__(self, source: DecoderLayer) -> None:
        super().__init__()
        attention = source.self_attention
        weight = _folded(attention.v_proj)[0] @ _folded(attention.out_proj)[0]
        self.mix = Affine(weight + torch.eye(weight.shape[0], dtype=weight.dtype), _output_bias(attention))
        self.attention = _OneQueryAttention(source.cross_attention)
        self.feed_forward = _RowFeedForward(source.feed_forward)
        self.norm1, self.norm2, self.norm3 = source.norm1, source.norm2, source.norm3

    def forward(self, x: Tensor, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        x = self.norm1(self.mix(x))
        x = self.norm2(x + self.attention(x + query, keys, values, bias))
        x = self.norm3(x + self.feed_forward(x))
        return x


class StreamlinedDecoder(nn.Module):
    """The decoder for one query a target."""

    def __init__(self, source: Decoder) -> None:
        super().__init__()
        first, *later = cast("list[DecoderLayer]", list(source.layers))
        self.first = _FirstDecoderLayer(first)
        self.later = nn.ModuleList(_LaterDecoderLayer(layer) for layer in later)
        self.norm = source.norm

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """
        Args:
            query: ``(B, dim)``.
            keys, values: ``(B, tokens, dim)``, the encoder's output with and without position.
            bias: the padding's, ``(B, 1, tokens)``.

        Returns:
            the spatial query ``(B, dim)``.
        """
        x = self.first(query, keys, values, bias)
        for layer in self.later:
            x = layer(x, query, keys, values, bias)
        out: Tensor = self.norm(x)
        return out


class _StreamlinedMemoryLayer(nn.Module):
    """One layer of the memory attention."""

    def __init__(self, source: MemoryLayer) -> None:
        super().__init__()
        self.attention = _OneQueryAttention(source.cross_attention)
        self.feed_forward = _RowFeedForward(source.feed_forward)
        self.norm1, self.norm2 = source.norm1, source.norm2

    def forward(self, x: Tensor, memory: Tensor, bias: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x, memory, memory, bias))
        x = self.norm2(x + self.feed_forward(x))
        return x


class StreamlinedMemory(nn.Module):
    """The memory attention for one query a target."""

    def __init__(self, source: MemoryAttention) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _StreamlinedMemoryLayer(cast(MemoryLayer, layer)) for layer in source.layers
        )
        self.norm = source.norm

    def forward(self, spatial_query: Tensor, memory: Tensor, bias: Tensor) -> Tensor:
        """``(B, dim)``, ``(B, entries, dim)`` and ``(B, 1, entries)`` to the temporal query ``(B, dim)``."""
        x = spatial_query
        for layer in self.layers:
            x = layer(x, memory, bias)
        out: Tensor = self.norm(x)
        return out
