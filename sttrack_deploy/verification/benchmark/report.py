"""A benchmark's report: the numbers of its tables, the JSON for programs, the plot."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sttrack_deploy import __version__
from sttrack_deploy.evaluation.bootstrap import bootstrap_interval
from sttrack_deploy.evaluation.scores import without_nan
from sttrack_deploy.plotting import (
    INK,
    SHADE,
    Plot,
    drawing,
    new_figure,
    tracker_style,
)
from sttrack_deploy.verification.benchmark.run import LONG_CHUNK, BenchResult, SubjectTimes
from sttrack_deploy.verification.benchmark.worker import BLOCK_WARM_UP, STAGES, TEMPLATE_REPEATS

__all__ = [
    "CONTENTS",
    "SCHEMA",
    "Latency",
    "LongRun",
    "Ratio",
    "batch_cost",
    "bench_document",
    "bench_plot",
    "latency",
    "long_run",
    "ratio",
]

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


SCHEMA = 1
"""Of the JSON."""

CONTENTS = {
    "decode": "reading one frame of the video file, by one thread, which waits for it",
    "crop": "cutting the search region, resizing it, its mask",
    "template": "the template graph, once a target",
    "search": "the search graph: crop and state in, box and new state out, copies to and from the engine included",
    "post": "box to pixels, the decision whether the target is lost",
    "end to end": "decode + crop + search + post for each frame; neither drawing nor writing a video",
}
"""What is inside each time."""


def bench_document(result: BenchResult, baseline: SubjectTimes, clip: str) -> dict[str, Any]:
    """What ``sttrack-bench --json`` writes.

    Args:
        clip: name of the video.
    """
    plan = result.plan
    document = {
        "schema": SCHEMA,
        "sttrack_deploy": __version__,
        "clip": clip,
        "frames": plan.clip.frames,
        "rounds": plan.rounds,
        "threads": plan.threads,
        "seed": plan.seed,
        "warm_up_frames_each_block": BLOCK_WARM_UP,
        "template_repeats_each_block": TEMPLATE_REPEATS,
        "timing": dict(CONTENTS),
        "interleaving": "one process an engine, idle while another is measured; blocks in an order drawn each round",
        "baseline": baseline.subject.label,
        "system": {
            "machine": platform.machine(),
            "system": f"{platform.system()} {platform.release()}",
            "processor": _processor(),
            "python": platform.python_version(),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        },
        "machine": {**dataclasses.asdict(result.machine), "quiet": not result.machine.warnings},
        "failures": result.failures,
        "engines": [_engine(times, baseline) for times in result.subjects],
    }
    plain: dict[str, Any] = without_nan(document)
    return plain


def _engine(times: SubjectTimes, baseline: SubjectTimes) -> dict[str, Any]:
    frame = latency(times.frame)
    endless = long_run(times)
    return {
        "label": times.subject.label,
        "facts": times.facts,
        "end_to_end_ms": dataclasses.asdict(frame),
        "fps_end_to_end": 1e3 / frame.mean,
        "stages_ms": {
            **{
                stage: dataclasses.asdict(latency(times.stages[:, :, index]))
                for index, stage in enumerate(STAGES)
            },
            "template": dataclasses.asdict(latency(times.template)),
        },
        "speed_of_baseline": {
            "search": dataclasses.asdict(ratio(baseline.search, times.search)),
            "end_to_end": dataclasses.asdict(ratio(baseline.frame, times.frame)),
        },
        "cores_busy": times.cpu,
        "memory_mib": {
            "before": times.facts.get("resident_mib_before"),
            "ready": times.facts.get("resident_mib_ready"),
            "after_each_round": times.memory.tolist(),
        },
        "targets": {str(targets): _batch(times, targets) for targets in times.batches},
        "long": None
        if endless is None
        else {
            name: value.tolist() if hasattr(value, "tolist") else value
            for name, value in dataclasses.asdict(endless).items()
        },
    }


def _batch(times: SubjectTimes, targets: int) -> dict[str, Any]:
    cost = batch_cost(times, targets)
    return {
        "step_ms": dataclasses.asdict(latency(times.batches[targets])),
        "cost_of_single_ones": None if cost is None else dataclasses.asdict(cost),
    }


def _processor() -> str:
    """The CPU's name, or what the platform module has."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 (read line by line)
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def bench_plot(result: BenchResult, baseline: SubjectTimes, clip: str) -> Plot:
    """Stages and percentiles of each engine; below, where measured, targets and frame index.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    subjects = result.subjects
    batched = [s for s in subjects if len(s.batches) > 1]
    endless = [s for s in subjects if len(s.long)]
    title = f"Time of a frame, {clip}, {result.plan.threads} thread(s)"
    with drawing("bench"):
        lower = bool(batched) + bool(endless)
        bars = 0.42 * len(subjects) + 1.4
        figure = new_figure(10.0, bars + (3.2 if lower else 0.4))
        grid = figure.add_gridspec(
            1 + bool(lower), max(lower, 1), height_ratios=[bars, 2.8][: 1 + bool(lower)]
        )
        _stages(figure.add_subplot(grid[0, :]), subjects, baseline, title)
        column = 0
        order = {s.subject.label: index for index, s in enumerate(subjects)}
        if batched:
            _targets(figure.add_subplot(grid[1, column]), batched, order)
            column += 1
        if endless:
            _long(figure.add_subplot(grid[1, column]), endless, order)
    alt = f"{title}. " + "; ".join(
        f"{s.subject.label}: median {latency(s.frame).p50:.1f} ms, {ratio(baseline.frame, s.frame).value:.2f} times "
        f"the speed of {baseline.subject.label}"
        for s in subjects
    )
    return Plot("bench", title, alt, figure)


def _stages(axes: Any, subjects: Sequence[SubjectTimes], baseline: SubjectTimes, title: str) -> None:
    """Stacked medians, a whisker to the 95th and a mark at the 99th percentile of the whole frame."""
    rows = np.arange(len(subjects))
    left = np.zeros(len(subjects))
    for index, stage in enumerate(STAGES):
        widths = np.nan_to_num([latency(s.stages[:, :, index]).p50 for s in subjects])
        style = tracker_style(index)
        axes.barh(rows, widths, left=left, color=style.color, height=0.62, label=stage)
        left += widths
    whole = [latency(s.frame) for s in subjects]
    axes.hlines(rows, left, [w.p95 for w in whole], color=INK, linewidth=1.0, label="to p95")
    axes.plot([w.p99 for w in whole], rows, "|", color=INK, markersize=8, label="p99")
    for row, (s, w) in enumerate(zip(subjects, whole, strict=True)):
        text = f"{1e3 / w.mean:.0f} FPS, {ratio(baseline.frame, s.frame).value:.2f}x"
        axes.annotate(
            text,
            (max(w.p99, left[row]), row),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(rows, [s.subject.label for s in subjects])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.14)
    axes.set(title=title, xlim=(0, None))
    axes.set_xlabel(f"milliseconds (median); x: times the speed of {baseline.subject.label}")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)


def _targets(axes: Any, subjects: Sequence[SubjectTimes], order: dict[str, int]) -> None:
    most = 1
    for s in subjects:
        costs = {n: cost for n in sorted(s.batches) if (cost := batch_cost(s, n)) is not None}
        style = tracker_style(order[s.subject.label])
        values = [cost.value for cost in costs.values()]
        axes.plot(
            list(costs), values, color=style.color, dashes=style.dashes or (None, None), marker=style.marker,
            label=s.subject.label,
        )  # fmt: skip
        most = max([most, *costs])
    axes.axhline(1.0, color=SHADE, linewidth=0.8)
    axes.set(
        xscale="log", xlabel="targets in one batch", ylabel="cost over as many single ones",
        title="Cost of several targets", ylim=(0, 1.25),
    )  # fmt: skip
    ticks = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= most]
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.minorticks_off()
    axes.legend(fontsize=8)


def _long(axes: Any, subjects: Sequence[SubjectTimes], order: dict[str, int]) -> None:
    for s in subjects:
        found = long_run(s)
        assert found is not None
        style = tracker_style(order[s.subject.label])
        axes.plot(
            found.frames, found.median, color=style.color, dashes=style.dashes or (None, None),
            label=f"{s.subject.label}: {found.change:+.1%}, {found.growth:+.2f} MiB/1000",
        )  # fmt: skip
    axes.set(
        xlabel="frame index", ylabel="median ms of update()", title="Cost against frame index", ylim=(0, None)
    )
    axes.legend(fontsize=8)
