"""What the recurrent interface promises."""

from __future__ import annotations

import dataclasses
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TINY, lively_network, run_clip, search_input, template_input

from sttrack_deploy.models.corner_network import CornerHead, STTrack, TrackState, corner_confidence


def inputs(network: STTrack) -> tuple[torch.Tensor, torch.Tensor, TrackState]:
    generator = torch.Generator().manual_seed(1)
    state = network.initial_state(*template_input(network.config, 1, generator))
    for _ in range(2):  # so that the memory holds something
        _, state = network.step(*search_input(network.config, 1, generator), state)
    search, mask = search_input(network.config, 1, generator)
    return search, mask, state


@pytest.mark.parametrize("name", ["search", "mask", *TrackState._fields])
def test_the_box_reacts_to_every_input(tiny_network: STTrack, name: str) -> None:
    search, mask, state = inputs(tiny_network)
    before = tiny_network.step(search, mask, state)[0].corners.box
    if name == "search":
        search = search.flip(1)
    elif name == "mask":
        mask = mask.clone()
        mask[:, :2] = True
    else:
        value = getattr(state, name)
        if value.dtype == torch.bool:
            changed = value.clone()
            changed[:, : value.shape[1] // 2] ^= True
        elif name == "memory_valid":
            changed = torch.zeros_like(value)
            changed[:, -1] = 1
        else:
            changed = value.roll(1, -1)
        state = state._replace(**{name: changed})
    after = tiny_network.step(search, mask, state)[0].corners.box
    assert (after - before).abs().max() > 1e-5


def test_the_box_reacts_to_the_template(tiny_network: STTrack) -> None:
    generator = torch.Generator().manual_seed(5)
    image, mask = template_input(TINY, 1, generator)
    search = search_input(TINY, 1, generator)
    boxes = [
        tiny_network.step(*search, tiny_network.initial_state(i, m))[0].corners.box
        for i, m in ((image, mask), (image.flip(2), mask), (image, ~mask))
    ]
    assert (boxes[1] - boxes[0]).abs().max() > 1e-4
    assert (boxes[2] - boxes[0]).abs().max() > 1e-4


@pytest.mark.parametrize("semantics", ["test", "train"])
def test_a_large_capacity_changes_nothing(semantics: Literal["test", "train"]) -> None:
    """Empty slots are invisible: any capacity that holds the clip gives the same boxes."""
    boxes = []
    for capacity in (6, 17):
        config = dataclasses.replace(TINY, memory_capacity=capacity, memory_semantics=semantics)
        boxes.append(torch.stack(run_clip(lively_network(config), 6)[0]))
    assert torch.allclose(boxes[0], boxes[1], atol=1e-6)


def test_a_full_memory_forgets_its_oldest_entry(tiny_network: STTrack) -> None:
    _, state = run_clip(tiny_network, TINY.memory_capacity)
    kept = state.memory.clone()
    generator = torch.Generator().manual_seed(9)
    _, after = tiny_network.step(*search_input(TINY, 1, generator), state)
    assert torch.equal(after.memory[:, :-1], kept[:, 1:])
    assert after.memory_valid.sum() == TINY.memory_capacity


def test_the_order_of_the_memory_does_not_matter(tiny_network: STTrack) -> None:
    search, mask, state = inputs(tiny_network)
    state = run_clip(tiny_network, TINY.memory_capacity)[1]
    shuffled = state._replace(memory=state.memory.flip(1))
    boxes = [tiny_network.step(search, mask, s)[0].corners.box for s in (state, shuffled)]
    assert torch.allclose(boxes[0], boxes[1], atol=1e-6)


def test_targets_of_a_batch_do_not_mix(tiny_network: STTrack) -> None:
    generator = torch.Generator().manual_seed(2)
    template, search = template_input(TINY, 3, generator), search_input(TINY, 3, generator)
    together = tiny_network.step(*search, tiny_network.initial_state(*template))[0].corners
    for i in range(3):
        state = tiny_network.initial_state(template[0][i : i + 1], template[1][i : i + 1])
        alone = tiny_network.step(search[0][i : i + 1], search[1][i : i + 1], state)[0].corners
        assert torch.allclose(together.box[i], alone.box[0], atol=1e-5)
        assert torch.allclose(together.confidence[i], alone.confidence[0], atol=1e-4)


def test_a_wholly_padded_crop_stays_finite(tiny_network: STTrack) -> None:
    search, mask, state = inputs(tiny_network)
    output, after = tiny_network.step(search, torch.ones_like(mask), state)
    assert all(torch.isfinite(t.float()).all() for t in (*output.corners, *after))


def gaussian(cells: int, x: float, y: float, width: float) -> torch.Tensor:
    axis = torch.arange(cells).float()
    logits = -((axis[None, :] - x) ** 2 + (axis[:, None] - y) ** 2) / (2 * width**2)
    return torch.softmax(logits.flatten(), 0).view(1, cells, cells)


def confidence_of(probability: torch.Tensor) -> float:
    cells = probability.shape[-1]
    coordinates = torch.arange(cells).float() / cells
    x = (probability.sum(1) * coordinates).sum(1)
    y = (probability.sum(2) * coordinates).sum(1)
    return float(corner_confidence(probability, x, y, coordinates))


@settings(max_examples=30, deadline=None)
@given(st.floats(4, 11), st.floats(4, 11), st.floats(0.3, 2.5))
def test_confidence_falls_as_a_peak_spreads_or_splits(x: float, y: float, width: float) -> None:
    sharp, spread = gaussian(16, x, y, width), gaussian(16, x, y, width + 0.5)
    assert 0 < confidence_of(spread) < confidence_of(sharp) <= 1
    split = 0.5 * (gaussian(16, 2, 2, 0.5) + gaussian(16, 13, 13, 0.5))
    assert confidence_of(split) < 0.05
    flat = torch.full((1, 16, 16), 1 / 256)
    assert confidence_of(flat) < 0.1


def test_a_prior_moves_the_box_towards_itself_and_leaves_the_scores() -> None:
    torch.manual_seed(0)
    head = CornerHead(16, 32, 8, prior=True).eval()
    features = torch.randn(3, 16, 8, 8)
    with torch.no_grad():
        before = head(features)
        assert head.prior is not None
        head.prior[:, 6, 1] = 50.0
        after = head(features)
    assert torch.equal(before.score_top_left, after.score_top_left)
    torch.testing.assert_close(after.box, torch.tensor([[1 / 8, 6 / 8, 1 / 8, 6 / 8]]).expand(3, -1))
    # The scores speak for elsewhere, and the confidence says so.
    assert (after.confidence < before.confidence).all()


def test_a_prior_of_zero_is_none() -> None:
    torch.manual_seed(0)
    head = CornerHead(16, 32, 8, prior=True).eval()
    plain = CornerHead(16, 32, 8).eval()
    plain.load_state_dict({k: v for k, v in head.state_dict().items() if k != "prior"})
    features = torch.randn(2, 16, 8, 8)
    assert torch.equal(head(features).box, plain(features).box)
