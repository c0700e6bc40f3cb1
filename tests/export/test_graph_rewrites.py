"""The exported step is the network's: to rounding in its own precision, and to nothing in a higher one."""

from __future__ import annotations

import copy
from dataclasses import replace

import onnx
import pytest
import torch
from tiny import TINY, lively_network, picture
from torch import Tensor

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.export.graph_rewrites import SinePosition, streamlined
from sttrack_deploy.models import corner_network as network_module
from sttrack_deploy.models.config import ModelConfig
from sttrack_deploy.models.corner_network import STTrack, TrackState, sine_position

CONFIGS = {
    "test": TINY,
    "train": replace(TINY, memory_semantics="train"),
    "one decoder layer, memory of one": replace(TINY, decoder_layers=1, memory_layers=1, memory_capacity=1),
    "three decoder layers, other heads": replace(TINY, decoder_layers=3, heads=4, memory_heads=8),
    "corner prior": replace(TINY, corner_prior=True),
    "resnet18": replace(TINY, backbone="resnet18"),
}
EXACT = 1e-10
"""In float64: far above its rounding after a dozen layers, far below any term left out."""


def lively(config: ModelConfig) -> STTrack:
    with torch.random.fork_rng():
        network = lively_network(config)
        for name, parameter in network.named_parameters():
            # What starts as zeros or ones would hide a forgotten bias or norm.
            if "bias" in name or "norm" in name or "prior" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def lines(cells: int, generator: torch.Generator) -> Tensor:
    """bool ``(cells,)``: padding before and after, of any width."""
    before, after = torch.randint(0, cells // 2, (2,), generator=generator).tolist()
    line = torch.zeros(cells, dtype=torch.bool)
    line[:before] = True
    line[cells - after :] = True
    return line


def crops(
    size: int, cells: int, batch: int, padded: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    masks = [lines(cells, generator)[:, None] | lines(cells, generator)[None] for _ in range(batch)]
    return picture(size, batch, generator), torch.stack(masks) & padded


def differences(network: STTrack, batch: int, padded: bool) -> dict[str, float]:
    """Largest differences over more frames than the memory holds; each side keeps its own state."""
    c, step = network.config, streamlined(network)
    generator = torch.Generator().manual_seed(batch)
    ours = theirs = network.initial_state(*crops(c.template_size, c.template_cells, batch, padded, generator))
    worst: dict[str, float] = {}
    for _ in range(c.memory_capacity + 2):
        search = crops(c.search_size, c.search_cells, batch, padded, generator)
        output, theirs = network.step(*search, theirs)
        box, confidence, ours = step(*search, ours)
        pairs = {"box": (box, output.corners.box), "confidence": (confidence, output.corners.confidence)}
        pairs |= {name: (getattr(ours, name), getattr(theirs, name)) for name in TrackState._fields}
        for name, (a, b) in pairs.items():
            assert a.shape == b.shape, name
            assert a.dtype == b.dtype, name
            worst[name] = max(worst.get(name, 0.0), float((a.double() - b.double()).abs().max()))
    return worst


@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@torch.no_grad()
def test_the_step_is_the_networks(
    config: ModelConfig, batch: int, padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = lively(config)
    plain = differences(network, batch, padded)
    # These weights amplify rounding; the network's own steps are as far from float64.
    assert max(plain.values()) < 2e-4, plain

    def position(mask: Tensor, dim: int) -> Tensor:
        encoded: Tensor = SinePosition(dim)(mask.double())
        return encoded

    # The published encoding has its frequencies in float32, and the network casts to float32 in places.
    monkeypatch.setattr(network_module, "sine_position", position)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    double = differences(network.double(), batch, padded)
    assert max(double.values()) < EXACT, double


@pytest.mark.parametrize("cells", [4, 12, 20])
def test_positions_of_any_mask(cells: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.rand(2, 100, cells, generator=generator) < torch.rand(
        2, 100, 1, generator=generator
    )
    edges = torch.zeros(3, cells, cells, dtype=torch.bool)
    edges[1], edges[2, :, 0] = True, True
    scattered = torch.rand(100, cells, cells, generator=generator) < 0.5
    masks = torch.cat((rows[:, :, None] | columns[:, None], scattered, edges))
    encoded = SinePosition(32).float()(masks.float())
    assert torch.allclose(encoded, sine_position(masks, 32), rtol=0.0, atol=1e-6)


@torch.no_grad()
def test_the_network_is_left_as_it_is() -> None:
    network = lively(TINY).train().requires_grad_(True)
    before = copy.deepcopy(network.state_dict())
    streamlined(network)
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_graph_holds_no_more_than_it_needs(tiny_bundle: Bundle) -> None:
    nodes = onnx.load(tiny_bundle.search_path).graph.node
    count = {
        op: sum(node.op_type == op for node in nodes) for op in ("Sin", "Cos", "Softmax", "Where", "Div")
    }
    # One attention a layer, and both corners' maps at once.
    attentions = TINY.encoder_layers + TINY.decoder_layers + TINY.memory_layers
    assert count == {"Sin": 1, "Cos": 0, "Softmax": attentions + 1, "Where": 0, "Div": 2}
