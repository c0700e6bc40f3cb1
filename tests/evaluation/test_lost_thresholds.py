from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sttrack_deploy.bundle import TrackingPolicy
from sttrack_deploy.errors import UserError
from sttrack_deploy.evaluation.lost_thresholds import fit_lost, lost_flags
from sttrack_deploy.evaluation.protocols import DEFAULT_PROTOCOL
from sttrack_deploy.evaluation.scores import Report, score_run
from sttrack_deploy.sequences.sequence import TrackRun, VideoSequence

TRUTH = (50.0, 50.0, 40.0, 40.0)
OFF = (200.0, 200.0, 40.0, 40.0)
POLICY = TrackingPolicy(lost_below=0.25, found_above=0.35)
steady = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def report(*tracks: tuple[list[float], list[bool]]) -> Report:
    """Tracks of a confidence and whether the box is on the target, for each frame after the first."""
    scored = []
    for number, (confidences, on) in enumerate(tracks):
        frames = 1 + len(on)
        sequence = VideoSequence(f"s{number}", Path("none"), np.array([TRUTH] * frames))
        boxes = np.array([TRUTH, *(TRUTH if good else OFF for good in on)])
        confidence = np.array([1.0, *confidences])
        run = TrackRun(sequence.name, boxes, confidence, confidence < 0.25, np.ones(frames), float(frames))
        scored.append(score_run(run, sequence, (DEFAULT_PROTOCOL,)))
    return Report("x", "data", (DEFAULT_PROTOCOL,), tuple(scored), planned=len(scored))


@steady
@given(st.lists(st.floats(0, 1), max_size=40), st.floats(0, 1), st.floats(0, 1))
def test_flags_are_those_of_a_tracker(confidences: list[float], one: float, other: float) -> None:
    below, above = min(one, other), max(one, other)
    lost, expected = False, []
    for confidence in confidences:
        lost = confidence < (above if lost else below)
        expected.append(lost)
    assert lost_flags(np.array(confidences), below, above).tolist() == expected


def test_the_thresholds_separate_what_can_be_separated() -> None:
    on, off = [0.9] * 100, [0.6] * 20
    fit = fit_lost(report((on + off, [True] * 100 + [False] * 20)), POLICY, 0.02)
    assert 0.6 < fit.lost_below <= 0.9
    assert fit.found_above == pytest.approx(fit.lost_below + 0.1)
    assert (fit.then.off_target_rate, fit.then.false_alarm_rate) == (1.0, 0.0)
    assert (fit.now.off_target_rate, fit.now.false_alarm_rate) == (0.0, 0.0)


@steady
@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=20, max_size=80),
    st.sampled_from([0.05, 0.1, 0.3]),
)
def test_false_alarms_stay_within_the_rate_and_higher_thresholds_do_not(
    frames: list[tuple[float, bool]], rate: float
) -> None:
    one = report(([c for c, _ in frames], [good for _, good in frames]))
    on = sum(good for _, good in frames)
    if on * rate < 1:
        with pytest.raises(UserError, match="at least"):
            fit_lost(one, POLICY, rate)
        return
    fit = fit_lost(one, POLICY, rate)
    assert 0 <= fit.lost_below <= fit.found_above <= 1
    assert fit.then.false_alarm_rate <= rate
    if fit.lost_below < 1:
        confidence = np.array([c for c, _ in frames])
        good = np.array([g for _, g in frames])
        higher = lost_flags(confidence, fit.lost_below + 0.001, min(1.0, fit.found_above + 0.001))
        assert (higher & good).sum() / on > rate


def test_each_sequence_starts_found() -> None:
    # Lost at the end of one track, at a confidence between the thresholds on the next: not lost there.
    tracks = report(([0.9] * 30 + [0.1], [True] * 30 + [False]), ([0.3] * 30, [True] * 30))
    assert fit_lost(tracks, POLICY, 0.1).now.false_alarm_rate == 0.0


def test_without_confidences() -> None:
    sequence = VideoSequence("s", Path("none"), np.array([TRUTH] * 3))
    run = TrackRun("s", np.array([TRUTH] * 3), None, None, np.ones(3), 3.0)
    scored = score_run(run, sequence, (DEFAULT_PROTOCOL,))
    with pytest.raises(UserError, match="no confidences"):
        fit_lost(Report("x", "data", (DEFAULT_PROTOCOL,), (scored,), planned=1), POLICY, 0.01)
