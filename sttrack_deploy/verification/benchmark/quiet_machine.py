"""Is the machine quiet enough for a timing to mean something? Reads Linux's /proc; elsewhere it says "unknown"."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = [
    "CpuTimes",
    "MachineReport",
    "SpinTest",
    "cpu_seconds",
    "report_machine",
    "resident_mib",
    "spin_test",
]

OTHERS_LIMIT = 0.05
STEAL_LIMIT = 0.01
SPIN_LIMIT = 1.2
DRIFT_LIMIT = 1.1
IDLE_LIMIT = 0.03

_SPIN_SECONDS = 0.5
_SPIN_ROUNDS = 8_000  # about half a millisecond of arithmetic


@dataclass(frozen=True, slots=True)
class SpinTest:
    """The same arithmetic again and again on one core; what varies is the machine.

    Attributes:
        median: seconds of one piece; higher later on: the clock slowed down.
        spread: 95th percentile over the median; 1 on a machine that does nothing else.
    """

    median: float
    spread: float


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds of all CPUs together since the start of the system.

    Attributes:
        wall: clock, seconds.
        busy: spent on any process, this one included; NaN where it is not known, as the next.
        steal: taken away by the host of a virtual machine.
    """

    wall: float
    busy: float
    steal: float

    @classmethod
    def now(cls) -> CpuTimes:
        wall = time.monotonic()
        try:
            fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
        except OSError:
            return cls(wall, math.nan, math.nan)
        tick = os.sysconf("SC_CLK_TCK")
        user, nice, system, _idle, _wait, irq, soft, steal = (int(field) / tick for field in fields[:8])
        return cls(wall, user + nice + system + irq + soft, steal)


@dataclass(frozen=True, slots=True)
class MachineReport:
    """What went on beside the measurement.

    Attributes:
        cpus: that this process may use.
        load: 1-minute load average before it began; NaN where unknown, as all of these.
        others: share of the machine's CPU time that went to other processes.
        steal: share that a virtual machine's host took away.
        idle_workers: CPU time of engines that were not being measured, over that of the one that was.
        before, after: the spin test.
        warnings: a line for each thing that is not quiet; empty: quiet.
    """

    cpus: int
    load: float
    others: float
    steal: float
    idle_workers: float
    before: SpinTest
    after: SpinTest
    warnings: tuple[str, ...]


def spin_test(seconds: float = _SPIN_SECONDS) -> SpinTest:
    """Half a second of arithmetic."""
    pieces = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        total = 0
        for number in range(_SPIN_ROUNDS):
            total += number * number
        pieces.append(time.perf_counter() - start)
    median = float(np.median(pieces))
    return SpinTest(median, float(np.quantile(pieces, 0.95)) / median)


def cpu_seconds(process: int) -> float:
    """CPU time of a process so far, all its threads; NaN where unknown."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return math.nan
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib() -> float:
    """Memory of this process that is in RAM, MiB; NaN where unknown."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return math.nan
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def load_average() -> float:
    """Of the last minute; NaN where there is none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan


def usable_cpus() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else (os.cpu_count() or 1)


def report_machine(
    load: float,
    start: CpuTimes,
    end: CpuTimes,
    own: Iterable[float],
    idle_workers: float,
    before: SpinTest,
    after: SpinTest,
) -> MachineReport:
    """Judge what was seen.

    Args:
        load: before the measurement.
        own: CPU seconds of this process and its workers between ``start`` and ``end``.
        idle_workers: see :class:`MachineReport`.
    """
    capacity = max(end.wall - start.wall, 1e-9) * (os.cpu_count() or 1)
    others = max(0.0, end.busy - start.busy - sum(own)) / capacity
    steal = (end.steal - start.steal) / capacity
    warnings = []
    if others > OTHERS_LIMIT:
        warnings.append(f"other processes took {others:.0%} of the CPU time")
    if steal > STEAL_LIMIT:
        warnings.append(f"the host of this virtual machine took {steal:.1%} of the CPU time away")
    if max(before.spread, after.spread) > SPIN_LIMIT:
        worst = max(before.spread, after.spread)
        warnings.append(f"the same arithmetic took up to {worst:.2f} times its median (95th percentile)")
    drift = after.median / before.median
    if not 1 / DRIFT_LIMIT < drift < DRIFT_LIMIT:
        warnings.append(f"the CPU ran at {1 / drift:.2f} times its first speed at the end")
    if idle_workers > IDLE_LIMIT:
        warnings.append(
            f"engines that were waiting used {idle_workers:.0%} of the CPU time of the measured one"
        )
    return MachineReport(usable_cpus(), load, others, steal, idle_workers, before, after, tuple(warnings))
