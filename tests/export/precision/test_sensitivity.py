"""The search keeps what is cheaper and within the budget, in the order of gain for error."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from progress_log import ProgressLog

from sttrack_deploy.export.precision.sensitivity import PICTURE, REPORT, ClosedLoop, search, write_report

GAIN = {"big": 0.4, "small": 0.1, "harmful": 0.3, "useless": -0.05}
LOSS = {"big": 0.002, "small": 0.001, "harmful": 0.02, "useless": 0.0}
MACS = {"big": 400, "small": 100, "harmful": 300, "useless": 10}


@dataclass
class Scripted:
    """Gains and losses add up; ``calls``: what was tracked with."""

    calls: list[frozenset[str]] = field(default_factory=list)

    def step_error(self, groups: frozenset[str]) -> float:
        return sum(LOSS[g] for g in groups)

    def cost(self, groups: frozenset[str]) -> float:
        return 1.0 - sum(GAIN[g] for g in groups)

    def closed_loop(self, groups: frozenset[str]) -> ClosedLoop:
        self.calls.append(groups)
        loss = self.step_error(groups)
        return ClosedLoop(1.0 - 2 * loss, -loss, 0.0)


def test_it_keeps_what_passes() -> None:
    calls: list[frozenset[str]] = []
    log = ProgressLog()
    result = search(list(GAIN), MACS, Scripted(calls), 0.005, progress=log)
    assert result.chosen == ("big", "small")
    assert [s.added for s in result.steps] == ["big", "small", "harmful", "useless"]
    by_name = {s.added: s for s in result.steps}
    assert by_name["harmful"].why == "AUC"
    assert by_name["useless"].why == "no gain"
    # What is not cheaper is not tracked with: that is what takes the time.
    assert frozenset(("big", "small", "useless")) not in calls
    assert [g.group for g in result.groups] == list(GAIN)
    assert result.groups[0].macs_share == pytest.approx(400 / 810)
    assert len(log.notes) == 4 + 2  # added, and what was left out once more


def test_a_loss_within_its_error_is_chance() -> None:
    assert ClosedLoop(0.9, -0.012, 0.003).loses(0.004)
    assert not ClosedLoop(0.9, -0.012, 0.009).loses(0.004)
    assert not ClosedLoop(0.9, 0.02, 0.0).loses(0.004)


def test_what_pays_beside_a_neighbor_only_is_found() -> None:
    class Pair:
        def step_error(self, groups: frozenset[str]) -> float:
            return 0.001 * len(groups)

        def cost(self, groups: frozenset[str]) -> float:
            return (
                1.0
                + 0.02 * ("between" in groups)
                - 0.2 * ("big" in groups)
                - 0.1 * ({"big", "between"} <= groups)
            )

        def closed_loop(self, groups: frozenset[str]) -> ClosedLoop:
            return ClosedLoop(0.99, 0.0, 0.0)

    result = search(["between", "big"], {"between": 1, "big": 9}, Pair(), 0.005)
    assert result.chosen == ("between", "big")


@pytest.mark.parametrize(
    ("budget", "chosen"), [(0.0, ()), (0.0025, ("big",)), (1.0, ("big", "small", "harmful"))]
)
def test_the_budget_decides(budget: float, chosen: tuple[str, ...]) -> None:
    assert search(list(GAIN), MACS, Scripted(), budget).chosen == chosen


def test_a_step_error_beyond_its_budget_is_not_tracked_with() -> None:
    calls: list[frozenset[str]] = []
    result = search(list(GAIN), MACS, Scripted(calls), 1.0, 0.0025)
    assert result.chosen == ("big",)
    assert {s.added: s.why for s in result.steps}["harmful"] == "step error"
    assert not any(len(c) > 1 for c in calls)


def test_the_report_is_json_with_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_report(tmp_path, search(list(GAIN), MACS, Scripted(), 0.005))
    document = json.loads((tmp_path / REPORT).read_text())
    assert document["chosen"] == ["big", "small"]
    assert document["steps"][3]["auc_change"] is None  # not measured, and NaN is not JSON
    assert (tmp_path / PICTURE).stat().st_size > 5000
