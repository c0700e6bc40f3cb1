"""Clips cut from annotated sequences."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from published_sets import check_boxes, coco, got10k, paint, painted, trackingnet

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.training.clips.batch import ClipBatch, ClipGeometry, MixedSource, seeded
from sttrack_deploy.models.training.clips.real.published_tracks import got10k_tracks, trackingnet_tracks
from sttrack_deploy.models.training.clips.real.track_bank import IndexedTracks, UnreadableImageError
from sttrack_deploy.models.training.clips.real.track_source import TrackSource
from sttrack_deploy.models.training.clips.real.training_sets import coco_tracks
from sttrack_deploy.models.training.recipe import (
    AugmentationRecipe,
    DataRecipe,
    JitterRecipe,
    NegativesRecipe,
    SamplingRecipe,
)

GEOMETRY = ClipGeometry(64, 2.0, 160, 5.0, 16)
PLAIN = AugmentationRecipe("none")
HIDDEN = (9, 10, 11)


def recipe(
    order: str = "causal",
    rule: str = "published",
    augmentation: AugmentationRecipe = PLAIN,
    **options: object,
) -> DataRecipe:
    return DataRecipe(
        sampling=SamplingRecipe(order, 20),  # type: ignore[arg-type]
        jitter=JitterRecipe(rule),  # type: ignore[arg-type]
        augmentation=augmentation,
        **options,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> IndexedTracks:
    root = tmp_path_factory.mktemp("trackingnet")
    for part in (0, 1):
        trackingnet(root, part, f"v{part}")
    return trackingnet_tracks(root, (0, 1))


@pytest.fixture(scope="module")
def flagged(tmp_path_factory: pytest.TempPathFactory) -> IndexedTracks:
    root = tmp_path_factory.mktemp("got10k")
    got10k(root, (1, 3), hidden=HIDDEN)
    return got10k_tracks(root, "all")


@pytest.fixture(scope="module")
def stills(tmp_path_factory: pytest.TempPathFactory) -> IndexedTracks:
    root = tmp_path_factory.mktemp("coco")
    coco(root)
    return coco_tracks(root)


def equal(one: ClipBatch, two: ClipBatch) -> bool:
    return all(torch.equal(getattr(one, f.name), getattr(two, f.name)) for f in fields(ClipBatch))


@pytest.mark.parametrize("rule", ["published", "drift"])
@pytest.mark.parametrize("order", ["causal", "trident", "paced"])
@pytest.mark.parametrize("mirror_crops", [0.0, 0.5])
def test_boxes_are_where_the_target_is(
    videos: IndexedTracks, rule: str, order: str, mirror_crops: float
) -> None:
    source = TrackSource(
        videos, GEOMETRY, recipe(order, rule, AugmentationRecipe("none", mirror_crops=mirror_crops))
    )
    clip = source.sample(8, 3, seeded(3))
    assert clip.template.shape == (8, 64, 64, 3)
    assert clip.template_mask.shape == (8, 4, 4)
    assert clip.search.shape == (8, 3, 160, 160, 3)
    assert clip.search_mask.shape == (8, 3, 10, 10)
    # The runtime's crop drops the image's last row and column: one pixel of up to 160 / 60 of the crop.
    assert check_boxes(clip, 3.5) >= 15
    # Padding is black, and masked; so are cells at its edge.
    assert clip.search[:, :, ::16, ::16][clip.search_mask].float().mean() < 4
    for template in clip.template.numpy():
        found = painted(template)
        assert found is not None
        assert np.abs(found[0].reshape(2, 2).mean(0) - 32).max() < 6


def test_stills(stills: IndexedTracks) -> None:
    clip = TrackSource(stills, GEOMETRY, recipe()).sample(6, 4, seeded(0))
    assert check_boxes(clip, 3.5) >= 15
    assert len({tuple(box) for box in clip.box[0].tolist()}) == 4  # the crops differ


def test_crops_of_large_targets_are_cut_from_a_smaller_copy(tmp_path: Path) -> None:
    folder = tmp_path / "TRAIN_0"
    for frame in range(2):
        paint(folder / "frames" / "a" / f"{frame}.jpg", (100, 60, 400, 300), 80, (700, 500))
    (folder / "anno").mkdir()
    (folder / "anno" / "a.txt").write_text("100,60,400,300\n" * 2)
    tracks = trackingnet_tracks(tmp_path, (0,))
    small = ClipGeometry(32, 2.0, 64, 5.0, 16)
    clip = TrackSource(tracks, small, recipe("paced")).sample(12, 1, seeded(0))
    assert check_boxes(clip, 2.0) >= 8


def test_the_seed_alone_decides(videos: IndexedTracks) -> None:
    published = AugmentationRecipe("published", mirror_crops=0.5)
    for augmentation in (published, AugmentationRecipe("camera")):
        one = TrackSource(videos, GEOMETRY, recipe(augmentation=augmentation, workers=1))
        many = TrackSource(videos, GEOMETRY, recipe(augmentation=augmentation, workers=5))
        first = one.sample(7, 2, seeded(1, 2))
        assert equal(first, many.sample(7, 2, seeded(1, 2)))
        assert not equal(first, many.sample(7, 2, seeded(1, 3)))


def test_portions_do_not_depend_on_who_makes_them(videos: IndexedTracks, stills: IndexedTracks) -> None:
    def source() -> MixedSource:
        return MixedSource([TrackSource(bank, GEOMETRY, recipe()) for bank in (videos, stills)], [2, 1])

    alone, first, second = source(), source(), source()
    portions = [alone.sample(3, 2, seeded(5, 0, portion)) for portion in range(4)]
    shared = [(first, second)[portion % 2].sample(3, 2, seeded(5, 0, portion)) for portion in range(4)]
    assert all(equal(a, b) for a, b in zip(portions, shared, strict=True))


def test_published_gray_and_brightness(videos: IndexedTracks) -> None:
    def sample(**options: float) -> ClipBatch:
        augmentation = AugmentationRecipe("published", mirror=0.0, **options)
        return TrackSource(videos, GEOMETRY, recipe(augmentation=augmentation)).sample(24, 2, seeded(7))

    as_is = sample(gray=0.0, brightness=0.0)
    gray = sample(gray=1.0, brightness=0.0)
    assert (gray.search == gray.search[..., :1]).all()
    assert torch.equal(gray.box, as_is.box)
    bright = sample(gray=0.0, brightness=0.2)
    assert torch.equal(bright.search_mask, as_is.search_mask)
    gains = bright.search.float().mean((-1, -2, -3)) / as_is.search.float().mean((-1, -2, -3))
    assert gains.min() > 0.79
    assert gains.max() < 1.21
    assert gains.std() > 0.08
    assert (gains[:, 0] - gains[:, 1]).abs().max() > 0.1  # each crop apart


def test_hidden_frames_are_negatives(flagged: IndexedTracks) -> None:
    absent = recipe(negatives=NegativesRecipe(absent=1.0))
    clip = TrackSource(flagged, GEOMETRY, absent).sample(12, 3, seeded(0))
    assert (~clip.present).any(1).all()
    for i, j in (~clip.present).nonzero().tolist():
        assert painted(clip.search[i, j].numpy()) is None
    check_boxes(clip, 3.5)
    # Without the option they are never shown.
    clip = TrackSource(flagged, GEOMETRY, recipe()).sample(12, 3, seeded(0))
    assert clip.present.all()


@pytest.mark.parametrize("rule", ["published", "drift"])
def test_strangers_are_negatives(videos: IndexedTracks, stills: IndexedTracks, rule: str) -> None:
    for bank in (videos, stills):
        source = TrackSource(bank, GEOMETRY, recipe(rule=rule, negatives=NegativesRecipe(stranger=0.5)))
        clip = source.sample(30, 2, seeded(0))
        negative = (~clip.present).all(1)
        assert 6 < int(negative.sum()) < 24
        assert check_boxes(clip, 3.5) > 10
        for template in clip.template[negative].numpy():
            assert painted(template) is not None


def test_damaged_images_stop_the_run_or_are_passed_over(tmp_path: Path) -> None:
    trackingnet(tmp_path, 0, "good")
    trackingnet(tmp_path, 0, "bad")
    for frame in range(24):
        (tmp_path / "TRAIN_0" / "frames" / "bad" / f"{frame}.jpg").write_bytes(b"\xff\xd8 not a picture")
    tracks = trackingnet_tracks(tmp_path, (0,))
    with pytest.raises(UnreadableImageError, match=r"bad.\d+\.jpg: it is damaged"):
        TrackSource(tracks, GEOMETRY, recipe()).sample(16, 2, seeded(0))
    told: list[str] = []
    clips = []
    for workers in (1, 3):
        options = recipe(skip_unreadable=True, workers=workers)
        source = TrackSource(tracks, GEOMETRY, options, notice=told.append)
        clips.append(source.sample(16, 2, seeded(0)))
        assert source.unreadable >= 3
    assert equal(*clips)
    assert all("passed over, as 1" in line for line in told[:1])
    assert len(told) in (2, 3, 4)  # for the first and the tenth of each source
    only_bad = tracks.those([i for i in range(2) if "bad" in tracks.label(i)])
    with pytest.raises(UserError, match="100 draws gave no clip"):
        TrackSource(only_bad, GEOMETRY, options, notice=told.append).sample(1, 2, seeded(0))
