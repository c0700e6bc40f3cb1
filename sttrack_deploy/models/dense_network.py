"""STTrack over NanoTrack v3: its score map and boxes, refined by tokens that know of the frames before.

The correlation tracker gives each place of the search region a foreground score and a box. Search tokens are made of
its features, encoded together with template tokens; the decoder's query attends to them, the memory attention makes
it the temporal query, and this one's products with the tokens are added to the scores. The box is the mean of the
places' boxes under the softmax of the scores: no coin is tossed between two equal ones.

All output layers start at zero. So an untrained network *is* NanoTrack v3 with its window and its size penalty.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sttrack_deploy.models.config import ModelConfig
from sttrack_deploy.models.nanotrack import FEATURES, KERNEL, NanoBackbone, NanoHead, NanoKernels, NanoMaps
from sttrack_deploy.models.transformer import MASKED, Decoder, Encoder, MemoryAttention

__all__ = ["DenseSTTrack", "DenseState", "DenseStep"]

WINDOW = 0.455
"""Weight of the Hann window in the score, as published with NanoTrack v3."""
PENALTY = 0.138
"""How fast a change of size or aspect from the last box lowers a place's score, as published."""
SHARPNESS = 50.0
"""From the score (0 to 1) to the logits whose softmax weights the places' boxes."""
GEOMETRY = 8
"""Numbers that tell a token, or a memory entry, of a place's box and score."""
REFINEMENT = 3.0
"""Scale of the refinement's logits: the base score's are some tens."""
TRUSTED = math.log(0.25 / 0.75)
"""Logit of the confidence from which a frame enters query and memory."""


class DenseState(NamedTuple):
    """Everything a target's track carries from frame to frame; the first four are constant.

    Attributes:
        pixel_kernels: float ``(B, 128, 96)``; see :class:`~sttrack_deploy.models.nanotrack.NanoKernels`.
        pixel_offset: float ``(B, 128, 1)``.
        depth_kernels: float ``(B, 192, 4, 4)``.
        target_tokens: float ``(B, 16, dim)``, tokens of the template's middle.
        memory: float ``(B, capacity, dim)``, queries of earlier frames, newest last.
        memory_valid: float ``(B, capacity)``, 1 where ``memory`` holds an entry, else 0.
        query: float ``(B, dim)``, the next frame's query.
        shape: float ``(B, 2)``, logarithm of the last box's width over its height, and 1 once that is known.
    """

    pixel_kernels: Tensor
    pixel_offset: Tensor
    depth_kernels: Tensor
    target_tokens: Tensor
    memory: Tensor
    memory_valid: Tensor
    query: Tensor
    shape: Tensor


class DenseStep(NamedTuple):
    """One frame's prediction.

    Attributes:
        box: float ``(B, 4)``, x1 y1 x2 y2 over the crop's side.
        confidence: float ``(B,)``, 0 to 1.
        confidence_logit: float ``(B,)``.
        logits: float ``(B, places)``, of the final score map.
        boxes: float ``(B, 4, places)``, each place's box.
    """

    box: Tensor
    confidence: Tensor
    confidence_logit: Tensor
    logits: Tensor
    boxes: Tensor


class DenseSTTrack(nn.Module):
    """The network; the interface is that of :class:`~sttrack_deploy.models.corner_network.STTrack`.

    Images are uint8 RGB ``(B, size, size, 3)``; masks are bool at feature resolution ``(B, cells, cells)``,
    True = padding.
    """

    state_type = DenseState
    constant_state = ("pixel_kernels", "pixel_offset", "depth_kernels", "target_tokens")

    points: Tensor
    window: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c = self.config = config
        dim, places = c.hidden_dim, (c.search_cells - 1) ** 2
        self.backbone = NanoBackbone()
        self.correlation = NanoHead()
        self.embed = nn.Linear(3 * FEATURES + GEOMETRY, dim)
        self.embed_norm = nn.LayerNorm(dim)
        self.embed_target = nn.Linear(FEATURES, dim)
        self.target_norm = nn.LayerNorm(dim)
        self.position = nn.Parameter(torch.randn(places, dim) * 0.1)
        self.target_position = nn.Parameter(torch.randn(KERNEL**2, dim) * 0.1)
        self.encoder = Encoder(c.encoder_layers, dim, c.heads, c.feedforward_dim, c.dropout)
        self.decoder = Decoder(c.decoder_layers, dim, c.heads, c.feedforward_dim, c.dropout)
        self.memory_attention = MemoryAttention(
            c.memory_layers, dim, c.memory_heads, c.memory_feedforward_dim, c.dropout
        )
        self.query_embed = nn.Parameter(torch.randn(1, dim))
        self.compare = nn.Linear(dim, dim)
        self.refine = nn.Linear(dim, 5)
        self.note = nn.Linear(dim + GEOMETRY, dim)
        self.note_norm = nn.LayerNorm(dim)
        self.judge = nn.Linear(2 * dim + GEOMETRY, dim)
        self.verdict = nn.Linear(dim, 1)
        for layer in (self.compare, self.refine, self.verdict):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        axis = (torch.arange(c.search_cells - 1) + 1.0) / c.search_cells
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        self.register_buffer("points", torch.stack((x.flatten(), y.flatten())), persistent=False)
        hann = torch.hann_window(c.search_cells - 1, periodic=False)
        self.register_buffer("window", torch.outer(hann, hann).flatten(), persistent=False)

    # ---- the recurrent interface -------------------------------------------------------------------

    def initial_state(self, template: Tensor, mask: Tensor) -> DenseState:
        """The whole state of a fresh track; arguments as of ``STTrack.initial_state``."""
        features = self.backbone(template.float().permute(0, 3, 1, 2))
        # The mask is an input by contract; a template shows its target and is hardly ever padded.
        features = features + 0.0 * mask[:, None].float()
        return self.start(self.correlation.kernels(features), features)

    def step(self, search: Tensor, mask: Tensor, state: DenseState) -> tuple[DenseStep, DenseState]:
        """Predict one frame and advance the state; arguments as of ``STTrack.step``."""
        features = self.backbone(search.float().permute(0, 3, 1, 2))
        maps = self.correlation(
            features, NanoKernels(state.pixel_kernels, state.pixel_offset, state.depth_kernels)
        )
        return self.refined(maps, features, mask, state)

    # ---- its parts: training has the frozen ones computed by a faster engine ----------------------------

    def start(self, kernels: NanoKernels, features: Tensor) -> DenseState:
        """The state of a fresh track from the template's filters and features ``(B, 96, 8, 8)``."""
        batch, c = features.shape[0], self.config
        edge = (features.shape[-1] - KERNEL) // 2
        middle = features[:, :, edge : edge + KERNEL, edge : edge + KERNEL].flatten(2).transpose(1, 2)
        tokens = self.target_norm(self.embed_target(middle)) + self.target_position
        memory = features.new_zeros(batch, c.memory_capacity, c.hidden_dim)
        valid = features.new_zeros(batch, c.memory_capacity)
        query = self.query_embed.expand(batch, -1)
        return DenseState(*kernels, tokens, memory, valid, query, features.new_zeros(batch, 2))

    def refined(
        self, maps: NanoMaps, features: Tensor, mask: Tensor, state: DenseState
    ) -> tuple[DenseStep, DenseState]:
        """The prediction from the correlation's maps and the search features ``(B, 96, cells, cells)``."""
        c = self.config
        boxes = self._boxes(maps.distances.flatten(2) / c.search_size)
        margin = maps.margin.flatten(1)
        change = self._change(boxes, state.shape)
        base = self._score(margin, change)
        geometry = self._geometry(boxes, margin, change)  # B, GEOMETRY, places
        search = self.embed_norm(self._embedded(maps.towers, features, geometry))
        hidden = F.pad((mask[:, :-1, :-1] & mask[:, 1:, 1:]).flatten(1).float() * MASKED, (KERNEL**2, 0))
        tokens, spatial_query = self._attended(
            torch.cat((state.target_tokens, search), 1), hidden, state.query
        )
        query = self._remembering(spatial_query, state)

        region = tokens[:, KERNEL**2 :]
        residual = self.refine(region)  # B, places, 5
        match = (region @ self.compare(query)[:, :, None])[..., 0] * c.hidden_dim**-0.5
        logits = base + REFINEMENT * (match + residual[..., 0])
        stretch = torch.exp(torch.clamp(residual[..., 1:], -0.7, 0.7)).transpose(1, 2)
        boxes = self._boxes(maps.distances.flatten(2) / c.search_size * stretch)
        weights = torch.softmax(logits, 1)[:, :, None]
        box = (boxes @ weights)[..., 0]
        pooled = (region.transpose(1, 2) @ weights)[..., 0]
        told = (geometry @ weights)[..., 0]
        considered = torch.relu(self.judge(torch.cat((pooled, query, told), 1)))
        logit = (margin * weights[..., 0]).sum(1) + self.verdict(considered)[:, 0]
        entry = self.note_norm(query + self.note(torch.cat((pooled, told), 1)))
        memory = torch.cat((state.memory[:, 1:], entry[:, None]), 1)
        valid = torch.cat((state.memory_valid[:, 1:], torch.ones_like(state.memory_valid[:, :1])), 1)
        extent = torch.clamp(box[:, 2:] - box[:, :2], min=1e-3)
        aspect = torch.log(extent[:, 0]) - torch.log(extent[:, 1])
        shape = torch.stack((aspect, torch.ones_like(aspect)), 1)
        # What is seen while the target is away must not become what is known of it: it would not be recognized again.
        trusted = logit[:, None] >= TRUSTED
        after = state._replace(
            memory=torch.where(trusted[:, :, None], memory, state.memory),
            memory_valid=torch.where(trusted, valid, state.memory_valid),
            query=torch.where(trusted, entry, state.query),
            shape=torch.where(trusted, shape, state.shape),
        )
        return DenseStep(box, torch.sigmoid(logit), logit, logits, boxes), after

    def _attended(self, tokens: Tensor, bias: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Encoded tokens ``(B, tokens, dim)``, and what the query ``(B, dim)`` finds in them.

        Args:
            bias: ``(B, tokens)``, the padding's.
        """
        position = torch.cat((torch.zeros_like(self.target_position), self.position))[None]
        bias = bias[:, None, None]
        tokens = self.encoder(tokens, position, bias)
        return tokens, self.decoder(query, tokens, position, bias)

    def _embedded(self, towers: Tensor, features: Tensor, geometry: Tensor) -> Tensor:
        """Search tokens ``(B, places, dim)`` of the towers' outputs, the features and the geometry, before the norm.

        As a convolution: its inputs have channels first, and engines keep them in blocks.
        """
        weight, channels = self.embed.weight, 3 * FEATURES
        seen = torch.cat((towers, F.avg_pool2d(features, 2, 1)), 1)
        mixed = F.conv2d(seen, weight[:, :channels, None, None], self.embed.bias).flatten(2)
        return (mixed + weight[:, channels:] @ geometry).transpose(1, 2)

    def _boxes(self, distances: Tensor) -> Tensor:
        """Distances ``(B, 4, places)`` over the crop's side to x1 y1 x2 y2."""
        return torch.cat((self.points - distances[:, :2], self.points + distances[:, 2:]), 1)

    def _change(self, boxes: Tensor, shape: Tensor) -> Tensor:
        """``(B, 2, places)``: absolute logarithms of the change of size and of aspect since the last box."""
        c = self.config
        extent = torch.clamp(boxes[:, 2:] - boxes[:, :2], min=1e-3)
        log = torch.log(extent)
        margin = c.crop_context * (extent[:, :1] + extent[:, 1:])
        # The crop's side is `search_factor` times the last box's size.
        size = 0.5 * torch.log((extent + margin).prod(1)) + math.log(c.search_factor)
        aspect = (log[:, 0] - log[:, 1] - shape[:, :1]) * shape[:, 1:]
        return torch.stack((size, aspect), 1)

    def _score(self, margin: Tensor, change: Tensor) -> Tensor:
        """NanoTrack's score as logits ``(B, places)``."""
        penalty = torch.exp(-PENALTY * (torch.exp(change.abs().sum(1)) - 1.0))
        return SHARPNESS * ((1.0 - WINDOW) * penalty * torch.sigmoid(margin) + WINDOW * self.window)

    def _geometry(self, boxes: Tensor, margin: Tensor, change: Tensor) -> Tensor:
        """``(B, GEOMETRY, places)``: where a place's box lies, how it compares with the last one, and its score."""
        factor = self.config.search_factor
        middle = (0.5 * (boxes[:, :2] + boxes[:, 2:]) - 0.5) * factor  # in sizes of the last box
        window = self.window.expand_as(margin)
        parts = (margin * 0.25, torch.sigmoid(margin), window, middle.square().sum(1).add(1e-6).sqrt())
        return torch.cat((middle, change, torch.stack(parts, 1)), 1)

    def _remembering(self, spatial_query: Tensor, state: DenseState) -> Tensor:
        """The temporal query: the spatial one after it attended to the stored ones and to itself."""
        entries = torch.cat((state.memory, spatial_query[:, None]), 1)
        bias = F.pad((1.0 - state.memory_valid) * MASKED, (0, 1))[:, None, None, :]
        query: Tensor = self.memory_attention(spatial_query, entries, bias)
        return query
