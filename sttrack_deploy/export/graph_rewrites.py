"""The search step as it is exported: the network's numbers to float rounding, in fewer and cheaper operators.

Folded are products of constants and what is known of the shapes: one query a target, a template and a search
region of fixed size. The recurrent contract is the network's. Training, the torch engine and the template graph
(which runs once a track) use the network itself, and validation compares with it.

One thing holds for a state and not for every input of its shapes: ``memory_valid`` must be 0 and 1, filled from the
newest entry.
"""

from __future__ import annotations

import copy
import math
from typing import cast

import torch
from torch import Tensor, nn

from sttrack_deploy.export.attention_rewrites import StreamlinedDecoder, StreamlinedEncoder, StreamlinedMemory
from sttrack_deploy.models.backbone import PlainStage, ResNet
from sttrack_deploy.models.corner_network import CONFIDENCE_SIGMA, CornerHead, STTrack, TrackState
from sttrack_deploy.models.dense_network import DenseState, DenseSTTrack
from sttrack_deploy.models.nanotrack import KERNEL
from sttrack_deploy.models.transformer import MASKED

__all__ = ["StreamlinedDense", "StreamlinedStep", "streamlined"]


class StreamlinedStep(nn.Module):
    """One frame, with weights folded in float64; made by :func:`streamlined`.

    Args:
        network: frozen; its modules are taken over and its first convolution is changed.
    """

    shift: Tensor
    window: Tensor

    def __init__(self, network: STTrack) -> None:
        super().__init__()
        c = self.config = network.config
        self.backbone = network.backbone
        self.register_buffer("shift", _fold_pixels(network))
        self.bottleneck = network.bottleneck
        self.position = SinePosition(c.hidden_dim)
        self.encoder = StreamlinedEncoder(network.encoder, c.template_cells**2 + c.search_cells**2)
        self.decoder = StreamlinedDecoder(network.decoder)
        self.memory_attention = StreamlinedMemory(network.memory_attention)
        self.head = StreamlinedHead(network.head)
        penalty = network.window_penalty.detach().double()
        self.register_buffer("window", (1.0 - penalty) * penalty * network.window.double())

    def forward(self, search: Tensor, mask: Tensor, state: TrackState) -> tuple[Tensor, Tensor, TrackState]:
        """Box ``(B, 4)``, confidence ``(B,)`` and the state after the frame; arguments as of ``STTrack.step``."""
        c = self.config
        cells, dim = c.search_cells, c.hidden_dim
        padded = mask.float()
        features = self.bottleneck(self.backbone(search.float().permute(0, 3, 1, 2) - self.shift))
        # Tokens first, then the batch: see attention_rewrites.
        tokens = torch.cat((state.target_features.transpose(0, 1), features.flatten(2).permute(2, 0, 1)))
        position = torch.cat((state.target_position.transpose(0, 1), self.position(padded).transpose(0, 1)))
        rows, row_position = tokens.reshape(-1, dim), position.reshape(-1, dim)
        bias = torch.cat((state.target_mask.float(), padded.flatten(1)), dim=1)[:, None] * MASKED
        rows = self.encoder(rows, row_position, bias[:, None])

        keys = (rows + row_position).reshape(tokens.shape).transpose(0, 1)
        encoded = rows.reshape(tokens.shape)
        spatial_query = self.decoder(state.query, keys, encoded.transpose(0, 1), bias)
        state = self._remember(spatial_query, state)

        region = encoded[-(cells**2) :].permute(1, 2, 0)  # B, dim, cells^2
        attention = (state.query[:, None] @ region) * self.window
        box, confidence = self.head((region * attention).reshape(-1, dim, cells, cells))
        return box, confidence, state

    def _remember(self, spatial_query: Tensor, state: TrackState) -> TrackState:
        """Temporal query, memory and its validity after this frame; see ``STTrack``."""
        entries = torch.cat((state.memory, spatial_query[:, None]), dim=1)
        newest = state.memory_valid[:, -1:]
        valid = torch.cat((state.memory_valid, torch.ones_like(newest)), dim=1)
        memory, memory_valid = entries[:, 1:], valid[:, 1:]
        if self.config.memory_semantics == "train":
            bias = (1.0 - memory_valid) * MASKED
            query = self.memory_attention(spatial_query, memory, bias[:, None])
        else:
            # Attend to all entries and this frame's query, and mask the latter unless it is the first: then the
            # newest entry is empty, and with it all.
            bias = torch.cat((1.0 - state.memory_valid, newest), dim=1) * MASKED
            query = self.memory_attention(spatial_query, entries, bias[:, None])
        return state._replace(memory=memory, memory_valid=memory_valid, query=query)


class SinePosition(nn.Module):
    """The sine position encoding from one sine.

    A cosine is a sine a quarter of a turn further; and each channel's frequency is zero for the axis that it does not
    encode, so that both axes' angles are added instead of their encodings interleaved and joined.

    Args:
        dim: channels, divisible by 4.
    """

    down: Tensor
    right: Tensor
    offset: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        exponent = torch.arange(dim // 4, dtype=torch.float64) * 2 / (dim // 2)
        frequency = (2 * math.pi * 10000.0**-exponent).repeat_interleave(2)
        none = torch.zeros_like(frequency)
        self.register_buffer("down", torch.cat((frequency, none)))
        self.register_buffer("right", torch.cat((none, frequency)))
        quarter = torch.tensor((0.0, math.pi / 2), dtype=torch.float64)
        self.register_buffer("offset", quarter.repeat(dim // 2))

    def forward(self, padded: Tensor) -> Tensor:
        """float ``(B, h, w)``, 1 where padded and else 0, to ``(B, h * w, dim)``."""
        visible = 1.0 - padded
        rows, columns = visible.cumsum(1), visible.cumsum(2)
        y, x = rows / (rows[:, -1:] + 1e-6), columns / (columns[:, :, -1:] + 1e-6)
        angle = y.flatten(1)[..., None] * self.down + (x.flatten(1)[..., None] * self.right + self.offset)
        return torch.sin(angle)


class StreamlinedHead(nn.Module):
    """The corner head with everything after the convolutions done once for both corners."""

    grid: Tensor
    coordinates: Tensor
    prior: Tensor | None

    def __init__(self, source: CornerHead) -> None:
        super().__init__()
        self.top_left, self.bottom_right = source.top_left, source.bottom_right
        self.cells = cells = source.cells
        self.register_buffer("coordinates", source.coordinates)
        down, right = torch.meshgrid(source.coordinates, source.coordinates, indexing="ij")
        self.register_buffer("grid", torch.stack((right.flatten(), down.flatten())))
        self.register_buffer("prior", None if source.prior is None else source.prior.detach().flatten(1))
        self.falloff = -0.5 * (cells / CONFIDENCE_SIGMA) ** 2

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, C, cells, cells)`` to box ``(B, 4)`` and confidence ``(B,)``."""
        maps = [branch.score(branch.blocks(features)) for branch in (self.top_left, self.bottom_right)]
        scores = torch.cat(maps, dim=1).flatten(2)
        seen = torch.softmax(scores, dim=2)  # B, 2, cells^2
        believed = seen if self.prior is None else torch.softmax(scores + self.prior, dim=2)
        points = (believed[:, :, None] * self.grid).sum(3)  # B, corner, x and y
        near = torch.exp(self.falloff * (self.coordinates - points[..., None]).square())
        # A sum and not a matrix product: it stays in FP32, and TensorRT for RTX has no FP32 products on Turing.
        agreeing = (seen.reshape(-1, 2, self.cells, self.cells) * near[:, :, 0, None]).sum(3)
        corner = (agreeing * near[:, :, 1]).sum(2)
        return points.flatten(1), torch.sqrt(corner.prod(1))


class StreamlinedDense(DenseSTTrack):
    """The network with a dense head and the same attention in fewer products; made of a trained one."""

    token_position: Tensor

    def __init__(self, network: DenseSTTrack) -> None:
        super().__init__(network.config)
        self.load_state_dict(network.state_dict())
        self.requires_grad_(False)
        self.tokens = KERNEL**2 + (network.config.search_cells - 1) ** 2
        self.row_encoder = StreamlinedEncoder(self.encoder, self.tokens).float()
        self.row_decoder = StreamlinedDecoder(self.decoder).float()
        self.row_memory = StreamlinedMemory(self.memory_attention).float()
        position = torch.cat((torch.zeros_like(self.target_position), self.position))
        self.register_buffer("token_position", position, persistent=False)

    def _attended(self, tokens: Tensor, bias: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        dim = tokens.shape[2]
        placed = self.token_position[:, None].expand(-1, tokens.shape[0], -1).reshape(-1, dim)
        rows = self.row_encoder(tokens.transpose(0, 1).reshape(-1, dim), placed, bias[:, None, None])
        encoded = rows.reshape(self.tokens, -1, dim).transpose(0, 1)
        keys = (rows + placed).reshape(self.tokens, -1, dim).transpose(0, 1)
        return encoded, self.row_decoder(query, keys, encoded, bias[:, None])

    def _remembering(self, spatial_query: Tensor, state: DenseState) -> Tensor:
        entries = torch.cat((state.memory, spatial_query[:, None]), dim=1)
        own = torch.zeros_like(state.memory_valid[:, :1])
        bias = torch.cat(((1.0 - state.memory_valid) * MASKED, own), dim=1)
        query: Tensor = self.row_memory(spatial_query, entries, bias[:, None])
        return query


def _fold_pixels(network: STTrack) -> Tensor:
    """Let the backbone take pixels of 0 to 255 less their mean; returns that mean, ``(3, 1, 1)``.

    The division by 255 and by the standard deviation goes into the first convolution. The mean cannot: the
    convolution pads with zeros after it was taken off.
    """
    backbone = network.backbone
    first = backbone.conv1 if isinstance(backbone, ResNet) else cast(PlainStage, backbone.stages[0]).conv
    scale = (255.0 * network.std.double())[:, None, None]
    first.weight = nn.Parameter((first.weight.double() / scale).to(first.weight.dtype), requires_grad=False)
    return 255.0 * network.mean.double()[:, None, None]


def streamlined(network: STTrack) -> StreamlinedStep:
    """The network's step for export, from a copy of its weights as they are now, in their precision."""
    frozen = copy.deepcopy(network).eval().requires_grad_(False)
    return StreamlinedStep(frozen).eval().to(network.query_embed.dtype)
