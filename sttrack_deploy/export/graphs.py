"""The network as the two graphs of the recurrent contract."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sttrack_deploy.bundle import (
    BOX,
    CONFIDENCE,
    SEARCH_IMAGE,
    SEARCH_MASK,
    TEMPLATE_IMAGE,
    TEMPLATE_MASK,
    StateSpec,
)
from sttrack_deploy.export.graph_rewrites import StreamlinedDense, streamlined
from sttrack_deploy.models.corner_network import STTrack, TrackState
from sttrack_deploy.models.dense_network import DenseState, DenseSTTrack
from sttrack_deploy.models.network import Network

__all__ = ["GraphSource", "search_source", "state_specs", "template_source"]


def state_specs(network: Network) -> tuple[StateSpec, ...]:
    """The tensors of a network's state and their names in the graphs; the constant ones come first."""
    constant = network.constant_state
    changing = [name for name in network.state_type._fields if name not in constant]
    return (
        *(StateSpec(name, name, name, None) for name in constant),
        # Names sort alike on both sides: servers that pair state by position need it.
        *(StateSpec(name, name, f"{name}_in", f"{name}_out") for name in changing),
    )


class TemplateGraph(nn.Module):
    """Template crop to the whole initial state."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, template_image: Tensor, template_mask: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network.initial_state(template_image, template_mask))


class SearchGraph(nn.Module):
    """Search crop and state to box, confidence and the next state's changing part; the network streamlined."""

    def __init__(self, network: STTrack) -> None:
        super().__init__()
        self.step = streamlined(network)

    def forward(
        self,
        search_image: Tensor,
        search_mask: Tensor,
        target_features: Tensor,
        target_position: Tensor,
        target_mask: Tensor,
        memory_in: Tensor,
        memory_valid_in: Tensor,
        query_in: Tensor,
    ) -> tuple[Tensor, ...]:
        state = TrackState(
            target_features, target_position, target_mask, memory_in, memory_valid_in, query_in
        )
        box, confidence, after = self.step(search_image, search_mask, state)
        return box, confidence, after.memory, after.memory_valid, after.query


class DenseSearchGraph(nn.Module):
    """The same for the network with a dense head."""

    def __init__(self, network: DenseSTTrack) -> None:
        super().__init__()
        self.network = StreamlinedDense(network)

    def forward(
        self,
        search_image: Tensor,
        search_mask: Tensor,
        pixel_kernels: Tensor,
        pixel_offset: Tensor,
        depth_kernels: Tensor,
        target_tokens: Tensor,
        memory_in: Tensor,
        memory_valid_in: Tensor,
        query_in: Tensor,
        shape_in: Tensor,
    ) -> tuple[Tensor, ...]:
        constant = (pixel_kernels, pixel_offset, depth_kernels, target_tokens)
        state = DenseState(*constant, memory_in, memory_valid_in, query_in, shape_in)
        step, after = self.network.step(search_image, search_mask, state)
        return step.box, step.confidence, after.memory, after.memory_valid, after.query, after.shape


@dataclass(frozen=True, slots=True)
class GraphSource:
    """What an exporter needs of one graph: module, example inputs, names in order."""

    module: nn.Module
    example: tuple[Tensor, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def template_source(network: Network, batch: int) -> GraphSource:
    """The template graph with example inputs of that batch."""
    c = network.config
    image = torch.zeros(batch, c.template_size, c.template_size, 3, dtype=torch.uint8)
    mask = torch.zeros(batch, c.template_cells, c.template_cells, dtype=torch.bool)
    return GraphSource(
        TemplateGraph(network).eval(),
        (image, mask),
        (TEMPLATE_IMAGE, TEMPLATE_MASK),
        tuple(s.initial for s in state_specs(network)),
    )


def search_source(network: Network, batch: int) -> GraphSource:
    """The search graph with example inputs of that batch."""
    c = network.config
    template = template_source(network, batch)
    with torch.no_grad():
        state: tuple[Tensor, ...] = template.module(*template.example)
    image = torch.zeros(batch, c.search_size, c.search_size, 3, dtype=torch.uint8)
    mask = torch.zeros(batch, c.search_cells, c.search_cells, dtype=torch.bool)
    specs = state_specs(network)
    graph = DenseSearchGraph(network) if isinstance(network, DenseSTTrack) else SearchGraph(network)
    return GraphSource(
        graph.eval(),
        (image, mask, *(tensor.contiguous() for tensor in state)),
        (SEARCH_IMAGE, SEARCH_MASK, *(s.input for s in specs)),
        (BOX, CONFIDENCE, *(s.output for s in specs if s.output)),
    )
