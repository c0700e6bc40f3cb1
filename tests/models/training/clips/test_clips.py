"""Batches of clips and mixtures of sources."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.training.clips.batch import ClipBatch, MixedSource, concatenate, seeded


class Constant:
    """A source whose pixels all have one value."""

    def __init__(self, value: int) -> None:
        self.value = value

    def sample(self, batch: int, frames: int, generator: torch.Generator) -> ClipBatch:
        torch.rand(1, generator=generator)
        return ClipBatch(
            torch.full((batch, 32, 32, 3), self.value, dtype=torch.uint8),
            torch.zeros(batch, 2, 2, dtype=torch.bool),
            torch.full((batch, frames, 64, 64, 3), self.value, dtype=torch.uint8),
            torch.zeros(batch, frames, 4, 4, dtype=torch.bool),
            torch.zeros(batch, frames, 4),
            torch.ones(batch, frames, dtype=torch.bool),
        )


def test_mixture_keeps_its_ratios_and_its_seed() -> None:
    source = MixedSource([Constant(1), Constant(2), Constant(3)], [6, 3, 1])
    generator = torch.Generator().manual_seed(0)
    values = torch.cat([source.sample(7, 2, generator).template[:, 0, 0, 0] for _ in range(60)])
    shares = torch.bincount(values.long(), minlength=4)[1:] / len(values)
    assert torch.allclose(shares, torch.tensor([0.6, 0.3, 0.1]), atol=0.03)
    again = MixedSource([Constant(1), Constant(2), Constant(3)], [6, 3, 1])
    first = again.sample(7, 2, torch.Generator().manual_seed(0)).template
    assert torch.equal(first[:, 0, 0, 0], values[:7])


@given(
    batch=st.integers(1, 9), ratios=st.lists(st.floats(0, 5), min_size=2, max_size=4), seed=st.integers(0, 99)
)
def test_mixture_gives_whole_batches(batch: int, ratios: list[float], seed: int) -> None:
    ratios = [*ratios[:-1], ratios[-1] + 0.5]
    source = MixedSource([Constant(i) for i in range(len(ratios))], ratios)
    clip = source.sample(batch, 1, torch.Generator().manual_seed(seed))
    assert clip.search.shape == (batch, 1, 64, 64, 3)
    used = set(clip.template[:, 0, 0, 0].tolist())
    assert all(ratios[i] > 0 for i in used)


@pytest.mark.parametrize(
    ("count", "ratios", "message"),
    [(0, [], "one ratio for each source"), (2, [1.0], "2 sources and 1"), (2, [0.0, 0.0], "not all 0"),
     (2, [-1.0, 2.0], "0 or more")],
)  # fmt: skip
def test_mixture_refuses_nonsense(count: int, ratios: list[float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MixedSource([Constant(1)] * count, ratios)


def test_select_and_concatenate() -> None:
    generator = torch.Generator()
    joined = concatenate([Constant(1).sample(2, 1, generator), Constant(5).sample(1, 1, generator)])
    assert joined.select(torch.tensor([2, 0])).template[:, 0, 0, 0].tolist() == [5, 1]
    assert joined.to("cpu").box.shape == (3, 1, 4)


def test_a_generator_is_its_numbers() -> None:
    first = torch.rand(3, generator=seeded(1, 2, 3))
    assert torch.equal(first, torch.rand(3, generator=seeded(1, 2, 3)))
    others = [
        torch.rand(3, generator=seeded(*numbers)) for numbers in ((1, 2), (1, 2, 4), (12, 3), (2**63, -1))
    ]
    assert not any(torch.equal(first, other) for other in others)
