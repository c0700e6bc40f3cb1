"""Where the time of a search step goes: an engine's operators, grouped by what they do and by what kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sttrack_deploy.engines.base import Operator
from sttrack_deploy.errors import UserError
from sttrack_deploy.progress import SILENT, Progress
from sttrack_deploy.verification.benchmark.worker import Clip, EngineMaker, Subject, Worker

__all__ = ["EngineProfile", "Group", "profile_engines", "profile_facts"]

PROFILED_STEPS = 30


@dataclass(frozen=True, slots=True)
class Group:
    """Operators of one kind on one kernel.

    Attributes:
        milliseconds: of a step, all of them together.
        share: of all operators' time.
    """

    kind: str
    kernel: str
    count: int
    milliseconds: float
    share: float


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """One engine's operators in a search step with one target.

    Attributes:
        reason: why there are none; empty where there are.
    """

    label: str
    operators: tuple[Operator, ...] = ()
    reason: str = ""

    @property
    def milliseconds(self) -> float:
        """Of all operators together; a step takes a little longer."""
        return 1e3 * sum(one.seconds for one in self.operators)

    def groups(self) -> list[Group]:
        """The longest first."""
        found: dict[tuple[str, str], list[float]] = {}
        for one in self.operators:
            found.setdefault((one.kind, one.kernel), []).append(1e3 * one.seconds)
        whole = self.milliseconds or 1.0
        groups = [Group(*key, len(times), sum(times), sum(times) / whole) for key, times in found.items()]
        return sorted(groups, key=lambda group: -group.milliseconds)


def profile_engines(
    subjects: Sequence[Subject], clip: Clip, threads: int, progress: Progress = SILENT
) -> list[EngineProfile]:
    """Profile engines one after the other, each in a new process: counting would slow down what is timed."""
    progress.stage("profiles", len(subjects))
    profiles = []
    for subject in subjects:
        progress.advance()
        maker = subject.make
        counted = dataclasses.replace(maker, counters=True) if isinstance(maker, EngineMaker) else maker
        try:
            with Worker(dataclasses.replace(subject, make=counted), clip, threads) as worker:
                operators = worker.ask("operators", PROFILED_STEPS)
        except UserError as error:
            reason = str(error).removeprefix(f"{subject.label}: ")
            profiles.append(EngineProfile(subject.label, reason=reason))
        else:
            profiles.append(EngineProfile(subject.label, tuple(operators)))
    return profiles


def profile_facts(profiles: Sequence[EngineProfile]) -> dict[str, Any]:
    """For ``sttrack-bench --json``: by engine its operators and their groups, milliseconds of a step."""
    return {
        profile.label: {"reason": profile.reason}
        if profile.reason
        else {
            "steps": PROFILED_STEPS,
            "milliseconds": profile.milliseconds,
            "groups": [dataclasses.asdict(group) for group in profile.groups()],
            "operators": [
                {"name": one.name, "kind": one.kind, "kernel": one.kernel, "milliseconds": 1e3 * one.seconds}
                for one in sorted(profile.operators, key=lambda one: -one.seconds)
            ],
        }
        for profile in profiles
    }
