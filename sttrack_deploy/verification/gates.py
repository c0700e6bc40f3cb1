"""How far two runs over the same sequences agree, and whether that is enough to ship an engine.

A closed loop can be a coin toss: where two look-alikes are equally likely, the smallest error decides which one is
followed, for either engine, and the boxes are far apart from then on. A lost digit shows where both follow the target,
and in losses that come back on sequence after sequence. So a gate asks three things: do the boxes agree where both are
on the target; does the subject lose the target more often than it finds one that the reference lost; and what of the
AUC. The last two are held against what differs from sequence to sequence (one standard error), as a coin toss does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UserError
from sttrack_deploy.evaluation.protocols.pytracking import measure, otb_score
from sttrack_deploy.geometry import iou
from sttrack_deploy.sequences.sequence import TrackRun, VideoSequence

__all__ = [
    "DIVERGED_BELOW",
    "GATES",
    "ON_TARGET",
    "Agreement",
    "Gate",
    "SequenceAgreement",
    "Verdict",
    "agree",
    "judge",
]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

DIVERGED_BELOW = 0.9
"""Two tracks have diverged at the first frame where the IoU of their boxes is lower."""

ON_TARGET = 0.5
"""A box is on the target where its IoU with the truth is higher."""


@dataclass(frozen=True, slots=True)
class Gate:
    """What an engine must keep to be shipped.

    Attributes:
        mean_iou: least mean IoU between its boxes and the reference's in closed loop, over the frames where both are on
            the target (over all frames if there are none); ``None``: reported only.
        auc_change: greatest loss of success AUC beyond one standard error, 0..1 (0.002 is 0.2 points).
        lost_change: greatest net share of frames lost beyond one standard error, 0..1: those where the reference is on
            the target and the engine is not, less the reverse.
        both_ways: whether a gain of more than that fails as well (an exact precision should change nothing).
    """

    mean_iou: float | None
    auc_change: float
    lost_change: float
    both_ways: bool


GATES = {
    "fp32": Gate(0.995, 0.002, 0.005, both_ways=True),
    "fp16": Gate(0.995, 0.002, 0.005, both_ways=True),
    "bf16": Gate(0.995, 0.002, 0.005, both_ways=True),
    "int8": Gate(None, 0.005, 0.01, both_ways=False),
    "int8-fp16": Gate(None, 0.005, 0.01, both_ways=False),
}
"""By the name of the precision (``manifest.precision["name"]``, or what an engine makes of it)."""


@dataclass(frozen=True, slots=True)
class SequenceAgreement:
    """Two runs of one sequence.

    Attributes:
        overlap: IoU of the two boxes, float64 ``(N - 1,)``: the first frame, which both were given, is left out.
        on_target, subject_on_target: bool ``(N - 1,)``, where the reference's box, or the subject's, is on the target.
        auc_reference, auc: success AUC (pytracking) against the truth.
    """

    name: str
    overlap: FloatArray
    on_target: BoolArray
    subject_on_target: BoolArray
    auc_reference: float
    auc: float

    @property
    def mean_iou(self) -> float:
        return float(self.overlap.mean())

    @property
    def least_iou(self) -> float:
        return float(self.overlap.min())

    @property
    def lost(self) -> float:
        """Share of frames, 0..1, where the reference is on the target and the subject is not."""
        return float((self.on_target & ~self.subject_on_target).mean())

    @property
    def found(self) -> float:
        """Share of frames, 0..1, where the subject is on the target and the reference is not."""
        return float((~self.on_target & self.subject_on_target).mean())

    @property
    def diverged_at(self) -> int | None:
        """Number of the first frame whose boxes overlap by less than 0.9; ``None`` if none does."""
        below = np.flatnonzero(self.overlap < DIVERGED_BELOW)
        return int(below[0]) + 1 if len(below) else None


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two runs of a set of sequences; every frame counts alike in ``mean_iou``, every sequence in the AUCs."""

    sequences: tuple[SequenceAgreement, ...]

    @property
    def mean_iou(self) -> float:
        return float(np.concatenate([s.overlap for s in self.sequences]).mean())

    @property
    def least_iou(self) -> float:
        return min(s.least_iou for s in self.sequences)

    @property
    def diverged(self) -> tuple[SequenceAgreement, ...]:
        """Sequences whose boxes diverge somewhere."""
        return tuple(s for s in self.sequences if s.diverged_at is not None)

    @property
    def mean_iou_before_divergence(self) -> float:
        """Mean IoU over the frames before each sequence diverges: the error without what it then sets off.

        NaN if all part at once.
        """
        kept = np.concatenate([s.overlap[: s.diverged_at and s.diverged_at - 1] for s in self.sequences])
        return float(kept.mean()) if len(kept) else float("nan")

    @property
    def mean_iou_on_target(self) -> float:
        """Mean IoU over the frames on which the reference is on the target: the rest is two ways of being lost.

        NaN if it never is.
        """
        kept = np.concatenate([s.overlap[s.on_target] for s in self.sequences])
        return float(kept.mean()) if len(kept) else float("nan")

    @property
    def mean_iou_followed(self) -> float:
        """Mean IoU over the frames on which both are on the target. NaN if there are none."""
        kept = np.concatenate([s.overlap[s.on_target & s.subject_on_target] for s in self.sequences])
        return float(kept.mean()) if len(kept) else float("nan")

    @property
    def lost(self) -> float:
        """Share of frames, 0..1, where the reference is on the target and the subject is not; sequences count alike."""
        return float(np.mean([s.lost for s in self.sequences]))

    @property
    def found(self) -> float:
        """The reverse of :attr:`lost`."""
        return float(np.mean([s.found for s in self.sequences]))

    @property
    def auc_reference(self) -> float:
        return float(np.mean([s.auc_reference for s in self.sequences]))

    @property
    def auc(self) -> float:
        return float(np.mean([s.auc for s in self.sequences]))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a gate is passed, and the line that says why."""

    passed: bool
    detail: str


def agree(
    sequences: Sequence[VideoSequence], reference: Sequence[TrackRun], subject: Sequence[TrackRun]
) -> Agreement:
    """Compare two runs sequence by sequence; the three lists have one order.

    Raises:
        UserError: the runs do not belong together.
    """
    rows = []
    for sequence, ours, theirs in zip(sequences, reference, subject, strict=True):
        if not sequence.name == ours.name == theirs.name or len(ours.boxes) != len(theirs.boxes):
            raise UserError(
                f"the runs do not belong together: {ours.name} with {len(ours.boxes)} boxes, "
                f"{theirs.name} with {len(theirs.boxes)}; run both again"
            )
        if len(ours.boxes) < 2:
            raise UserError(f"{sequence.name} has one frame only: nothing is tracked in it")
        scores = [otb_score(measure(run.boxes, sequence))["auc"] for run in (ours, theirs)]
        overlap = np.asarray(iou(ours.boxes[1:], theirs.boxes[1:]), np.float64)
        # Comparing with the NaN of a frame without the target is False.
        on_target, subject_on_target = (
            np.asarray(iou(run.boxes[1:], sequence.truth[1:]) > ON_TARGET, np.bool_) for run in (ours, theirs)
        )
        rows.append(SequenceAgreement(sequence.name, overlap, on_target, subject_on_target, *scores))
    if not rows:
        raise UserError("there is no sequence to compare; name a folder of annotated videos with --data")
    return Agreement(tuple(rows))


def judge(agreement: Agreement, gate: Gate) -> Verdict:
    """Hold an agreement against a gate."""
    rows = agreement.sequences
    change = agreement.auc - agreement.auc_reference
    lost = agreement.lost - agreement.found
    auc_error = _standard_error([s.auc - s.auc_reference for s in rows])
    lost_error = _standard_error([s.lost - s.found for s in rows])
    off = (abs(change), abs(lost)) if gate.both_ways else (-change, lost)
    followed = agreement.mean_iou_followed
    seen = agreement.mean_iou if np.isnan(followed) else followed
    where = "over all frames" if np.isnan(followed) else "where both are on the target"
    passed = (
        off[0] - auc_error <= gate.auc_change
        and off[1] - lost_error <= gate.lost_change
        and (gate.mean_iou is None or seen >= gate.mean_iou)
    )
    least = "" if gate.mean_iou is None else f" (at least {gate.mean_iou})"
    bound = "within" if gate.both_ways else "at most lost:"
    return Verdict(
        passed,
        f"mean IoU {seen:.4f} {where}{least}, {agreement.mean_iou:.4f} over all; target lost on "
        f"{100 * agreement.lost:.1f} % of frames, found on {100 * agreement.found:.1f} % where the reference is not "
        f"(net +- {100 * lost_error:.1f}, {bound} {100 * gate.lost_change:.1f}); AUC {agreement.auc:.4f} beside "
        f"{agreement.auc_reference:.4f}, {100 * change:+.2f} points (+- {100 * auc_error:.2f}, {bound} "
        f"{100 * gate.auc_change:.1f})",
    )


def _standard_error(changes: Sequence[float]) -> float:
    """Of their mean; 0 for one alone, which says nothing about chance and gets no allowance."""
    return float(np.std(changes, ddof=1) / np.sqrt(len(changes))) if len(changes) > 1 else 0.0
