"""Choosing when a tracker says LOST, by the rate of false alarms that is acceptable."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import MANIFEST, Bundle, TrackingPolicy
from sttrack_deploy.errors import UserError
from sttrack_deploy.evaluation.confidence import BAD_IOU, GOOD_IOU, LostFlagsScore, lost_flags_score
from sttrack_deploy.evaluation.scores import Report
from sttrack_deploy.files import atomic_path

__all__ = ["LostFit", "describe", "fit_lost", "lost_flags", "write_thresholds"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

STEPS = 1000
"""Thresholds are chosen to one part of this; finer ones would be chance."""


@dataclass(frozen=True, slots=True)
class LostFit:
    """Thresholds, and what they do on the frames that they were chosen on.

    Attributes:
        rate: of false alarms that was asked for at most, 0 to 1.
        now: with the thresholds that the confidences were measured with.
        then: with the new ones.
    """

    rate: float
    lost_below: float
    found_above: float
    now: LostFlagsScore
    then: LostFlagsScore


def lost_flags(confidence: FloatArray, lost_below: float, found_above: float) -> BoolArray:
    """Where a tracker with these thresholds is lost.

    Args:
        confidence: of one sequence's tracked frames in order ``(N,)``.
        lost_below, found_above: as in :class:`TrackingPolicy`; ``lost_below <= found_above``.

    Returns:
        bool ``(N,)``.
    """
    falls, rises = ~(confidence >= lost_below), confidence >= found_above
    decided = np.where(falls | rises, np.arange(len(confidence)), -1)
    last = np.maximum.accumulate(decided)
    return np.asarray((last >= 0) & falls[np.maximum(last, 0)], np.bool_)


def fit_lost(report: Report, policy: TrackingPolicy, rate: float) -> LostFit:
    """The highest thresholds whose false alarms stay within a rate: they find the most frames off the target.

    A frame on the target (IoU > 0.5) that is LOST is a false alarm. The distance of the two thresholds is kept.
    The confidences are taken as they were measured. They stay so where the box does not depend on the thresholds: see
    :func:`write_thresholds`.

    Args:
        report: of one tracker on annotated sequences.
        policy: that it ran with.
        rate: of false alarms, above 0 and below 1.

    Raises:
        UserError: no confidences, or too few frames on the target to tell such a rate.
    """
    runs = [
        (s.run.confidences[1:], s.overlap[1:], s.present[1:])
        for s in report.sequences
        if s.run.confidences is not None and s.frames > 1
    ]
    if not runs:
        raise UserError("LOST cannot be fitted: these results have no confidences")
    overlap, present = (np.concatenate([run[i] for run in runs]) for i in (1, 2))
    on_target = int((overlap > GOOD_IOU).sum())
    if on_target * rate < 1:
        raise UserError(
            f"LOST cannot be fitted to {rate:.3%} false alarms on {on_target} frames on the target (IoU > {GOOD_IOU}): "
            f"give at least {int(np.ceil(1 / rate)):,} of them"
        )
    gap = policy.found_above - policy.lost_below

    def score(lost_below: float, found_above: float) -> LostFlagsScore:
        flags = np.concatenate([lost_flags(run[0], lost_below, found_above) for run in runs])
        return lost_flags_score(flags, overlap, present)

    # More frames are lost with every higher pair of thresholds, so the best is found by halving.
    low, high = 0, STEPS
    while low < high:
        middle = (low + high + 1) // 2
        if score(middle / STEPS, _above(middle, gap)).false_alarm_rate <= rate:
            low = middle
        else:
            high = middle - 1
    below, above = low / STEPS, _above(low, gap)
    return LostFit(rate, below, above, score(policy.lost_below, policy.found_above), score(below, above))


def describe(fit: LostFit) -> str:
    """The fit in a line for people."""

    def share(flagged: int, frames: int) -> str:
        return f"{flagged / frames:.1%} of {frames}" if frames else "none"

    was, will = fit.now, fit.then
    return (
        f"for at most {fit.rate:.2%} false alarms: lost_below {fit.lost_below:g}, found_above {fit.found_above:g}; "
        f"LOST then on {share(will.off_target_flagged, will.off_target)} frames off the target (IoU < {BAD_IOU}), "
        f"before {share(was.off_target_flagged, was.off_target)}; false alarms "
        f"{share(will.on_target_flagged, will.on_target)}, before {share(was.on_target_flagged, was.on_target)}"
    )


def write_thresholds(bundle: Bundle, fit: LostFit) -> Path:
    """Put the thresholds into a bundle's manifest.

    Boxes stay as they are: a policy that recovers holds them under the confidence under which it did before
    (``hold_below``), or under the new ``lost_below`` if that is less.

    Raises:
        UserError: it cannot be written.
    """
    old = bundle.manifest.tracking
    hold = min(old.held[0], fit.lost_below) if old.recovery else old.hold_below
    tracking = dataclasses.replace(
        old, lost_below=fit.lost_below, found_above=fit.found_above, hold_below=hold
    )
    path = bundle.path / MANIFEST
    with atomic_path(path) as temporary:
        temporary.write_text(
            dataclasses.replace(bundle.manifest, tracking=tracking).to_json(), encoding="utf-8"
        )
    return path


def _above(step: int, gap: float) -> float:
    return min(1.0, round(step / STEPS + gap, 6))
