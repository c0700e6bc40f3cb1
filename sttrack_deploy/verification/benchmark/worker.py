"""One engine in a process of its own, which does something only when it is asked.

Two engines in one process disturb each other: the threads of the one that has just finished go on spinning, in
the hope of more work, while the other one is being timed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import open_bundle
from sttrack_deploy.cropping import search_crop, template_crop
from sttrack_deploy.engines.base import Engine, Operator
from sttrack_deploy.engines.registry import load_engine, load_profiled
from sttrack_deploy.errors import UserError, one_line
from sttrack_deploy.evaluation.runner import SingleTargetTracker
from sttrack_deploy.geometry import Box
from sttrack_deploy.runtime.tracker import Tracker
from sttrack_deploy.runtime.worker_pool import end_with_parent
from sttrack_deploy.sequences.sequence import frames_in
from sttrack_deploy.verification.benchmark.quiet_machine import resident_mib

__all__ = ["STAGES", "Block", "Clip", "EngineMaker", "Subject", "Worker", "decoded"]

FloatArray = npt.NDArray[np.float64]
Frame = npt.NDArray[np.uint8]

STAGES = ("decode", "crop", "search", "post")
"""Of a frame, in order; together they are its time end to end. ``template`` comes once a target."""

COMPILED = "torch-compile"
TEMPLATE_REPEATS = 5
BLOCK_WARM_UP = 3
"""Frames at the start of each block that are not counted: caches and clocks come back from the other engines."""
HELD_FRAMES = 150
"""Frames of the clip that a long run keeps in memory, and plays forwards and backwards."""


@dataclass(frozen=True, slots=True)
class Clip:
    """What is tracked: a video file or a folder of images, the target on its first frame, frames to use."""

    source: Path
    box: Box
    frames: int


@dataclass(frozen=True, slots=True)
class EngineMaker:
    """Makes a tracker from a bundle; picklable.

    Attributes:
        engine: may also be ``torch-compile``.
        counters: make an engine that counts the time of its operators.
    """

    bundle: Path
    engine: str
    threads: int
    counters: bool = False

    def __call__(self) -> Tracker:
        bundle = open_bundle(self.bundle)
        if self.counters:
            return Tracker(bundle, load_profiled(self.engine, bundle, self.threads))
        if self.engine != COMPILED:
            return Tracker(bundle, load_engine(self.engine, bundle, self.threads))
        from sttrack_deploy.engines.torch.engine import create_compiled

        return Tracker(bundle, create_compiled(bundle, self.threads))


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured: a label that no other has, and what makes the tracker (picklable)."""

    label: str
    make: Callable[[], SingleTargetTracker]
    facts: dict[str, Any] = field(default_factory=dict)


class Block(NamedTuple):
    """One pass over the clip; seconds.

    Attributes:
        stages: float64 ``(frames, len(STAGES))``; NaN for stages that the tracker does not tell apart, all of its
            time is then in ``search``.
        template: float64 ``(TEMPLATE_REPEATS,)``: ``init`` less its crop.
        cpu: CPU time of the whole process.
        resident: MiB afterwards.
    """

    stages: FloatArray
    template: FloatArray
    cpu: float
    resident: float


def decoded(source: Path) -> Iterator[Frame]:
    """Frames as BGR uint8, one at a time, in this thread.

    The decoder is kept to one thread: with more it would work on later frames while the tracker is being timed.

    Raises:
        UserError: it cannot be opened.
    """
    return frames_in(source, single=True)


class Bench:
    """Runs in the worker: the tracker, and what can be asked of it."""

    def __init__(self, subject: Subject, clip: Clip, threads: int) -> None:
        cv2.setNumThreads(threads)
        self._clip = clip
        before = resident_mib()
        self._tracker = subject.make()
        self._engine: Engine | None = getattr(self._tracker, "engine", None)
        self._held: list[Frame] = []
        self._batches: dict[int, list[Any]] = {}
        self.facts = {
            **subject.facts,
            **(self._engine.describe() if self._engine is not None else {}),
            "opencv_threads": cv2.getNumThreads(),
            "resident_mib_before": before,
            "resident_mib_ready": resident_mib(),
        }

    def describe(self) -> dict[str, Any]:
        return self.facts

    def play(self, frames: int) -> Block:
        """Track the first ``frames`` frames of the clip."""
        began = time.process_time()
        source = decoded(self._clip.source)
        first = next(source)
        template = []
        for _ in range(TEMPLATE_REPEATS):
            start = time.perf_counter()
            self._tracker.init(first, self._clip.box)
            timings = getattr(self._tracker, "timings", None)
            template.append(time.perf_counter() - start if timings is None else timings.inference)
        rows: list[tuple[float, float, float, float]] = []
        while len(rows) < frames - 1:
            start = time.perf_counter()
            frame = next(source, None)
            if frame is None:
                break
            got = time.perf_counter()
            self._tracker.update(frame)
            end = time.perf_counter()
            timings = getattr(self._tracker, "timings", None)
            if timings is None:
                rows.append((got - start, np.nan, end - got, np.nan))
            else:
                rest = end - got - timings.crop - timings.inference
                rows.append((got - start, timings.crop, timings.inference, rest))
        source.close()  # type: ignore[attr-defined]
        stages = np.array(rows[min(BLOCK_WARM_UP, len(rows) - 1) :])
        return Block(stages, np.array(template), time.process_time() - began, resident_mib())

    def play_on(self, start: int, frames: int) -> tuple[FloatArray, float]:
        """Frames ``start`` to ``start + frames`` of an endless track: seconds of each ``update``, and MiB after.

        No decoding: the clip's frames are in memory and are shown forwards and backwards in turn.
        """
        if not self._held:
            self._held = list(islice(decoded(self._clip.source), min(HELD_FRAMES, self._clip.frames)))
        if start == 0:
            self._tracker.init(self._held[0], self._clip.box)
        period = 2 * (len(self._held) - 1)
        times = np.empty(frames)
        for index in range(frames):
            place = (start + index + 1) % period
            frame = self._held[min(place, period - place)]
            begin = time.perf_counter()
            self._tracker.update(frame)
            times[index] = time.perf_counter() - begin
        return times, resident_mib()

    def takes(self, targets: int) -> bool:
        """Whether the engine runs that many targets in one call."""
        if self._engine is None:
            return False
        batch = self._tracker.bundle.manifest.batch  # type: ignore[attr-defined]
        return self._engine.name.startswith("torch") or batch in ("dynamic", targets)

    def step_batch(self, targets: int, steps: int) -> FloatArray:
        """Seconds of each of ``steps`` calls of ``engine.step`` with that many targets, their crops ready."""
        assert self._engine is not None
        if targets not in self._batches:
            self._batches[targets] = self._batch(targets)
            self._time_steps(targets, BLOCK_WARM_UP)
        self._time_steps(targets, 1)
        return self._time_steps(targets, steps)

    def operators(self, steps: int) -> list[Operator]:
        """Those of an engine with counters, from that many search steps with one target."""
        self.step_batch(1, steps)
        found: list[Operator] = self._engine.operators()  # type: ignore[union-attr]
        return found

    def _time_steps(self, targets: int, steps: int) -> FloatArray:
        assert self._engine is not None
        search, mask, state = self._batches[targets]
        times = np.empty(steps)
        for index in range(steps):
            begin = time.perf_counter()
            _, state = self._engine.step(search, mask, state)
            times[index] = time.perf_counter() - begin
        self._batches[targets][2] = state
        return times

    def _batch(self, targets: int) -> list[Any]:
        """Search crops of as many frames, their masks, and a fresh state."""
        assert self._engine is not None
        crop = self._tracker.bundle.manifest.crop  # type: ignore[attr-defined]
        box = self._clip.box
        frames = list(islice(decoded(self._clip.source), targets))
        frames += [frames[-1]] * (targets - len(frames))
        templates = [template_crop(f, box, crop) for f in frames]
        searches = [search_crop(f, box, crop) for f in frames]
        state = self._engine.initial_state(
            np.stack([c.patch for c in templates]), np.stack([c.mask for c in templates])
        )
        return [np.stack([c.patch for c in searches]), np.stack([c.mask for c in searches]), state]


class Worker:
    """A process that holds one :class:`Bench`; use ``with``."""

    def __init__(self, subject: Subject, clip: Clip, threads: int) -> None:
        self.subject = subject
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, subject, clip, threads), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def process(self) -> int:
        """Its number."""
        return self._process.pid or 0

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.join(timeout=1.0)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(timeout=5.0)

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the worker's bench and wait for its answer.

        Raises:
            UserError: it cannot do that, or its process has died.
        """
        try:
            self._pipe.send((method, arguments))
            succeeded, answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise UserError(
                f"{self.subject.label}: its process ended (out of memory?); measure fewer engines at a time"
            ) from error
        if not succeeded:
            raise UserError(f"{self.subject.label}: {answer}")
        return answer


def _serve(pipe: Connection, subject: Subject, clip: Clip, threads: int) -> None:
    """The worker's process: answer until the pipe closes. Blocked on the pipe it uses no CPU."""
    for name in ("SIGINT", "SIGHUP"):  # Ctrl-C and a closed terminal are the parent's to answer
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()
    bench: Bench | None = None
    while True:
        try:
            method, arguments = pipe.recv()
        except (EOFError, OSError):
            os._exit(0)  # not through the destructors of engines whose parent has gone
        try:
            if bench is None:
                bench = Bench(subject, clip, threads)
            answer: tuple[bool, Any] = (True, getattr(bench, method)(*arguments))
        except Exception as error:
            text = one_line(error)
            answer = (False, text if isinstance(error, UserError) else f"{type(error).__name__}: {text}")
        try:
            pipe.send(answer)
        except OSError:
            os._exit(0)
