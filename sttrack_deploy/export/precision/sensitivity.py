"""Which layers to quantize: one group at a time, then the cheapest combination that still tracks.

What was measured becomes a file for programs and a picture for people.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from sttrack_deploy.progress import SILENT, Progress

__all__ = [
    "PICTURE",
    "REPORT",
    "ClosedLoop",
    "GroupResult",
    "Probe",
    "SearchResult",
    "Step",
    "search",
    "write_report",
]


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


class Probe(Protocol):
    """What the search asks for, of the groups that are quantized."""

    def step_error(self, groups: frozenset[str]) -> float:
        """Mean ``1 - IoU`` of single steps from recorded states."""
        ...

    def cost(self, groups: frozenset[str]) -> float:
        """Relative to FP32; below 1 is a gain."""
        ...

    def closed_loop(self, groups: frozenset[str]) -> ClosedLoop: ...


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
    macs: Mapping[str, int],
    probe: Probe,
    budget: float,
    step_budget: float = 1.0,
    progress: Progress = SILENT,
) -> SearchResult:
    """Measure every group alone, then add them one after the other, the best gain for its error first.

    A group stays if the graph gets cheaper by it, and the step error and the loss of AUC of everything kept so far stay
    within their budgets.
    What was left out is tried a second time, when others are in: beside a neighbor it may save conversions.

    Args:
        macs: multiply-accumulates of each group.
        budget: greatest loss of AUC allowed, 0..1.
        step_budget: greatest step error allowed, 0..1. On few videos a loss of AUC is mostly chance; this is not.
        progress: gets a line for each group that is tried.
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
        alone.append(result)
    order = sorted(alone, key=lambda r: (-(1.0 - r.cost) / max(r.step_error, 1e-6), r.group))
    waiting = [result.group for result in order]
    kept: frozenset[str] = frozenset()
    cost_now = 1.0
    steps: list[Step] = []
    for _ in range(
        2
    ):  # what is not cheaper alone may be, once its neighbors are in INT8; and chance gets less
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
            what = "kept" if step.kept else f"left out ({why})"
            progress.note(f"+ {group}: cost {cost:.3f}, step error {error:.4f}, {what}")
            steps = [*(s for s in steps if s.added != group), step]
        waiting = again
        if kept == before:
            break
    return SearchResult(
        budget, step_budget, tuple(alone), tuple(steps), tuple(g for g in groups if g in kept)
    )


_WORTH = 0.003
"""A group must save at least this share of FP32's work; less is not worth its error."""


REPORT = "sensitivity.json"
PICTURE = "sensitivity.png"


def write_report(folder: Path, result: SearchResult) -> None:
    """``sensitivity.json``, and ``sensitivity.png`` where matplotlib is installed."""
    document = {"cost": "share of multiply-accumulates left in float", **_finite(result.to_dict())}
    (folder / REPORT).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    try:
        import matplotlib  # noqa: F401 (asked for before it is used)
    except ImportError:
        return
    _picture(folder / PICTURE, result)


def _finite(value: Any) -> Any:
    """NaN (not measured) becomes null, which JSON has."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def _picture(path: Path, result: SearchResult) -> None:
    """Each group's error alone, and how cost and AUC went as groups were added."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(12, 0.32 * max(len(result.groups), len(result.steps)) + 2.2), layout="constrained"
    )
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    ordered = sorted(result.groups, key=lambda g: g.step_error)
    colors = ["tab:blue" if g.group in result.chosen else "0.75" for g in ordered]
    left.barh([g.group for g in ordered], [100 * g.step_error for g in ordered], color=colors)
    left.set_xlabel("step error with this group alone in INT8 (1 - IoU, %)")
    left.set_title("Sensitivity (blue: quantized in the end)", loc="left", fontsize=10)
    steps = [s for s in result.steps if s.auc_change == s.auc_change]
    rows = list(range(len(steps)))
    right.barh(
        rows, [100 * s.auc_change for s in steps], color=["tab:blue" if s.kept else "0.75" for s in steps]
    )
    right.errorbar(
        [100 * s.auc_change for s in steps],
        rows,
        xerr=[100 * s.auc_error for s in steps],
        fmt="none",
        ecolor="0.3",
        capsize=3,
    )
    right.axvline(-100 * result.budget, color="tab:red", linewidth=1)
    right.set_yticks(rows, [f"+ {s.added}  ({s.cost:.2f})" for s in steps])
    right.invert_yaxis()
    right.set_xlabel("change of AUC (points) with standard error; red: budget")
    right.set_title("Groups added in turn (in brackets: the cost)", loc="left", fontsize=10)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
