from __future__ import annotations

import dataclasses

import pytest
import torch

from sttrack_deploy.errors import UsageError
from sttrack_deploy.models.config import preset
from sttrack_deploy.models.dense_network import DenseState, DenseSTTrack
from sttrack_deploy.models.network import build_network

SMALL = dataclasses.replace(
    preset("sttrack-nano"), search_size=96, hidden_dim=16, heads=2, memory_heads=2, feedforward_dim=16
)


@pytest.fixture(scope="module")
def network() -> DenseSTTrack:
    torch.manual_seed(0)
    made = build_network(SMALL)
    assert isinstance(made, DenseSTTrack)
    return made.eval().requires_grad_(False)


def pictures(batch: int, size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (batch, size, size, 3), generator=generator, dtype=torch.uint8)
    return pixels, torch.zeros(batch, size // 16, size // 16, dtype=torch.bool)


def trained(network: DenseSTTrack) -> DenseSTTrack:
    """A copy whose output layers are no longer zero."""
    copy = DenseSTTrack(network.config).eval().requires_grad_(False)
    copy.load_state_dict(network.state_dict())
    torch.manual_seed(1)
    for layer in (copy.compare, copy.refine, copy.verdict):
        torch.nn.init.normal_(layer.weight, std=0.3)
    return copy


def test_untrained_the_box_and_confidence_are_the_correlation_trackers_own(network: DenseSTTrack) -> None:
    search = pictures(2, 96, 1)
    state = network.initial_state(*pictures(2, 128, 0))
    other = state._replace(query=state.query + 1.0, memory=state.memory + 1.0)
    first, second = network.step(*search, state)[0], network.step(*search, other)[0]
    # No refinement yet: neither query nor memory can change anything, and the mean of the places' boxes is theirs.
    assert torch.equal(first.box, second.box)
    weights = torch.softmax(first.logits, 1)
    assert torch.allclose(first.box, (first.boxes * weights[:, None]).sum(2), atol=1e-6)
    assert bool(((first.confidence > 0) & (first.confidence < 1)).all())


@pytest.mark.parametrize(
    "name", ["query", "memory", "shape", "target_tokens", "pixel_kernels", "depth_kernels"]
)
def test_trained_every_part_of_the_state_matters(network: DenseSTTrack, name: str) -> None:
    network = trained(network)
    search = pictures(1, 96, 1)
    state = network.initial_state(*pictures(1, 128, 0))
    for seed in (2, 3):
        state = network.step(*pictures(1, 96, seed), state)[1]
    changed = state._replace(**{name: getattr(state, name).flip(-1) * 1.5 + 0.3})
    before, after = network.step(*search, state)[0], network.step(*search, changed)[0]
    assert not torch.equal(before.logits, after.logits)


def test_targets_of_a_batch_do_not_mix(network: DenseSTTrack) -> None:
    network = trained(network)
    template, search = pictures(3, 128, 0), pictures(3, 96, 1)
    together, _ = network.step(*search, network.initial_state(*template))
    for i in range(3):
        part = slice(i, i + 1)
        alone, _ = network.step(
            search[0][part], search[1][part], network.initial_state(template[0][part], template[1][part])
        )
        assert torch.allclose(alone.box[0], together.box[i], atol=1e-5)


def test_a_crop_without_any_image_gives_numbers(network: DenseSTTrack) -> None:
    state = network.initial_state(*pictures(1, 128, 0))
    blank = torch.zeros(1, 96, 96, 3, dtype=torch.uint8)
    output, after = network.step(blank, torch.ones(1, 6, 6, dtype=torch.bool), state)
    assert all(bool(torch.isfinite(t).all()) for t in (*output, *after))


def test_a_size_unlike_the_last_box_lowers_a_places_score(network: DenseSTTrack) -> None:
    margin = torch.zeros(1, 3)
    window = network.window
    network.window = torch.zeros(3)
    change = torch.tensor([[[0.0, 0.3, 1.0], [0.0, 0.0, 0.0]]])
    scores = network._score(margin, change)[0]
    network.window = window
    assert scores[0] > scores[1] > scores[2]


def test_memory_fills_from_the_newest_end_and_says_so(network: DenseSTTrack) -> None:
    state: DenseState = network.initial_state(*pictures(1, 128, 0))
    assert float(state.memory_valid.sum()) == 0
    for count in range(1, network.config.memory_capacity + 2):
        state = network.step(*pictures(1, 96, count), state)[1]
        valid = state.memory_valid[0]
        assert float(valid.sum()) == min(count, network.config.memory_capacity)
        assert float(valid[-1]) == 1
        assert torch.equal(state.memory[0, -1], state.query[0])


def test_backbone_and_head_go_together() -> None:
    with pytest.raises(UsageError, match="go together"):
        build_network(dataclasses.replace(SMALL, backbone="resnet18"))
    with pytest.raises(UsageError, match="heads are corner, dense"):
        build_network(dataclasses.replace(SMALL, head="round"))
