"""Agreement of runs and the gates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sttrack_deploy.errors import UserError
from sttrack_deploy.sequences.sequence import TrackRun, VideoSequence
from sttrack_deploy.verification.gates import GATES, Agreement, agree, judge

FRAMES = 11


def truth() -> np.ndarray:
    return np.tile([10.0, 10.0, 40.0, 40.0], (FRAMES, 1))


def run(shift: float = 0.0, since: int = 1, name: str = "a") -> TrackRun:
    """A track that is ``shift`` pixels off from frame ``since`` on."""
    boxes = truth()
    boxes[since:, 0] += shift
    return TrackRun(name, boxes)


def agreement(subject: TrackRun) -> Agreement:
    return agree([VideoSequence("a", Path("a"), truth())], [run()], [subject])


def test_equal_runs_agree_and_pass_every_gate() -> None:
    same = agreement(run())
    assert same.mean_iou == same.least_iou == same.mean_iou_before_divergence == 1.0
    assert same.diverged == ()
    assert all(judge(same, gate).passed for gate in GATES.values())


def test_the_first_frame_is_not_counted_and_divergence_is_found() -> None:
    off = agreement(run(20.0, since=4))
    (sequence,) = off.diverged
    assert sequence.diverged_at == 4
    assert off.least_iou == pytest.approx(20 / 60)
    assert off.mean_iou == pytest.approx((3 + 7 / 3) / 10)
    assert off.mean_iou_before_divergence == 1.0


def test_frames_on_which_the_reference_is_lost_can_be_left_out() -> None:
    away = run(38.0, since=6)
    both = agree([VideoSequence("a", Path("a"), truth())], [away], [run(2.0, since=6)])
    assert both.mean_iou < 0.6
    assert both.mean_iou_on_target == 1.0
    lost = run(60.0)
    assert np.isnan(agree([VideoSequence("a", Path("a"), truth())], [lost], [lost]).mean_iou_on_target)


def test_nothing_is_left_before_a_divergence_at_once() -> None:
    assert np.isnan(agreement(run(30.0)).mean_iou_before_divergence)


@pytest.mark.parametrize(("precision", "passed"), [("fp32", False), ("fp16", False), ("int8", True)])
def test_a_small_shift_passes_the_gate_without_a_least_iou_only(precision: str, passed: bool) -> None:
    moved = agreement(run(0.5))
    assert 0.97 < moved.mean_iou < 0.995
    verdict = judge(moved, GATES[precision])
    assert verdict.passed is passed
    assert "mean IoU 0.97" in verdict.detail


def test_int8_may_gain_and_may_not_lose() -> None:
    sequence = VideoSequence("a", Path("a"), truth())
    worse, better = run(15.0), run(0.0)
    assert not judge(agree([sequence], [better], [worse]), GATES["int8"]).passed
    assert judge(agree([sequence], [worse], [better]), GATES["int8"]).passed
    assert not judge(agree([sequence], [worse], [better]), GATES["fp16"]).passed


def many(subjects: list[TrackRun], references: list[TrackRun]) -> Agreement:
    sequences = [VideoSequence(run.name, Path(run.name), truth()) for run in references]
    return agree(sequences, references, subjects)


def test_a_coin_toss_passes_and_a_loss_that_comes_back_does_not() -> None:
    """Of twelve sequences one is followed by one of the two only; then five."""
    names = [f"s{number}" for number in range(12)]
    good = [run(0.0, name=name) for name in names]

    def with_lost(count: int) -> list[TrackRun]:
        return [run(60.0 if i < count else 0.0, since=3, name=name) for i, name in enumerate(names)]

    for precision in ("fp16", "int8"):
        tossed = many(with_lost(1), good)
        assert tossed.lost == pytest.approx(0.8 / 12)
        assert tossed.found == 0.0
        assert tossed.mean_iou < 0.95
        assert tossed.mean_iou_followed == 1.0
        assert judge(tossed, GATES[precision]).passed
        assert judge(many(good, with_lost(1)), GATES[precision]).passed
        verdict = judge(many(with_lost(5), good), GATES[precision])
        assert not verdict.passed
        assert "target lost on 33.3 % of frames, found on 0.0 %" in verdict.detail
    # The same share lost and found, on different sequences: two coin tosses.
    assert judge(many(with_lost(1), [*good[:11], run(60.0, since=3, name="s11")]), GATES["fp16"]).passed


def test_a_lost_digit_shows_where_both_follow() -> None:
    names = [f"s{number}" for number in range(12)]
    verdict = judge(
        many([run(0.3, name=name) for name in names], [run(name=name) for name in names]), GATES["fp16"]
    )
    assert not verdict.passed
    assert "mean IoU 0.98" in verdict.detail


def test_runs_that_do_not_belong_together() -> None:
    with pytest.raises(UserError, match="do not belong together"):
        agreement(run(name="b"))
    with pytest.raises(UserError, match="no sequence to compare"):
        agree([], [], [])
