"""Tracking a video in one call."""

from __future__ import annotations

from pathlib import Path

import pytest
from blobs import BlobEngine, truth, write_bundle, write_images

import sttrack_deploy
from sttrack_deploy import track
from sttrack_deploy.errors import UsageError
from sttrack_deploy.geometry import iou
from sttrack_deploy.runtime import multi_tracker


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(multi_tracker, "load_engine", lambda *_: BlobEngine())
    return write_bundle(tmp_path / "bundle")


def test_frames_come_one_by_one_with_their_boxes(bundle: Path, tmp_path: Path) -> None:
    source = write_images(tmp_path / "clip", 6)
    frames = track(source, truth(0), bundle=bundle)
    first = next(frames)
    assert (first.index, first.results[0].box, first.results[0].confidence) == (0, truth(0), 1.0)
    rest = list(frames)
    assert [frame.index for frame in rest] == [1, 2, 3, 4, 5]
    assert all(iou(frame.results[0].box, truth(frame.index)) > 0.5 for frame in rest)
    assert rest[0].image.shape[2] == 3


def test_several_targets_and_a_part_of_the_source(bundle: Path, tmp_path: Path) -> None:
    source = write_images(tmp_path / "clip", 6)
    frames = list(track(source, [truth(1), truth(1)], bundle=bundle, start=1, end=4))
    assert [(frame.index, len(frame.results)) for frame in frames] == [(1, 2), (2, 2), (3, 2)]


@pytest.mark.parametrize("boxes", [(), (1, 2, 3), [(1, 2, 3, 4), (1, 2)]])
def test_wrong_boxes_are_value_errors_at_once(bundle: Path, boxes: object) -> None:
    with pytest.raises(ValueError, match=r"boxes are \(x, y, w, h\)") as caught:
        track("nowhere.mp4", boxes, bundle=bundle)  # type: ignore[arg-type]
    assert isinstance(caught.value, UsageError)


def test_every_public_name_is_there() -> None:
    assert all(getattr(sttrack_deploy, name) is not None for name in sttrack_deploy.__all__)
    assert set(sttrack_deploy.__all__) <= set(dir(sttrack_deploy))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sttrack_deploy.nothing
