"""STTrack as two pure functions with everything temporal in an explicit state."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sttrack_deploy.models.backbone import build_backbone
from sttrack_deploy.models.config import ModelConfig
from sttrack_deploy.models.transformer import MASKED, Decoder, Encoder, MemoryAttention, padding_bias

__all__ = [
    "CornerHead",
    "Corners",
    "STTrack",
    "SearchEncoding",
    "StepOutput",
    "TrackState",
    "corner_confidence",
    "sine_position",
]


CONFIDENCE_SIGMA = 1.5
"""Width, in cells, of the neighborhood that counts as agreeing with the predicted corner."""


class Corners(NamedTuple):
    """What the head predicts.

    Attributes:
        box: float ``(B, 4)``, x1 y1 x2 y2 over the crop's side; not clamped, may be degenerate.
        confidence: float ``(B,)`` in (0, 1], see :func:`corner_confidence`.
        score_top_left, score_bottom_right: logits ``(B, cells, cells)``.
    """

    box: Tensor
    confidence: Tensor
    score_top_left: Tensor
    score_bottom_right: Tensor


class ConvBlock(nn.Module):
    """3x3 convolution, batch norm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, 1, 1)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)))


class CornerBranch(nn.Module):
    """Five layers from features to one score a cell."""

    def __init__(self, channels_in: int, width: int) -> None:
        super().__init__()
        widths = (channels_in, width, width // 2, width // 4, width // 8)
        self.blocks = nn.Sequential(*(ConvBlock(a, b) for a, b in pairwise(widths)))
        self.score = nn.Conv2d(widths[-1], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, cells, cells)`` to logits ``(B, cells, cells)``."""
        scores: Tensor = self.score(self.blocks(x))[:, 0]
        return scores


class CornerHead(nn.Module):
    """Predicts both corners as the mean of a softmax over the cells (STARK's corner head).

    Coordinates are ``index * stride / size`` without a half-cell offset, as published.

    Args:
        channels_in: of the features.
        width: channels of the branches' first layer.
        cells: along one side.
        prior: add a learned map to each corner's scores before the mean is taken. The search region is cut
            around the last box, so the target is likelier near its middle; the convolutions see no position
            and cannot say so. The confidence is read off the scores alone.
    """

    coordinates: Tensor

    def __init__(self, channels_in: int, width: int, cells: int, prior: bool = False) -> None:
        super().__init__()
        self.top_left = CornerBranch(channels_in, width)
        self.bottom_right = CornerBranch(channels_in, width)
        self.cells = cells
        self.prior = nn.Parameter(torch.zeros(2, cells, cells)) if prior else None
        # Not learned and not in published checkpoints.
        self.register_buffer("coordinates", torch.arange(cells).float() / cells, persistent=False)

    def forward(self, features: Tensor) -> Corners:
        """
        Args:
            features: ``(B, C, cells, cells)``.
        """
        scores = (self.top_left(features), self.bottom_right(features))
        seen = [self._probability(score) for score in scores]
        believed = seen
        if self.prior is not None:
            believed = [self._probability(score + p) for score, p in zip(scores, self.prior, strict=True)]
        points = [
            ((m.sum(1) * self.coordinates).sum(1), (m.sum(2) * self.coordinates).sum(1)) for m in believed
        ]
        box = torch.stack((*points[0], *points[1]), dim=1)
        confidence = torch.sqrt(
            corner_confidence(seen[0], *points[0], self.coordinates)
            * corner_confidence(seen[1], *points[1], self.coordinates)
        )
        return Corners(box, confidence, scores[0], scores[1])

    def _probability(self, score: Tensor) -> Tensor:
        """Logits ``(B, cells, cells)`` to a map that sums to 1."""
        return torch.softmax(score.flatten(1).float(), dim=1).reshape(-1, self.cells, self.cells)


def corner_confidence(probability: Tensor, x: Tensor, y: Tensor, coordinates: Tensor) -> Tensor:
    """How much of a corner's probability lies where the corner is said to be.

    The softmax map's mass, weighted by a Gaussian of :data:`CONFIDENCE_SIGMA` cells around its own mean:
    near 1 for one sharp peak, low for a map that is spread out or has several peaks (the mean then lies
    between them), about ``2 pi sigma^2 / cells^2`` for a uniform one. The two corners' values are
    combined by their geometric mean. A network trained with frames that do not show the target, towards
    flat maps, makes it fall when the target is gone.

    Args:
        probability: ``(B, cells, cells)``, sums to 1.
        x, y: ``(B,)``, the map's mean in units of the crop's side.
        coordinates: ``(cells,)``, the cells' coordinates in the same unit.

    Returns:
        ``(B,)`` in (0, 1].
    """
    falloff = -0.5 * (coordinates.shape[0] / CONFIDENCE_SIGMA) ** 2
    near_x = torch.exp(falloff * (coordinates - x[:, None]).square())
    near_y = torch.exp(falloff * (coordinates - y[:, None]).square())
    return ((probability * near_x[:, None, :]).sum(2) * near_y).sum(1)


def sine_position(mask: Tensor, dim: int) -> Tensor:
    """Encode each cell's place among the unpadded cells.

    The coordinate is the running count of unpadded cells divided by its last value and scaled to
    2 pi, so it depends on the mask. Sine and cosine are interleaved; the first half of the channels is
    the row, the second the column (Carion et al. 2020, ``PositionEmbeddingSine``).

    Args:
        mask: bool ``(B, h, w)``, True = padding.
        dim: channels, divisible by 4.

    Returns:
        float32 ``(B, h * w, dim)``. Kept in float32 whatever the network's precision: a fully padded
        row divides 0 by 1e-6.
    """
    visible = (~mask).float()
    frequencies = torch.pow(
        torch.tensor(10000.0, device=mask.device),
        -(2 * torch.arange(dim // 4, device=mask.device, dtype=torch.float32)) / (dim // 2),
    )
    halves = []
    for axis in (1, 2):
        count = visible.cumsum(axis)
        last = count[:, -1:, :] if axis == 1 else count[:, :, -1:]
        phase = (count / (last + 1e-6) * (2 * math.pi))[..., None] * frequencies
        halves.append(torch.stack((phase.sin(), phase.cos()), dim=-1).flatten(3))
    return torch.cat(halves, dim=-1).flatten(1, 2)


class TrackState(NamedTuple):
    """Everything a target's track carries from frame to frame.

    The first three are constant after initialization; the others change every frame.

    Attributes:
        target_features: float ``(B, template tokens, dim)``, the template after the bottleneck.
        target_position: float ``(B, template tokens, dim)``, its position encoding.
        target_mask: bool ``(B, template tokens)``, True = padding.
        memory: float ``(B, capacity, dim)``, spatial queries of earlier frames, newest last.
        memory_valid: float ``(B, capacity)``, 1 where ``memory`` holds an entry, else 0.
        query: float ``(B, dim)``, the next frame's query.
    """

    target_features: Tensor
    target_position: Tensor
    target_mask: Tensor
    memory: Tensor
    memory_valid: Tensor
    query: Tensor


class StepOutput(NamedTuple):
    """One frame's prediction, with what the traces and the losses look at.

    Attributes:
        corners: box, confidence and the two score maps.
        spatial_query, temporal_query: float ``(B, dim)``.
        head_input: float ``(B, dim, cells, cells)``.
    """

    corners: Corners
    spatial_query: Tensor
    temporal_query: Tensor
    head_input: Tensor

    @property
    def box(self) -> Tensor:
        """Float ``(B, 4)``, x1 y1 x2 y2 over the crop's side."""
        return self.corners.box

    @property
    def confidence(self) -> Tensor:
        """Float ``(B,)``, 0 to 1."""
        return self.corners.confidence


class SearchEncoding(NamedTuple):
    """The encoder's output over template and search tokens; independent of the temporal state.

    Attributes:
        tokens: ``(B, template + search tokens, dim)``, template first.
        position: the tokens' position encoding, same shape.
        bias: the tokens' padding as an additive bias ``(B, 1, 1, tokens)``.
    """

    tokens: Tensor
    position: Tensor
    bias: Tensor


class STTrack(nn.Module):
    """The network; see :meth:`initial_state` and :meth:`step` for the recurrent interface.

    Images are uint8 RGB ``(B, size, size, 3)``; masks are bool at feature resolution ``(B, cells, cells)``,
    True = padding.
    """

    state_type = TrackState
    constant_state = ("target_features", "target_position", "target_mask")

    mean: Tensor
    std: Tensor
    window: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c = self.config = config
        self.backbone = build_backbone(c)
        self.bottleneck = nn.Conv2d(self.backbone.channels_out, c.hidden_dim, 1)
        self.encoder = Encoder(c.encoder_layers, c.hidden_dim, c.heads, c.feedforward_dim, c.dropout)
        self.decoder = Decoder(c.decoder_layers, c.hidden_dim, c.heads, c.feedforward_dim, c.dropout)
        self.memory_attention = MemoryAttention(
            c.memory_layers, c.hidden_dim, c.memory_heads, c.memory_feedforward_dim, c.dropout
        )
        self.head = CornerHead(c.hidden_dim, c.head_dim, c.search_cells, c.corner_prior)
        self.query_embed = nn.Parameter(torch.randn(1, c.hidden_dim))
        # Published initial value 1 makes the attention 0 and the box constant; 0.5 is its strongest point.
        self.window_penalty = nn.Parameter(torch.full((1,), 0.5))
        self.register_buffer("mean", torch.tensor(c.mean), persistent=False)
        self.register_buffer("std", torch.tensor(c.std), persistent=False)
        # Periodic window: index 0 is zero.
        hann = torch.hann_window(c.search_cells)
        self.register_buffer("window", torch.outer(hann, hann).flatten(), persistent=False)

    # ---- the recurrent interface -------------------------------------------------------------------

    def initial_state(self, template: Tensor, mask: Tensor) -> TrackState:
        """The whole state of a fresh track.

        Args:
            template: uint8 ``(B, template_size, template_size, 3)``.
            mask: bool ``(B, template_cells, template_cells)``.
        """
        batch, c = template.shape[0], self.config
        features, position = self._embed(template, mask, template=True)
        memory = features.new_zeros(batch, c.memory_capacity, c.hidden_dim)
        valid = features.new_zeros(batch, c.memory_capacity)
        query = self.query_embed.expand(batch, -1)
        return TrackState(features, position, mask.flatten(1), memory, valid, query)

    def step(self, search: Tensor, mask: Tensor, state: TrackState) -> tuple[StepOutput, TrackState]:
        """Predict one frame and advance the state.

        Args:
            search: uint8 ``(B, search_size, search_size, 3)``.
            mask: bool ``(B, search_cells, search_cells)``.
        """
        encoding = self.encode(search, mask, state)
        spatial_query, state = self.advance(encoding, state)
        corners, head_input = self.predict(encoding, state.query)
        return StepOutput(corners, spatial_query, state.query, head_input), state

    # ---- its parts: training encodes all frames of a clip at once, and runs the head on all at once -----

    def encode(self, search: Tensor, mask: Tensor, state: TrackState) -> SearchEncoding:
        """Joint encoding of template and search region; uses the constant part of the state only."""
        features, position = self._embed(search, mask, template=False)
        tokens = torch.cat((state.target_features, features), dim=1)
        position = torch.cat((state.target_position, position), dim=1)
        bias = padding_bias(torch.cat((state.target_mask, mask.flatten(1)), dim=1))
        return SearchEncoding(self.encoder(tokens, position, bias), position, bias)

    def advance(self, encoding: SearchEncoding, state: TrackState) -> tuple[Tensor, TrackState]:
        """The spatial query of an encoded frame, and the state after it (its ``query`` is the temporal one)."""
        spatial_query = self.decoder(state.query, encoding.tokens, encoding.position, encoding.bias)
        temporal_query, memory, valid = self._remember(spatial_query, state)
        return spatial_query, state._replace(memory=memory, memory_valid=valid, query=temporal_query)

    def predict(self, encoding: SearchEncoding, temporal_query: Tensor) -> tuple[Corners, Tensor]:
        """Corners, and the head's input ``(B, dim, cells, cells)``."""
        head_input = self._head_input(self.search_tokens(encoding), temporal_query)
        return self.head(head_input), head_input

    def search_tokens(self, encoding: SearchEncoding) -> Tensor:
        """The encoder's output at the search cells, ``(B, cells^2, dim)``."""
        return encoding.tokens[:, -(self.config.search_cells**2) :]

    def _embed(self, image: Tensor, mask: Tensor, template: bool) -> tuple[Tensor, Tensor]:
        """uint8 crop to tokens ``(B, cells^2, dim)`` and their position encoding."""
        # Channels first before the arithmetic: over a last axis of three, engines broadcast slowly.
        pixels = image.float().permute(0, 3, 1, 2) / 255.0
        pixels = (pixels - self.mean[:, None, None]) / self.std[:, None, None]
        features = self.bottleneck(self.backbone(pixels, template))
        return features.flatten(2).transpose(1, 2), sine_position(mask, self.config.hidden_dim)

    def _remember(self, spatial_query: Tensor, state: TrackState) -> tuple[Tensor, Tensor, Tensor]:
        """Temporal query, memory and its validity after this frame.

        The memory shifts by one and drops its oldest entry: the memory attention has no position, so
        this equals a ring, and it needs no index.
        """
        memory = torch.cat((state.memory[:, 1:], spatial_query[:, None]), dim=1)
        valid = torch.cat((state.memory_valid[:, 1:], torch.ones_like(state.memory_valid[:, :1])), dim=1)
        if self.config.memory_semantics == "train":
            attended, attended_valid = memory, valid
        else:
            # The newest slot is filled if any is; on the first frame the query sees itself.
            seen = state.memory_valid[:, -1:]
            attended = torch.where(seen[:, :, None] > 0, state.memory, memory)
            attended_valid = torch.where(seen > 0, state.memory_valid, valid)
        bias = ((1.0 - attended_valid) * MASKED)[:, None, None, :]
        return self.memory_attention(spatial_query, attended, bias), memory, valid

    def _head_input(self, search: Tensor, temporal_query: Tensor) -> Tensor:
        """Search tokens weighted by their similarity to the temporal query under a Hann window."""
        cells, p = self.config.search_cells, self.window_penalty
        windowed = search * (1.0 - p) * (self.window * p)[None, :, None]
        attention = windowed @ temporal_query[:, :, None]
        return (search * attention).transpose(1, 2).reshape(search.shape[0], -1, cells, cells)
