# Stand-ins take arguments that they do not need.
from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import pytest
from moving_square import RedTracker, truth_of, write_bundle, write_sequence
from progress_log import ProgressLog

from sttrack_deploy.evaluation.runner import run_sequence, run_sequences
from sttrack_deploy.geometry import Box
from sttrack_deploy.runtime.tracker import TrackResult
from sttrack_deploy.sequences.datasets.folder import read_folder
from sttrack_deploy.sequences.sequence import SequenceFailure, TrackRun, VideoSequence


class StandingTracker:
    """Never moves; takes a known time of no time."""

    def __init__(self) -> None:
        self.started = 0

    def init(self, frame: npt.NDArray[np.uint8], box: Box) -> None:
        self.box, self.started = box, self.started + 1

    def update(self, frame: npt.NDArray[np.uint8]) -> TrackResult:
        return TrackResult(self.box, 0.25, True)


@pytest.fixture
def sequences(tmp_path: Path) -> list[VideoSequence]:
    for name, frames in (("a", 5), ("b", 9), ("c", 7)):
        write_sequence(tmp_path / "data", name, frames)
    return read_folder(tmp_path / "data")


def test_starts_on_the_truth_and_records_every_frame(sequences: list[VideoSequence]) -> None:
    log = ProgressLog()
    run = run_sequence(StandingTracker(), sequences[0], log)
    assert log.steps == [1] * 5
    np.testing.assert_array_equal(run.boxes, np.repeat(truth_of(5)[:1], 5, axis=0))
    assert run.confidences is not None
    assert run.lost is not None
    assert run.times is not None
    assert run.confidences.tolist() == [1, 0.25, 0.25, 0.25, 0.25]
    assert run.lost.tolist() == [False, True, True, True, True]
    assert np.all(run.times > 0)
    assert run.wall >= run.times.sum()


def test_fps_leaves_out_init_and_end_to_end_does_not() -> None:
    times = np.array([5.0, 0.1, 0.2, 0.1])
    run = TrackRun("a", np.zeros((4, 4)), np.ones(4), np.zeros(4, bool), times, wall=8.0)
    assert run.fps == pytest.approx(3 / 0.4)
    assert run.fps_end_to_end == pytest.approx(0.5)


def test_a_single_frame_has_no_fps() -> None:
    run = TrackRun("a", np.zeros((1, 4)), np.ones(1), np.zeros(1, bool), np.ones(1), wall=8.0)
    assert np.isnan(run.fps)


def test_one_tracker_serves_all_sequences_in_order(sequences: list[VideoSequence]) -> None:
    tracker = StandingTracker()
    runs = list(run_sequences(lambda: tracker, sequences))
    assert [run.name for run in runs] == ["a", "b", "c"]
    assert tracker.started == 3


class Fragile(StandingTracker):
    def update(self, frame: npt.NDArray[np.uint8]) -> TrackResult:
        if self.started == 2:
            raise RuntimeError("driver\nfell over")
        return super().update(frame)


def test_a_failure_is_one_line_and_the_run_goes_on(sequences: list[VideoSequence]) -> None:
    log = ProgressLog()
    runs = list(run_sequences(Fragile, sequences, progress=log))
    assert [run.name for run in runs] == ["a", "b", "c"]
    assert runs[1] == SequenceFailure("b", "RuntimeError: driver fell over")
    assert sum(log.steps) == 21  # the bar reaches its end all the same


def tracked(run: TrackRun | SequenceFailure) -> TrackRun:
    assert isinstance(run, TrackRun), run
    return run


def test_workers_give_the_same_boxes(sequences: list[VideoSequence], tmp_path: Path) -> None:
    make = RedTracker(write_bundle(tmp_path / "bundle"))
    alone = {run.name: tracked(run) for run in run_sequences(make, sequences)}
    log = ProgressLog()
    together = {run.name: tracked(run) for run in run_sequences(make, sequences, workers=2, progress=log)}
    assert together.keys() == alone.keys()
    for name, run in alone.items():
        np.testing.assert_array_equal(run.boxes, together[name].boxes)
        assert run.confidences is not None
        np.testing.assert_array_equal(run.confidences, together[name].confidences)
    assert sum(log.steps) == 21


@dataclass(frozen=True)
class Hopeless:
    def __call__(self) -> NoReturn:
        raise OSError("no such device")


def test_a_worker_that_cannot_make_its_tracker_says_why(sequences: list[VideoSequence]) -> None:
    with pytest.raises(OSError, match="no such device"):
        list(run_sequences(Hopeless(), sequences, workers=2))


@dataclass(frozen=True)
class Doomed:
    """Its process dies as a killed one does."""

    def __call__(self) -> NoReturn:
        os._exit(9)


def test_what_killed_workers_had_fails_by_name(sequences: list[VideoSequence]) -> None:
    runs = list(run_sequences(Doomed(), sequences, workers=2))
    assert {run.name for run in runs} == {"a", "b", "c"}
    failures = [run for run in runs if isinstance(run, SequenceFailure)]
    assert len(failures) == 3
    assert all("a worker process was killed" in run.error for run in failures)
