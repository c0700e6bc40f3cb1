from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.teacher_labels import Seed, label_track, read_seeds
from benchmarks.training_tracks import held_out, read_tracks
from sttrack_deploy.errors import UserError
from sttrack_deploy.geometry import Box, iou
from sttrack_deploy.runtime.tracker import TrackResult

FRAMES = 40
Path_ = Callable[[int], Box]


def truth(index: int) -> Box:
    return (50.0 + 2 * index, 60.0, 40.0, 40.0)


def other(index: int) -> Box:
    """A look-alike that the target passes on frame 20."""
    return (130.0 - 2 * index, 60.0, 40.0, 40.0)


class Teacher:
    """Follows whatever lies nearest, of the target and a look-alike; ``jumps`` where it is told to change over."""

    def __init__(self, jumps: int | None = None, gone: range = range(0)) -> None:
        self._jumps, self._gone = jumps, gone
        self._path: Path_ = truth

    def init(self, frame: np.ndarray, box: Box) -> None:
        index = int(frame[0, 0, 0])
        self._path = max((truth, other), key=lambda path: float(iou(path(index), box)))

    def update(self, frame: np.ndarray) -> TrackResult:
        index = int(frame[0, 0, 0])
        if index == self._jumps and self._path is truth:
            self._path = other
        box = (5.0, 5.0, 20.0, 20.0) if index in self._gone else self._path(index)
        return TrackResult(box, 0.9, False)


def frames() -> list[np.ndarray]:
    images = [np.zeros((200, 300, 3), np.uint8) for _ in range(FRAMES)]
    for index, image in enumerate(images):
        image[0, 0, 0] = index
    return images


def test_what_both_find_both_ways_is_the_label() -> None:
    labels = label_track(frames(), 12, truth(12), [Teacher(), Teacher()])
    np.testing.assert_allclose(labels, [truth(i) for i in range(FRAMES)])


def test_where_one_is_elsewhere_nothing_is_known() -> None:
    labels = label_track(frames(), 12, truth(12), [Teacher(), Teacher(gone=range(20, 24))])
    unknown = np.isnan(labels[:, 0])
    assert unknown[20:24].all()
    assert not unknown[:20].any()
    assert not unknown[24:].any()


def test_after_a_long_disagreement_the_target_is_given_up() -> None:
    labels = label_track(frames(), 5, truth(5), [Teacher(), Teacher(gone=range(20, 32))])
    assert np.isfinite(labels[:20]).all()
    assert np.isnan(labels[20:]).all()


def test_when_both_change_over_the_way_back_tells() -> None:
    # Both go over to the look-alike where the paths cross, so they agree to the end; but the way back from there
    # follows the look-alike to its own beginning.
    labels = label_track(frames(), 2, truth(2), [Teacher(jumps=20), Teacher(jumps=20)])
    known = np.isfinite(labels[:, 0])
    wrong = np.array([iou(labels[i], truth(i)) < 0.5 for i in range(FRAMES)]) & known
    assert not wrong.any()
    assert known[:15].all()


def test_seeds_of_a_table_and_of_texts(tmp_path: Path) -> None:
    table = tmp_path / "seeds.csv"
    table.write_text("a.mp4,3,1,2,3,4\nb,0,5,6,7,8\n")
    assert read_seeds(table) == [Seed("a", 3, (1, 2, 3, 4)), Seed("b", 0, (5, 6, 7, 8))]
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "c__track2.txt").write_text("nan,nan,nan,nan\n1,1,5,5\n2,2,5,5\n3,3,5,5\n")
    assert read_seeds(texts) == [Seed("c", 2, (2, 2, 5, 5))]


@pytest.mark.parametrize("line", ["a,1,2,3", "a,x,1,2,3,4", "a,-1,1,2,3,4", "a,0,1,2,0,4", "a,0,nan,2,3,4"])
def test_bad_seeds(tmp_path: Path, line: str) -> None:
    table = tmp_path / "seeds.csv"
    table.write_text(line + "\n")
    with pytest.raises(UserError, match="line 1"):
        read_seeds(table)


def test_tracks_begin_where_they_are_known_and_are_held_out_by_repository(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    lines = ["nan,nan,nan,nan"] * 2 + ["1,2,30,40"] * 12 + ["nan,nan,nan,nan"]
    (tmp_path / "a__track1.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "MANIFEST.json").write_text('{"clips": [{"video": "a.mp4", "repository": "some/where"}]}')
    (track,) = read_tracks([tmp_path])
    assert (track.first, len(track.truth), track.repository) == (2, 12, "some/where")
    names = [f"user/project{i}" for i in range(400)]
    few, many = ({n for n in names if held_out(n, share)} for share in (0.2, 0.4))
    assert few < many
    assert 40 < len(few) < 120
