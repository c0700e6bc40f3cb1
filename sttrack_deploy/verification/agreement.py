"""How far two runs over the same sequences agree, and whether that is enough to ship an engine."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UserError
from sttrack_deploy.evaluation.protocols.pytracking import measure, otb_score
from sttrack_deploy.evaluation.sequence import Sequence
from sttrack_deploy.evaluation.sequence_run import SequenceRun
from sttrack_deploy.geometry import iou

__all__ = [
    "GATES",
    "ON_TARGET",
    "PARTED_BELOW",
    "Agreement",
    "Gate",
    "SequenceAgreement",
    "Verdict",
    "agree",
    "judge",
]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

PARTED_BELOW = 0.9
"""Two tracks have parted at the first frame where the IoU of their boxes is lower."""

ON_TARGET = 0.5
"""A box is on the target where its IoU with the truth is higher."""


@dataclass(frozen=True, slots=True)
class Gate:
    """What an engine must keep to be shipped.

    Attributes:
        mean_iou: least mean IoU between its boxes and the reference's in closed loop; ``None``: reported only.
        auc_change: greatest loss of success AUC, 0..1 (0.002 is 0.2 points).
        both_ways: whether a gain of more than that fails as well (an exact precision should change nothing).
    """

    mean_iou: float | None
    auc_change: float
    both_ways: bool


GATES = {
    "fp32": Gate(0.995, 0.002, both_ways=True),
    "fp16": Gate(0.995, 0.002, both_ways=True),
    "bf16": Gate(0.995, 0.002, both_ways=True),
    "int8": Gate(None, 0.005, both_ways=False),
    "int8-fp16": Gate(None, 0.005, both_ways=False),
}
"""By the name of the precision (``manifest.precision["name"]``, or what an engine makes of it)."""


@dataclass(frozen=True, slots=True)
class SequenceAgreement:
    """Two runs of one sequence.

    Attributes:
        overlap: IoU of the two boxes, float64 ``(N - 1,)``: the first frame, which both were given, is left out.
        on_target: bool ``(N - 1,)``, where the reference's box is on the target.
        auc_reference, auc: success AUC (pytracking) against the truth.
    """

    name: str
    overlap: FloatArray
    on_target: BoolArray
    auc_reference: float
    auc: float

    @property
    def mean_iou(self) -> float:
        return float(self.overlap.mean())

    @property
    def least_iou(self) -> float:
        return float(self.overlap.min())

    @property
    def parted_at(self) -> int | None:
        """Number of the first frame whose boxes overlap by less than 0.9; ``None`` if none does."""
        below = np.flatnonzero(self.overlap < PARTED_BELOW)
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
    def parted(self) -> tuple[SequenceAgreement, ...]:
        """Sequences whose boxes part somewhere."""
        return tuple(s for s in self.sequences if s.parted_at is not None)

    @property
    def mean_iou_before_parting(self) -> float:
        """Mean IoU over the frames before each sequence parts: the error without what it then sets off.

        NaN if all part at once.
        """
        kept = np.concatenate([s.overlap[: s.parted_at and s.parted_at - 1] for s in self.sequences])
        return float(kept.mean()) if len(kept) else float("nan")

    @property
    def mean_iou_on_target(self) -> float:
        """Mean IoU over the frames on which the reference is on the target: the rest is two ways of being lost.

        NaN if it never is.
        """
        kept = np.concatenate([s.overlap[s.on_target] for s in self.sequences])
        return float(kept.mean()) if len(kept) else float("nan")

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


def agree(sequences: Seq[Sequence], reference: Seq[SequenceRun], candidate: Seq[SequenceRun]) -> Agreement:
    """Compare two runs sequence by sequence; the three lists have one order.

    Raises:
        UserError: the runs do not belong together.
    """
    rows = []
    for sequence, ours, theirs in zip(sequences, reference, candidate, strict=True):
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
        on_target = np.asarray(iou(ours.boxes[1:], sequence.truth[1:]) > ON_TARGET, np.bool_)
        rows.append(SequenceAgreement(sequence.name, overlap, on_target, *scores))
    if not rows:
        raise UserError("there is no sequence to compare; name a folder of annotated videos with --data")
    return Agreement(tuple(rows))


def judge(agreement: Agreement, gate: Gate) -> Verdict:
    """Hold an agreement against a gate."""
    change = agreement.auc - agreement.auc_reference
    off = abs(change) if gate.both_ways else -change
    passed = off <= gate.auc_change and (gate.mean_iou is None or agreement.mean_iou >= gate.mean_iou)
    least = "" if gate.mean_iou is None else f" (at least {gate.mean_iou})"
    bound = "within" if gate.both_ways else "at most lost:"
    return Verdict(
        passed,
        f"mean IoU {agreement.mean_iou:.4f}{least}, AUC {agreement.auc:.4f} beside {agreement.auc_reference:.4f}, "
        f"{100 * change:+.2f} points ({bound} {100 * gate.auc_change:.1f})",
    )
