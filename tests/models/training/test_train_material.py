"""What sttrack-train finds to learn from."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch
from published_sets import check_boxes, coco, got10k, lasot, trackingnet
from tiny import TINY

from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.models.training.clips.batch import ClipBatch, MixedSource, seeded
from sttrack_deploy.models.training.clips.real import published_tracks
from sttrack_deploy.models.training.clips.real.track_bank import IndexedTracks
from sttrack_deploy.models.training.clips.real.track_source import TrackSource
from sttrack_deploy.models.training.material import load_material
from sttrack_deploy.models.training.recipe import (
    AugmentationRecipe,
    DataRecipe,
    Recipe,
    SamplingRecipe,
    SetsRecipe,
)

SHARP = AugmentationRecipe("none")


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data sets of the machine's, and a cache of the test's own."""
    for name in (
        "DATA",
        "DATASETS",
        "LASOT",
        "GOT10K",
        "GOT10K_VAL",
        "TRACKINGNET",
        "TRACKINGNET_TRAIN",
        "COCO",
    ):
        monkeypatch.delenv(f"STTRACK_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("STTRACK_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def all_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "data"
    monkeypatch.setattr(published_tracks, "lasot_training_names", lambda: ["bear-1", "car-2", "cat-2"])
    for name in ("bear-1", "car-2", "cat-2"):
        lasot(root / "lasot", name)
    got10k(root / "got10k", (1, 2, 3))
    trackingnet(root / "trackingnet", 2, "a")
    trackingnet(root / "trackingnet", 2, "b")
    coco(root / "coco")
    return root


def recipe(mixture: dict[str, float], held_out: dict[str, float] | None = None, **options: object) -> Recipe:
    data = DataRecipe(
        frames=2, mixture=mixture, held_out=held_out or {}, augmentation=SHARP,
        sampling=SamplingRecipe("causal", 20), sets=SetsRecipe(trackingnet_parts=(2,)),
        **options,  # type: ignore[arg-type]
    )  # fmt: skip
    return Recipe(TINY, data)


def load(
    recipe: Recipe, out: Path, images: Path | None = None, videos: tuple[Path, ...] = (), **data: Path
) -> tuple[MixedSource, ClipBatch]:
    source, held_out = load_material(recipe, images, videos, out, "cpu", None, 8, data)
    assert isinstance(source, MixedSource)
    return source, held_out


def labels(source: MixedSource, number: int) -> set[str]:
    one = source.sources[number]
    assert isinstance(one, TrackSource)
    assert isinstance(one.bank, IndexedTracks)
    return {one.bank.label(i) for i in range(len(one.bank))}


PUBLISHED = {"lasot": 1.0, "got10k": 1.0, "trackingnet": 1.0, "coco": 1.0}


def test_the_published_mixture(all_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STTRACK_DATA", str(all_sets))
    source, held_out = load(recipe(PUBLISHED, {"got10k": 1}), tmp_path / "out")
    assert source.ratios == (0.25,) * 4
    # GOT-10k's own lists: 2 is in the one for validation; all of the others is trained on.
    assert labels(source, 1) == {"GOT-10k_Train_000001", "GOT-10k_Train_000003"}
    assert [len(labels(source, i)) for i in (0, 2, 3)] == [3, 2, 4]
    assert held_out.search.shape[:2] == (8, 2)
    assert check_boxes(held_out, 3.5) > 4
    clip = source.sample(8, 2, seeded(0))
    assert check_boxes(clip, 3.5) > 4
    assert len(list((tmp_path / "cache").iterdir())) == 4
    again, same = load(recipe(PUBLISHED, {"got10k": 1}), tmp_path / "other")
    for one, two in ((held_out, same), (clip, again.sample(8, 2, seeded(0)))):
        assert all(torch.equal(getattr(one, f.name), getattr(two, f.name)) for f in fields(ClipBatch))


def test_what_is_held_out_is_not_trained_on(all_sets: Path, tmp_path: Path) -> None:
    mixture = {"lasot": 1.0, "coco": 1.0, "trackingnet": 0.0}
    source, _ = load(recipe(mixture), tmp_path, lasot=all_sets / "lasot", coco=all_sets)
    assert [len(labels(source, i)) for i in (0, 1)] == [2, 3]


def test_own_material(image_folder: Path, video_folder: Path, tmp_path: Path) -> None:
    source, held_out = load(recipe({"images": 3, "videos": 1}), tmp_path, image_folder, (video_folder,))
    assert source.ratios == (0.75, 0.25)
    assert held_out.search.shape[:2] == (8, 2)
    # What was not given leaves its share to the others.
    source, _ = load(recipe({"images": 3, "videos": 1}), tmp_path, None, (video_folder,))
    assert source.ratios == (1.0,)


def test_where_sets_are_looked_for(all_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only = recipe({"trackingnet": 1}, {"trackingnet": 1})
    with pytest.raises(
        UserError, match=r"share for trackingnet, but .*--data trackingnet=DIR or set STTRACK_TRACK"
    ):
        load(only, tmp_path)
    with pytest.raises(UserError, match=r"where is it\? Say --data coco=DIR .*annotations"):
        load(recipe({"coco": 1}), tmp_path)
    with pytest.raises(UserError, match="not a folder; it must hold TRAIN_0"):
        load(only, tmp_path, trackingnet=tmp_path / "nothing")
    with pytest.raises(UsageError, match="--data knows lasot, got10k, trackingnet, coco, not 'imagenet'"):
        load(only, tmp_path, imagenet=all_sets)
    load(only, tmp_path, trackingnet=all_sets)
    monkeypatch.setenv("STTRACK_TRACKINGNET", str(all_sets / "trackingnet"))
    load(only, tmp_path)
    monkeypatch.delenv("STTRACK_TRACKINGNET")
    (tmp_path / "sttrack-datasets.toml").write_text('[datasets]\ndata = "data"\n')
    load(only, tmp_path)


def test_nothing_to_train_on(tmp_path: Path, video_folder: Path) -> None:
    with pytest.raises(UsageError, match="nothing to train on: give --images"):
        load(recipe({"images": 1, "videos": 1}), tmp_path)
    with pytest.raises(UsageError, match=r"nothing to validate with: .*\['images'\]"):
        load(recipe({"videos": 1}, {"images": 1}), tmp_path, None, (video_folder,))
