"""The proof that nothing was lost: candidates (a bundle on an engine) beside PyTorch on the same sequences."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.engines.registry import create_engine
from sttrack_deploy.errors import MissingDependencyError, UserError
from sttrack_deploy.evaluation.sequence_run import SequenceRun
from sttrack_deploy.runtime.tracker import Tracker
from sttrack_deploy.verification.agreement import GATES, Agreement, Verdict, agree, judge
from sttrack_deploy.verification.closed_loop import Beginning, track_beginning
from sttrack_deploy.verification.error_growth import Replay, replay
from sttrack_deploy.verification.parting import Parting, find_parting
from sttrack_deploy.verification.recording import Recorder, Recording

__all__ = ["TOLERANCES", "Candidate", "CandidateParity", "Reference", "compare", "run_reference"]

Tick = Callable[[], None]

REFERENCE_ENGINE = "torch"

TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2, "int8": 1e-1, "int8-fp16": 1e-1}
"""Relative error of a tensor from which it counts as parted, by precision; what rounding alone stays below."""


@dataclass(frozen=True, slots=True)
class Candidate:
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
        """Candidates with the same key share one run of the reference."""
        m = self.bundle.manifest
        return str(m.weights.get("sha256", "")), repr(m.crop), repr((m.tracking, m.smallest_batch))


@dataclass(frozen=True, slots=True)
class Reference:
    """What PyTorch did: a run and the first frames' crops and states of some sequences."""

    beginnings: tuple[Beginning, ...]
    runs: tuple[SequenceRun, ...]
    recordings: tuple[Recording, ...]
    facts: dict[str, str]


@dataclass(frozen=True, slots=True)
class CandidateParity:
    """One candidate beside the reference.

    Attributes:
        note: why there is no ``parting`` although tensors part; empty if there is nothing to say.
    """

    candidate: Candidate
    agreement: Agreement
    verdict: Verdict
    replay: Replay
    tolerance: float
    parting: Parting | None
    note: str
    facts: dict[str, str]


def run_reference(
    bundle: Bundle,
    beginnings: Seq[Beginning],
    threads: int | None,
    recorded: frozenset[str],
    recorded_frames: int,
    tick: Tick = lambda: None,
) -> Reference:
    """Track every sequence with PyTorch, from the bundle's weights.

    Args:
        recorded: names of the sequences whose first ``recorded_frames`` tracked frames are kept.

    Raises:
        UserError: the weights are missing or altered, PyTorch is not installed, or a sequence cannot be read.
    """
    engine = Recorder(create_engine(REFERENCE_ENGINE, bundle, threads), bundle, recorded_frames)
    tracker = Tracker(bundle, engine)
    runs, recordings = [], []
    for beginning in beginnings:
        engine.enabled = beginning.whole.name in recorded
        runs.append(track_beginning(tracker, beginning, tick))
        if engine.recording is not None:
            engine.recording.sequence = beginning.whole.name
            recordings.append(engine.recording)
    return Reference(tuple(beginnings), tuple(runs), tuple(recordings), engine.describe())


def compare(
    candidate: Candidate,
    reference: Reference,
    threads: int | None,
    exact: Bundle | None,
    tolerance: float | None = None,
    tick: Tick = lambda: None,
) -> CandidateParity:
    """Everything about one candidate.

    Args:
        exact: the fp32 bundle of the same weights, whose graph tensors are compared with; ``None``: there is none.
        tolerance: relative error from which a tensor counts as parted; ``None``: the precision's.
        tick: called for each frame of the closed loop and each one replayed.

    Raises:
        UserError: the precision has no gate, the engine cannot be made, or a sequence cannot be tracked.
    """
    gate = GATES.get(candidate.precision)
    if gate is None:
        raise UserError(
            f"{candidate.bundle.path} has the precision {candidate.precision!r}, for which there is no gate; "
            f"there are gates for {', '.join(GATES)}"
        )
    limit = TOLERANCES[candidate.precision] if tolerance is None else tolerance
    engine = create_engine(candidate.engine, candidate.bundle, threads)
    tracker = Tracker(candidate.bundle, engine)
    runs = [track_beginning(tracker, beginning, tick) for beginning in reference.beginnings]
    agreement = agree([b.sequence for b in reference.beginnings], reference.runs, runs)
    replayed = replay(engine, candidate.bundle, reference.recordings, limit, tick)
    facts = engine.describe()
    del tracker, engine  # the bisect makes its own; two at a time would share the cores
    parting, note = _parting(candidate, reference, threads, exact, replayed, limit)
    verdict = judge(agreement, gate)
    return CandidateParity(candidate, agreement, verdict, replayed, limit, parting, note, facts)


def _parting(
    candidate: Candidate,
    reference: Reference,
    threads: int | None,
    exact: Bundle | None,
    replayed: Replay,
    tolerance: float,
) -> tuple[Parting | None, str]:
    """The bisect of the first frame that parts, if one does."""
    by_name = {recording.sequence: recording for recording in reference.recordings}
    step: int | None = None
    if replayed.template_parted is not None:
        recording = by_name[replayed.template_parted]
    elif replayed.parted is not None:
        recording, step = by_name[replayed.parted[0]], replayed.parted[1]
    else:
        return None, ""
    try:
        found = find_parting(candidate.bundle, candidate.engine, threads, exact, recording, step, tolerance)
    except MissingDependencyError as error:
        return None, str(error)
    except UserError as error:
        return None, f"no bisect: {error}"
    if found is None:
        return None, f"no bisect: the engine '{candidate.engine}' does not show its tensors"
    return found, ""
