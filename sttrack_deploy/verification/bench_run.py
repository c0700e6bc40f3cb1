"""The benchmark: engines take turns, block by block, in an order that is drawn anew each round."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UserError
from sttrack_deploy.verification.bench_worker import STAGES, Block, Clip, Subject, Worker
from sttrack_deploy.verification.quiet_machine import (
    CpuTimes,
    MachineReport,
    cpu_seconds,
    load_average,
    report_machine,
    spin_test,
)

__all__ = ["LONG_CHUNK", "BenchPlan", "BenchResult", "SubjectTimes", "run_bench"]

FloatArray = npt.NDArray[np.float64]
Tick = Callable[[str], None]

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

    def __init__(self, workers: Seq[Worker]) -> None:
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


def run_bench(subjects: Seq[Subject], plan: BenchPlan, tick: Tick = lambda _: None) -> BenchResult:
    """Measure.

    Args:
        tick: called with the label before each block.

    Raises:
        UserError: no engine could be started, or one failed in the middle.
    """
    load, before = load_average(), spin_test()
    failures: dict[str, str] = {}
    order = np.random.default_rng(plan.seed)
    with _started(subjects, plan, failures, tick) as workers:
        pen = _Pen(workers)
        start, started = CpuTimes.now(), [*pen.used(), cpu_seconds(os.getpid())]
        blocks: dict[str, list[Block]] = {w.subject.label: [] for w in workers}
        batches: dict[str, dict[int, list[FloatArray]]] = {
            w.subject.label: {n: [] for n in plan.targets if w.ask("takes", n)} for w in workers
        }
        for _ in range(plan.rounds):
            for worker in _shuffled(workers, order):
                label = worker.subject.label
                tick(label)
                blocks[label].append(pen.ask(worker, "play", plan.clip.frames))
        for _ in range(plan.rounds if plan.targets else 0):
            for worker in _shuffled(workers, order):
                label = worker.subject.label
                tick(f"{label}, several targets")
                for targets in _shuffled(list(batches[label]), order):
                    batches[label][targets].append(pen.ask(worker, "step_batch", targets, plan.steps))
        long: dict[str, list[tuple[FloatArray, float]]] = {w.subject.label: [] for w in workers}
        for first in range(0, plan.long, LONG_CHUNK):
            for worker in _shuffled(workers, order):
                label = worker.subject.label
                tick(f"{label}, frame {first}")
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
    subjects: Seq[Subject], plan: BenchPlan, failures: dict[str, str], tick: Tick
) -> Iterator[list[Worker]]:
    """Workers that are warm, one after the other; those that cannot start go to ``failures``."""
    with ExitStack() as stack:
        workers = []
        for subject in subjects:
            tick(f"{subject.label}, warm-up")
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


def _shuffled(items: Seq[Any], generator: np.random.Generator) -> list[Any]:
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
