"""Agreement of runs and the gates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sttrack_deploy.errors import UserError
from sttrack_deploy.evaluation.sequence import Sequence
from sttrack_deploy.evaluation.sequence_run import SequenceRun
from sttrack_deploy.verification.agreement import GATES, agree, judge

FRAMES = 11


def truth() -> np.ndarray:
    return np.tile([10.0, 10.0, 40.0, 40.0], (FRAMES, 1))


def run(shift: float = 0.0, since: int = 1, name: str = "a") -> SequenceRun:
    """A track that is ``shift`` pixels off from frame ``since`` on."""
    boxes = truth()
    boxes[since:, 0] += shift
    return SequenceRun(name, boxes)


def agreement(candidate: SequenceRun):
    return agree([Sequence("a", Path("a"), truth())], [run()], [candidate])


def test_equal_runs_agree_and_pass_every_gate() -> None:
    same = agreement(run())
    assert same.mean_iou == same.least_iou == same.mean_iou_before_parting == 1.0
    assert same.parted == ()
    assert all(judge(same, gate).passed for gate in GATES.values())


def test_the_first_frame_is_not_counted_and_parting_is_found() -> None:
    off = agreement(run(20.0, since=4))
    (sequence,) = off.parted
    assert sequence.parted_at == 4
    assert off.least_iou == pytest.approx(20 / 60)
    assert off.mean_iou == pytest.approx((3 + 7 / 3) / 10)
    assert off.mean_iou_before_parting == 1.0


def test_frames_on_which_the_reference_is_lost_can_be_left_out() -> None:
    away = run(38.0, since=6)
    both = agree([Sequence("a", Path("a"), truth())], [away], [run(2.0, since=6)])
    assert both.mean_iou < 0.6
    assert both.mean_iou_on_target == 1.0
    lost = run(60.0)
    assert np.isnan(agree([Sequence("a", Path("a"), truth())], [lost], [lost]).mean_iou_on_target)


def test_nothing_is_left_before_a_parting_at_once() -> None:
    assert np.isnan(agreement(run(30.0)).mean_iou_before_parting)


@pytest.mark.parametrize(("precision", "passed"), [("fp32", False), ("fp16", False), ("int8", True)])
def test_a_small_shift_passes_the_gate_without_a_least_iou_only(precision: str, passed: bool) -> None:
    moved = agreement(run(0.5))
    assert 0.97 < moved.mean_iou < 0.995
    verdict = judge(moved, GATES[precision])
    assert verdict.passed is passed
    assert "mean IoU 0.97" in verdict.detail


def test_int8_may_gain_and_may_not_lose() -> None:
    sequence = Sequence("a", Path("a"), truth())
    worse, better = run(15.0), run(0.0)
    assert not judge(agree([sequence], [better], [worse]), GATES["int8"]).passed
    assert judge(agree([sequence], [worse], [better]), GATES["int8"]).passed
    assert not judge(agree([sequence], [worse], [better]), GATES["fp16"]).passed


def test_runs_that_do_not_belong_together() -> None:
    with pytest.raises(UserError, match="do not belong together"):
        agreement(run(name="b"))
    with pytest.raises(UserError, match="no sequence to compare"):
        agree([], [], [])
