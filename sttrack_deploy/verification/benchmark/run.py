"""The benchmark: engines take turns, block by block, in an order that is drawn anew each round."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.geometry import parse_box
from sttrack_deploy.progress import SILENT, Progress
from sttrack_deploy.runtime.demo import DemoClip
from sttrack_deploy.verification.benchmark.quiet_machine import (
    CpuTimes,
    MachineReport,
    cpu_seconds,
    load_average,
    report_machine,
    spin_test,
)
from sttrack_deploy.verification.benchmark.worker import (
    BLOCK_WARM_UP,
    COMPILED,
    STAGES,
    Block,
    Clip,
    EngineMaker,
    Subject,
    Worker,
    decoded,
)
from sttrack_deploy.verification.parity.run import Deployment
from sttrack_deploy.video.writer import VideoWriter

__all__ = [
    "LEAST_FRAMES",
    "LONG_CHUNK",
    "BenchPlan",
    "BenchResult",
    "SubjectTimes",
    "baseline_of",
    "clip_of",
    "engine_subjects",
    "run_bench",
]

FloatArray = npt.NDArray[np.float64]

LONG_CHUNK = 500
"""Frames of a long run that an engine plays before the next one has its turn."""
WARM_UP_FRAMES = 20


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """What is measured.

    Attributes:
        frames: of the clip, the first (the template's) included, in each block.
        rounds: blocks for each engine.
        threads: for the engine, and for OpenCV.
        targets: batch sizes; empty: none.
        steps: calls timed for each batch size and round.
        long: frames of the long run; 0: none.
        seed: of the order.
    """

    clip: Clip
    rounds: int
    threads: int
    targets: tuple[int, ...]
    steps: int
    long: int
    seed: int

    def turns(self, subjects: int) -> int:
        """How many blocks there will be, for a progress bar."""
        return subjects * (
            1 + self.rounds + math.ceil(self.long / LONG_CHUNK) + self.rounds * bool(self.targets)
        )


@dataclass(frozen=True, slots=True)
class SubjectTimes:
    """One engine's times, seconds.

    Attributes:
        stages: float64 ``(rounds, frames, len(STAGES))``.
        template: float64 ``(rounds, repeats)``.
        batches: by number of targets, float64 ``(rounds, steps)``.
        long: float64 ``(frames,)``, ``update`` without decoding; empty: not run.
        memory: MiB after each block, in the order they came, the long run's last.
        memory_long: MiB after each chunk of the long run.
        cpu: CPU seconds for each second of wall clock in the blocks: how many cores it kept busy.
        facts: of the engine.
    """

    subject: Subject
    stages: FloatArray
    template: FloatArray
    batches: dict[int, FloatArray]
    long: FloatArray
    memory: FloatArray
    memory_long: FloatArray
    cpu: float
    facts: dict[str, Any]

    @property
    def frame(self) -> FloatArray:
        """End to end, ``(rounds, frames)``."""
        return np.asarray(np.nansum(self.stages, axis=2), np.float64)

    @property
    def search(self) -> FloatArray:
        """The network alone, ``(rounds, frames)``."""
        return np.asarray(self.stages[:, :, STAGES.index("search")], np.float64)


@dataclass(frozen=True, slots=True)
class BenchResult:
    """Everything measured.

    Attributes:
        failures: by label, why an engine could not be measured.
        fixed: labels of engines whose batch is fixed, so that ``targets`` were left out for them.
    """

    plan: BenchPlan
    subjects: tuple[SubjectTimes, ...]
    failures: dict[str, str]
    fixed: tuple[str, ...]
    machine: MachineReport


class _Pen:
    """All workers, and what those that wait use meanwhile."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self.workers = list(workers)
        self.waiting = self.active = 0.0

    def used(self) -> list[float]:
        return [cpu_seconds(worker.process) for worker in self.workers]

    def ask(self, worker: Worker, method: str, *arguments: Any) -> Any:
        before = self.used()
        answer = worker.ask(method, *arguments)
        for other, old, new in zip(self.workers, before, self.used(), strict=True):
            if other is worker:
                self.active += new - old
            else:
                self.waiting += new - old
        return answer


def run_bench(subjects: Sequence[Subject], plan: BenchPlan, progress: Progress = SILENT) -> BenchResult:
    """Measure.

    Args:
        progress: a step for each block.

    Raises:
        UserError: no engine could be started, or one failed in the middle.
    """
    progress.stage("turns", plan.turns(len(subjects)))
    load, before = load_average(), spin_test()
    failures: dict[str, str] = {}
    order = np.random.default_rng(plan.seed)
    with _compiler_cache(), _started(subjects, plan, failures, progress) as workers:
        pen = _Pen(workers)
        start, started = CpuTimes.now(), [*pen.used(), cpu_seconds(os.getpid())]
        blocks: dict[str, list[Block]] = {w.subject.label: [] for w in workers}
        batches: dict[str, dict[int, list[FloatArray]]] = {
            w.subject.label: {n: [] for n in plan.targets if w.ask("takes", n)} for w in workers
        }
        for _ in range(plan.rounds):
            for worker in _shuffled(workers, order):
                label = worker.subject.label
                progress.advance()
                blocks[label].append(pen.ask(worker, "play", plan.clip.frames))
        for _ in range(plan.rounds if plan.targets else 0):
            for worker in _shuffled(workers, order):
                label = worker.subject.label
                progress.advance()
                for targets in _shuffled(list(batches[label]), order):
                    batches[label][targets].append(pen.ask(worker, "step_batch", targets, plan.steps))
        long: dict[str, list[tuple[FloatArray, float]]] = {w.subject.label: [] for w in workers}
        for first in range(0, plan.long, LONG_CHUNK):
            for worker in _shuffled(workers, order):
                label = worker.subject.label
                progress.advance()
                count = min(LONG_CHUNK, plan.long - first)
                long[label].append(pen.ask(worker, "play_on", first, count))
        facts = [worker.ask("describe") for worker in workers]
        end, ended = CpuTimes.now(), [*pen.used(), cpu_seconds(os.getpid())]
    own = [b - a for a, b in zip(started, ended, strict=True)]
    waiting = pen.waiting / pen.active if pen.active > 0 else math.nan
    machine = report_machine(load, start, end, own, waiting, before, spin_test())
    times = [
        _times(worker.subject, blocks[label], batches[label], long[label], fact)
        for worker, fact in zip(workers, facts, strict=True)
        for label in (worker.subject.label,)
    ]
    fixed = tuple(label for label, found in batches.items() if set(found) != set(plan.targets))
    return BenchResult(plan, tuple(times), failures, fixed, machine)


@contextmanager
def _started(
    subjects: Sequence[Subject], plan: BenchPlan, failures: dict[str, str], progress: Progress
) -> Iterator[list[Worker]]:
    """Workers that are warm, one after the other; those that cannot start go to ``failures``."""
    with ExitStack() as stack:
        workers = []
        for subject in subjects:
            progress.advance()
            worker = stack.enter_context(Worker(subject, plan.clip, plan.threads))
            try:
                worker.ask("play", min(WARM_UP_FRAMES, plan.clip.frames))
            except UserError as error:
                failures[subject.label] = str(error).removeprefix(f"{subject.label}: ")
                worker.__exit__(None, None, None)
            else:
                workers.append(worker)
        if not workers:
            raise UserError("; ".join(failures.values()))
        yield workers


def _shuffled(items: Sequence[Any], generator: np.random.Generator) -> list[Any]:
    return [items[int(index)] for index in generator.permutation(len(items))]


def _times(
    subject: Subject,
    blocks: list[Block],
    batches: dict[int, list[FloatArray]],
    long: list[tuple[FloatArray, float]],
    facts: dict[str, Any],
) -> SubjectTimes:
    stages = np.stack([block.stages for block in blocks])
    wall = float(np.nansum(stages)) + float(sum(block.template.sum() for block in blocks))
    return SubjectTimes(
        subject=subject,
        stages=stages,
        template=np.stack([block.template for block in blocks]),
        batches={targets: np.stack(times) for targets, times in batches.items()},
        long=np.concatenate([times for times, _ in long]) if long else np.zeros(0),
        memory=np.array([block.resident for block in blocks]),
        memory_long=np.array([resident for _, resident in long]),
        cpu=sum(block.cpu for block in blocks) / wall,
        facts=facts,
    )


@contextlib.contextmanager
def _compiler_cache() -> Iterator[None]:
    """torch.compile's files in a folder of this run: an interrupted one leaves half a library in the shared one."""
    if "TORCHINDUCTOR_CACHE_DIR" in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="sttrack-compile-", ignore_cleanup_errors=True) as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        try:
            yield
        finally:
            del os.environ["TORCHINDUCTOR_CACHE_DIR"]


DEMO_NAME = "the demo clip"
LEAST_FRAMES = BLOCK_WARM_UP + 3


def baseline_of(result: BenchResult, asked: str | None) -> SubjectTimes:
    """The engine that was asked for, by its label or its name; else PyTorch; else the first.

    Raises:
        UserError: the one asked for could not be measured.
    """
    wanted = asked or "torch"
    for times in result.subjects:
        if wanted in (times.subject.label, times.subject.facts.get("engine")):
            return times
    if asked is not None:
        raise UserError(
            f"the baseline {asked!r} could not be measured: {'; '.join(result.failures.values())}"
        )
    return result.subjects[0]


@contextlib.contextmanager
def clip_of(source: Path | None, init_box: str | None, frames: int) -> Iterator[tuple[Clip, str]]:
    """What is tracked, and its name: the user's video, or the demo clip as a video file that goes away.

    Raises:
        UsageError: a video without a box, or a box without a video.
        UserError: the video cannot be read, or is too short.
    """
    if (source is None) != (init_box is None):
        raise UsageError("--source and --init-box go together")
    if source is not None and init_box is not None:
        if not source.exists():
            raise UserError(f"{source} does not exist; give a video or a folder of images with --source")
        count = sum(1 for _ in islice(decoded(source), frames))
        if count < LEAST_FRAMES:
            raise UserError(f"{source} has {count} frames; a benchmark needs at least {LEAST_FRAMES}")
        yield Clip(source, parse_box(init_box), count), source.name
        return
    demo = DemoClip()
    count = min(frames, len(demo.truth))
    with tempfile.TemporaryDirectory(prefix="sttrack-bench-") as folder:
        path = Path(folder) / "demo.mp4"
        with VideoWriter(path, demo.fps, quality=90) as writer:
            for frame in demo.frames(range(count)):
                writer.write(frame.image, frame.time)
        if sum(1 for _ in decoded(path)) < LEAST_FRAMES:
            raise UserError(
                f"cannot write the demo clip to {path}; name a video with --source and --init-box"
            )
        yield Clip(path, demo.truth[0], count), DEMO_NAME


def engine_subjects(bundles: Sequence[Bundle], engines: Sequence[str], threads: int) -> list[Subject]:
    """Every bundle on every engine; PyTorch, which runs the weights alone, once for bundles of the same weights."""
    seen: set[tuple[str, str]] = set()
    subjects: list[Subject] = []
    for engine in engines:
        for bundle in bundles:
            deployment = Deployment(bundle, engine)
            torch = engine in ("torch", COMPILED)
            key = (engine, str(bundle.manifest.weights.get("sha256")) if torch else str(bundle.path))
            if key in seen:
                continue
            seen.add(key)
            label = engine if torch else deployment.label
            if any(s.label == label for s in subjects):
                label = f"{label} {bundle.path.name}"
            if any(s.label == label for s in subjects):
                label = f"{label} {bundle.path}"
            facts = {
                "bundle": str(bundle.path),
                "name": bundle.manifest.title,
                "precision": "fp32" if torch else deployment.precision,
                "search_sha256": bundle.manifest.search.sha256,
                "batch": bundle.manifest.batch,
                "engine": engine,
            }
            subjects.append(Subject(label, EngineMaker(bundle.path.resolve(), engine, threads), facts))
    return subjects
