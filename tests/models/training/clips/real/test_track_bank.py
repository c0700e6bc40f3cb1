"""The annotations of a data set in one mapped file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_sets import trackingnet

from sttrack_deploy.models.training.clips.real import published_tracks
from sttrack_deploy.models.training.clips.real.published_tracks import trackingnet_tracks
from sttrack_deploy.models.training.clips.real.track_bank import TrackIndex, cached_index, make_index


def index_of(*lengths: int) -> TrackIndex:
    rng = np.random.default_rng(0)
    return make_index(
        (
            (f"s{i}", f"folder/ü{i}", rng.random((n, 4)).astype(np.float32), rng.integers(0, 3, n, np.uint8))
            for i, n in enumerate(lengths)
        ),
        {},
    )


def never() -> TrackIndex:
    raise AssertionError("built although it was there")


@pytest.mark.parametrize("lengths", [(3, 1, 7), (), (5,)])
def test_what_is_written_is_read(tmp_path: Path, lengths: tuple[int, ...]) -> None:
    index = index_of(*lengths)
    cached_index(tmp_path / "a" / "i", "key", lambda: index)
    again = cached_index(tmp_path / "a" / "i", "key", never)
    assert len(again) == len(lengths)
    for name in ("names", "labels", "starts", "boxes", "states"):
        assert np.array_equal(getattr(again, name), getattr(index, name))
    assert [again.label(i) for i in range(len(again))] == [f"folder/ü{i}" for i in range(len(lengths))]
    for i in range(len(lengths)):
        assert again.count(1)[i] == (index.states[index.rows(i)] == 1).sum()


def test_another_key_or_half_a_file_is_built_anew(tmp_path: Path) -> None:
    cache = tmp_path / "i"
    cached_index(cache, "key", lambda: index_of(3))
    assert len(cached_index(cache, "other", lambda: index_of(3, 4))) == 2
    cache.write_bytes(cache.read_bytes()[:-100])
    assert len(cached_index(cache, "other", lambda: index_of(1, 1, 1))) == 3
    cache.write_bytes(b"something else")
    assert len(cached_index(cache, "other", lambda: index_of(1))) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["i"]


def test_a_folder_that_cannot_be_written_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert len(cached_index(tmp_path / "file" / "i", "key", lambda: index_of(2, 2))) == 2


def test_a_data_set_is_indexed_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, cache = tmp_path / "set", tmp_path / "cache"
    trackingnet(root, 0, "a")
    builds: list[int] = []
    real = published_tracks._build

    def build(*args: Any) -> TrackIndex:
        builds.append(1)
        return real(*args)

    monkeypatch.setattr(published_tracks, "_build", build)

    def count() -> tuple[int, int]:
        tracks = trackingnet_tracks(root, (0,), cache=cache, partial=True, notice=lambda _: None)
        return len(builds), len(tracks)

    assert [count(), count()] == [(1, 1)] * 2
    trackingnet(root, 0, "b")
    assert [count(), count()] == [(2, 2)] * 2
    text = root / "TRAIN_0" / "anno" / "a.txt"
    os.utime(text, ns=(1, 1))
    assert count() == (3, 2)
    # Images that were missing are looked for again: no annotation changes when they come.
    last = root / "TRAIN_0" / "frames" / "b" / "23.jpg"
    data = last.read_bytes()
    last.unlink()
    os.utime(text, ns=(2, 2))
    assert [count(), count()] == [(4, 1)] * 2
    last.write_bytes(data)
    assert [count(), count()] == [(5, 2)] * 2
