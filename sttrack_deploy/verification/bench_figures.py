"""From times to the numbers of a table: percentiles, ratios with intervals, costs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sttrack_deploy.evaluation.bootstrap import bootstrap_interval
from sttrack_deploy.verification.bench_run import LONG_CHUNK, SubjectTimes

__all__ = ["Latency", "LongRun", "Ratio", "batch_cost", "latency", "long_run", "ratio"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds over all blocks; NaN where the tracker does not tell this stage apart."""

    p50: float
    p95: float
    p99: float
    mean: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times one cost is another, with its 95 % interval.

    The value is the geometric mean, over rounds, of the ratio of the two medians in that round; the interval
    comes from drawing rounds again. NaN limits with fewer than two rounds.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        interval = "" if math.isnan(self.low) else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.value:.2f}{interval}"


@dataclass(frozen=True, slots=True)
class LongRun:
    """Cost against frame index.

    Attributes:
        frames: number of the first frame of each chunk.
        median: milliseconds of ``update`` in each chunk.
        first, last: median over the first and the last tenth of the frames, milliseconds.
        change: last tenth over first tenth, less 1: 0 is flat.
        memory: MiB after each chunk.
        growth: MiB gained from the end of the first tenth to the end, for 1,000 frames.
    """

    frames: FloatArray
    median: FloatArray
    first: float
    last: float
    change: float
    memory: FloatArray
    growth: float


def latency(seconds: FloatArray) -> Latency:
    """Percentiles of any array of seconds."""
    known = 1e3 * seconds[~np.isnan(seconds)]
    if not known.size:
        return Latency(math.nan, math.nan, math.nan, math.nan)
    p50, p95, p99 = (float(value) for value in np.quantile(known, (0.5, 0.95, 0.99)))
    return Latency(p50, p95, p99, float(known.mean()))


def ratio(cost: FloatArray, other: FloatArray) -> Ratio:
    """``cost`` over ``other``; both ``(rounds, samples)`` of the same rounds."""
    logs = np.log(np.median(cost, axis=1)) - np.log(np.median(other, axis=1))
    interval = bootstrap_interval(logs)
    return Ratio(math.exp(interval.mean), math.exp(interval.low), math.exp(interval.high))


def batch_cost(times: SubjectTimes, targets: int) -> Ratio | None:
    """Cost of one call with that many targets over that of as many calls with one; ``None``: not measured."""
    if targets not in times.batches or 1 not in times.batches:
        return None
    return ratio(times.batches[targets], targets * times.batches[1])


def long_run(times: SubjectTimes) -> LongRun | None:
    """``None``: there was no long run."""
    count = len(times.long)
    if not count:
        return None
    starts = np.arange(0, count, LONG_CHUNK)
    medians = np.array([1e3 * np.median(times.long[start : start + LONG_CHUNK]) for start in starts])
    tenth = max(1, count // 10)
    first, last = 1e3 * float(np.median(times.long[:tenth])), 1e3 * float(np.median(times.long[-tenth:]))
    settled = max(0, math.ceil(tenth / LONG_CHUNK) - 1)
    after = count - min(count, (settled + 1) * LONG_CHUNK)
    gained = float(times.memory_long[-1] - times.memory_long[settled])
    return LongRun(
        frames=starts.astype(np.float64),
        median=medians,
        first=first,
        last=last,
        change=last / first - 1.0,
        memory=times.memory_long,
        growth=1000.0 * gained / after if after else math.nan,
    )
