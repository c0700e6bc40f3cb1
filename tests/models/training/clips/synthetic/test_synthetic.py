"""Clips made from photographs: shapes, seeds, and above all that the boxes are true."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from sttrack_deploy.models.training.clips.augmentation import Degradation
from sttrack_deploy.models.training.clips.batch import ClipBatch, ClipGeometry
from sttrack_deploy.models.training.clips.synthetic import scenes, source
from sttrack_deploy.models.training.clips.synthetic.image_bank import ImageBank
from sttrack_deploy.models.training.clips.synthetic.source import SyntheticSource
from sttrack_deploy.models.training.clips.synthetic.sprites import KIND_MASK


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Two cores shared with other work: many small operations wait long for a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def draw(source: SyntheticSource, batch: int, frames: int, seed: int) -> ClipBatch:
    return source.sample(batch, frames, torch.Generator().manual_seed(seed))


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Full resolution, nothing but camera and target."""
    monkeypatch.setattr(source, "FULL_SHARE", 1.0)
    monkeypatch.setattr(scenes, "DISTRACTED", 0.0)
    monkeypatch.setattr(scenes, "OCCLUDED", 0.0)
    monkeypatch.setattr(scenes, "REMOVED", 0.0)
    monkeypatch.setattr(Degradation, "apply", lambda _self, canvas, _frames: canvas)
    return monkeypatch


def magenta_only(source: SyntheticSource) -> None:
    """All targets are the magenta objects."""
    chances = (source.bank.kind == KIND_MASK).double()
    assert chances.sum() > 3
    source.sampler.in_place = source.sampler.pasted = (chances / chances.sum()).cumsum(0)


def chroma(pixels: Tensor) -> Tensor:
    values = pixels.float()
    return values.amax(-1) - values.amin(-1)


def extent(strength: Tensor) -> tuple[float, float, float, float]:
    """Where ``(size, size)`` is above half of its maximum, with pixels 1 wide: x1 y1 x2 y2."""
    ys, xs = torch.nonzero(strength > strength.max() / 2).unbind(-1)
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


@pytest.mark.parametrize(("size", "factor", "frames"), [(192, 4.0, 3), (128, 5.0, 1)])
def test_shapes_and_ranges(bank: ImageBank, size: int, factor: float, frames: int) -> None:
    source = SyntheticSource(bank, ClipGeometry(64, 2.0, size, factor, 16))
    clip = draw(source, 5, frames, 0)
    assert clip.template.shape == (5, 64, 64, 3)
    assert clip.template_mask.shape == (5, 4, 4)
    assert clip.search.shape == (5, frames, size, size, 3)
    assert clip.search_mask.shape == (5, frames, size // 16, size // 16)
    assert clip.box.shape == (5, frames, 4)
    assert clip.present.shape == (5, frames)
    kinds = [getattr(clip, f.name).dtype for f in fields(clip)]
    assert kinds == [torch.uint8, torch.bool, torch.uint8, torch.bool, torch.float32, torch.bool]
    assert torch.isfinite(clip.box).all()


def test_same_seed_same_clips(bank: ImageBank) -> None:
    source = SyntheticSource(bank)
    first, second, other = draw(source, 4, 2, 7), draw(source, 4, 2, 7), draw(source, 4, 2, 8)
    for f in fields(ClipBatch):
        assert torch.equal(getattr(first, f.name), getattr(second, f.name)), f.name
    assert not torch.equal(first.search, other.search)


@pytest.mark.parametrize("in_place", [0.0, 1.0])
def test_boxes_are_where_the_target_is(bank: ImageBank, clean: pytest.MonkeyPatch, in_place: float) -> None:
    clean.setattr(scenes, "IN_PLACE", in_place)
    source = SyntheticSource(bank)
    magenta_only(source)
    # The photographs that show magenta themselves may not serve as backgrounds of pasted targets.
    if not in_place:
        gray = bank.images.float().amax(1) - bank.images.float().amin(1)
        plain = (gray.amax((1, 2)) < 20).nonzero()[:, 0]
        pictures = bank.images.clone()
        pictures[:] = bank.images[plain[torch.arange(len(pictures)) % len(plain)]]
        source.bank = ImageBank(
            **{f.name: getattr(bank, f.name) for f in fields(bank) if f.name != "images"}, images=pictures
        )
    seen = 0
    worst = []
    for seed in range(4):
        clip = draw(source, 16, 3, seed)
        for i, j in clip.present.nonzero().tolist():
            box = clip.box[i, j] * 192
            if box.min() < 3 or box.max() > 189:
                continue
            x1, y1, x2, y2 = (round(float(v)) for v in box)
            strength = chroma(clip.search[i, j])
            if in_place:  # elsewhere the mirrored photograph shows the object again
                outside = torch.ones_like(strength, dtype=torch.bool)
                outside[max(0, y1 - 4) : y2 + 4, max(0, x1 - 4) : x2 + 4] = False
                strength = strength.masked_fill(outside, 0)
            found = torch.tensor(extent(strength))
            worst.append(float((found - box).abs().max()))
            seen += 1
    assert seen > 80
    errors = torch.tensor(worst)
    assert errors.quantile(0.98) < 1.5, errors.sort().values[-10:]
    assert errors.max() < 2.5


def test_masked_cells_are_black(bank: ImageBank) -> None:
    clip = draw(SyntheticSource(bank), 24, 3, 3)
    corners = clip.search[:, :, ::16, ::16]
    assert clip.search_mask.any()
    assert (corners[clip.search_mask] == 0).all()
    # ... and hardly any other cell is.
    assert (corners[~clip.search_mask] == 0).all(-1).float().mean() < 0.1
    assert (clip.template[:, ::16, ::16][clip.template_mask] == 0).all()


def test_absent_means_hidden_or_elsewhere(bank: ImageBank, clean: pytest.MonkeyPatch) -> None:
    clean.setattr(scenes, "IN_PLACE", 0.0)
    clean.setattr(scenes, "REMOVED", 0.6)
    source = SyntheticSource(bank)
    magenta_only(source)
    gray = bank.images.float().amax(1) - bank.images.float().amin(1)
    plain = (gray.amax((1, 2)) < 20).nonzero()[:, 0]
    pictures = bank.images[plain[torch.arange(len(bank.images)) % len(plain)]]
    source.bank = ImageBank(
        **{f.name: getattr(bank, f.name) for f in fields(bank) if f.name != "images"}, images=pictures
    )
    clip = draw(source, 24, 3, 5)
    share = (chroma(clip.search) > 60).float().mean((-2, -1))
    absent = ~clip.present
    assert 0.4 < absent.float().mean() < 0.85
    # An absent target shows nothing, or (cut elsewhere, leaving the frame) a small part of itself.
    assert (share[absent] < 0.002).float().mean() > 0.9
    assert (share[clip.present] > 0.01).all()


def test_occluders_hide_and_presence_says_so(bank: ImageBank, clean: pytest.MonkeyPatch) -> None:
    clean.setattr(scenes, "OCCLUDED", 1.0)
    hidden = 1 - draw(SyntheticSource(bank), 48, 3, 1).present.float().mean()
    clean.setattr(scenes, "OCCLUDED", 0.0)
    free = 1 - draw(SyntheticSource(bank), 48, 3, 1).present.float().mean()
    assert hidden > free + 0.05


def test_statistics(bank: ImageBank) -> None:
    clip = draw(SyntheticSource(bank), 64, 3, 11)
    assert 0.75 < clip.present.float().mean() < 0.97
    box = clip.box[clip.present]
    middle = (box[:, :2] + box[:, 2:]) / 2
    assert ((middle > 0) & (middle < 1)).all()
    size = (box[:, 2:] - box[:, :2]).prod(-1).sqrt()
    assert 0.2 < size.median() < 0.3
    assert not clip.template_mask.all((-2, -1)).any()
