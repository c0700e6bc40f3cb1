"""The proof that nothing was lost: deployments (a bundle on an engine) beside PyTorch on the same sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.engines.recording import RecordedStep, Recording, RecordingEngine
from sttrack_deploy.engines.registry import load_engine
from sttrack_deploy.errors import MissingDependencyError, UserError
from sttrack_deploy.progress import SILENT, Progress
from sttrack_deploy.runtime.tracker import Tracker
from sttrack_deploy.sequences.sequence import TrackRun
from sttrack_deploy.verification.closed_loop import Beginning, track_beginning
from sttrack_deploy.verification.gates import GATES, Agreement, Verdict, agree, judge
from sttrack_deploy.verification.parity.divergence import Divergence, find_divergence
from sttrack_deploy.verification.parity.tensor_errors import Replay, replay

__all__ = ["TOLERANCES", "Deployment", "DeploymentParity", "Reference", "compare", "run_reference"]


REFERENCE_ENGINE = "torch"

TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2, "int8": 1e-1, "int8-fp16": 1e-1}
"""Relative error of a tensor from which it counts as diverged, by precision; what rounding alone stays below."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """A bundle on an engine."""

    bundle: Bundle
    engine: str

    @property
    def precision(self) -> str:
        """What it computes in: the bundle's, or the engine's own where that rounds an fp32 bundle."""
        own = str(self.bundle.manifest.precision.get("name", "fp32"))
        return "bf16" if own == "fp32" and self.engine.endswith("-bf16") else own

    @property
    def label(self) -> str:
        return f"{self.precision} {self.engine}"

    @property
    def reference_key(self) -> tuple[str, str, str]:
        """Subjects with the same key share one run of the reference."""
        m = self.bundle.manifest
        return str(m.weights.get("sha256", "")), repr(m.crop), repr((m.tracking, m.smallest_batch))


@dataclass(frozen=True, slots=True)
class Reference:
    """What PyTorch did: a run and the first frames' crops and states of some sequences."""

    beginnings: tuple[Beginning, ...]
    runs: tuple[TrackRun, ...]
    recordings: tuple[Recording, ...]
    facts: dict[str, str]


@dataclass(frozen=True, slots=True)
class DeploymentParity:
    """One deployment beside the reference.

    Attributes:
        note: why there is no ``divergence`` although tensors diverge; empty if there is nothing to say.
    """

    deployment: Deployment
    agreement: Agreement
    verdict: Verdict
    replay: Replay
    tolerance: float
    divergence: Divergence | None
    note: str
    facts: dict[str, str]


def run_reference(
    bundle: Bundle,
    beginnings: Sequence[Beginning],
    threads: int | None,
    recorded: frozenset[str],
    recorded_frames: int,
    progress: Progress = SILENT,
) -> Reference:
    """Track every sequence with PyTorch, from the bundle's weights.

    Args:
        recorded: names of the sequences whose first ``recorded_frames`` tracked frames are kept.

    Raises:
        UserError: the weights are missing or altered, PyTorch is not installed, or a sequence cannot be read.
    """
    engine = RecordingEngine(load_engine(REFERENCE_ENGINE, bundle, threads))
    tracker = Tracker(bundle, engine)
    runs, recordings = [], []
    for beginning in beginnings:
        name = beginning.whole.name
        engine.enabled = name in recorded
        steps: list[RecordedStep] = []

        def keep(steps: list[RecordedStep] = steps) -> None:
            if engine.enabled and engine.last is not None:
                steps.append(engine.last)
                engine.enabled = len(steps) < recorded_frames

        runs.append(track_beginning(tracker, beginning, progress, keep))
        if name in recorded and engine.start is not None:
            recordings.append(Recording(name, engine.start, steps))
    return Reference(tuple(beginnings), tuple(runs), tuple(recordings), engine.describe())


def compare(
    deployment: Deployment,
    reference: Reference,
    threads: int | None,
    exact: Bundle | None,
    tolerance: float | None = None,
    progress: Progress = SILENT,
) -> DeploymentParity:
    """Everything about one deployment.

    Args:
        exact: the fp32 bundle of the same weights, whose graph tensors are compared with; ``None``: there is none.
        tolerance: relative error from which a tensor counts as diverged; ``None``: the precision's.
        progress: a step for each frame of the closed loop and each one replayed.

    Raises:
        UserError: the precision has no gate, the engine cannot be made, or a sequence cannot be tracked.
    """
    gate = GATES.get(deployment.precision)
    if gate is None:
        raise UserError(
            f"{deployment.bundle.path} has the precision {deployment.precision!r}, for which there is no gate; "
            f"there are gates for {', '.join(GATES)}"
        )
    limit = TOLERANCES[deployment.precision] if tolerance is None else tolerance
    engine = load_engine(deployment.engine, deployment.bundle, threads)
    tracker = Tracker(deployment.bundle, engine)
    runs = [track_beginning(tracker, beginning, progress) for beginning in reference.beginnings]
    agreement = agree([b.sequence for b in reference.beginnings], reference.runs, runs)
    replayed = replay(engine, deployment.bundle, reference.recordings, limit, progress)
    facts = engine.describe()
    del tracker, engine  # the bisect makes its own; two at a time would share the cores
    divergence, note = _divergence(deployment, reference, threads, exact, replayed, limit)
    verdict = judge(agreement, gate)
    return DeploymentParity(deployment, agreement, verdict, replayed, limit, divergence, note, facts)


def _divergence(
    deployment: Deployment,
    reference: Reference,
    threads: int | None,
    exact: Bundle | None,
    replayed: Replay,
    tolerance: float,
) -> tuple[Divergence | None, str]:
    """The bisect of the first frame that diverges, if one does."""
    by_name = {recording.sequence: recording for recording in reference.recordings}
    step: int | None = None
    if replayed.template_diverged is not None:
        recording = by_name[replayed.template_diverged]
    elif replayed.diverged is not None:
        recording, step = by_name[replayed.diverged[0]], replayed.diverged[1]
    else:
        return None, ""
    try:
        found = find_divergence(
            deployment.bundle, deployment.engine, threads, exact, recording, step, tolerance
        )
    except MissingDependencyError as error:
        return None, str(error)
    except UserError as error:
        return None, f"no bisect: {error}"
    if found is None:
        return None, f"no bisect: the engine '{deployment.engine}' does not show its tensors"
    return found, ""
