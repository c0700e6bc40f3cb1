"""Which layers to quantize: one group at a time, then the cheapest combination that still tracks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["ClosedLoop", "GroupResult", "Probe", "SearchResult", "Step", "search"]


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """A run beside the FP32 run of the same sequences.

    Attributes:
        auc_change: negative is a loss.
        error: standard error of that change, from how it differs between sequences.
    """

    mean_iou: float
    auc_change: float
    error: float

    def loses(self, budget: float) -> bool:
        """More than the budget, and more than one standard error beyond it: on few videos the rest is chance."""
        return -self.auc_change - self.error > budget


@dataclass(frozen=True, slots=True)
class Probe:
    """What the search asks for; every function takes the groups that are quantized.

    Attributes:
        step_error: mean ``1 - IoU`` of single steps from recorded states.
        cost: relative to FP32; below 1 is a gain.
        closed_loop: see :class:`ClosedLoop`.
    """

    step_error: Callable[[frozenset[str]], float]
    cost: Callable[[frozenset[str]], float]
    closed_loop: Callable[[frozenset[str]], ClosedLoop]


@dataclass(frozen=True, slots=True)
class GroupResult:
    """One group quantized alone.

    Attributes:
        macs_share: of all quantizable work, 0..1.
    """

    group: str
    macs_share: float
    step_error: float
    cost: float
    mean_iou: float
    auc_change: float
    auc_error: float


@dataclass(frozen=True, slots=True)
class Step:
    """One attempt to add a group to those that are kept.

    Attributes:
        why: it was left out: ``no gain``, ``step error`` or ``AUC``; empty if it was kept.
    """

    added: str
    step_error: float
    cost: float
    mean_iou: float
    auc_change: float
    auc_error: float
    kept: bool
    why: str


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Everything that was measured, and the groups that came out; none if nothing passed."""

    budget: float
    step_budget: float
    groups: tuple[GroupResult, ...]
    steps: tuple[Step, ...]
    chosen: tuple[str, ...]

    @property
    def in_turn(self) -> tuple[str, ...]:
        """The chosen groups in the order in which they were added: the best gain for its error first."""
        return tuple(step.added for step in self.steps if step.kept)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def search(
    groups: Sequence[str],
    macs: dict[str, int],
    probe: Probe,
    budget: float,
    step_budget: float = 1.0,
    note: Callable[[GroupResult | Step], None] = lambda _: None,
) -> SearchResult:
    """Measure every group alone, then add them one after the other, the best gain for its error first.

    A group stays if the graph gets cheaper by it, and the step error and the loss of AUC of everything kept so far stay
    within their budgets.
    What was left out is tried a second time, when others are in: beside a neighbour it may save conversions.

    Args:
        macs: multiply-accumulates of each group.
        budget: greatest loss of AUC allowed, 0..1.
        step_budget: greatest step error allowed, 0..1. On few videos a loss of AUC is mostly chance; this is not.
        note: called with each result as it comes.
    """
    total = max(sum(macs.values()), 1)
    alone = []
    for group in groups:
        chosen = frozenset((group,))
        loop = probe.closed_loop(chosen)
        result = GroupResult(
            group,
            macs[group] / total,
            probe.step_error(chosen),
            probe.cost(chosen),
            loop.mean_iou,
            loop.auc_change,
            loop.error,
        )
        note(result)
        alone.append(result)
    order = sorted(alone, key=lambda r: (-(1.0 - r.cost) / max(r.step_error, 1e-6), r.group))
    waiting = [result.group for result in order]
    kept: frozenset[str] = frozenset()
    cost_now = 1.0
    steps: list[Step] = []
    for _ in range(
        2
    ):  # what is not cheaper alone may be, once its neighbours are in INT8; and chance gets less
        again = []
        before = kept
        for group in waiting:
            tried = kept | {group}
            cost, error = probe.cost(tried), probe.step_error(tried)
            loop = ClosedLoop(float("nan"), float("nan"), float("nan"))
            if cost > cost_now - _WORTH:
                why = "no gain"
            elif error > step_budget:
                why = "step error"
            else:
                loop = probe.closed_loop(tried)
                why = "AUC" if loop.loses(budget) else ""
            if why:
                again.append(group)
            step = Step(group, error, cost, loop.mean_iou, loop.auc_change, loop.error, kept=not why, why=why)
            if step.kept:
                kept, cost_now = tried, cost
            note(step)
            steps = [*(s for s in steps if s.added != group), step]
        waiting = again
        if kept == before:
            break
    return SearchResult(
        budget, step_budget, tuple(alone), tuple(steps), tuple(g for g in groups if g in kept)
    )


_WORTH = 0.003
"""A group must save at least this share of FP32's time (or work); less is within what the measurement varies by."""
