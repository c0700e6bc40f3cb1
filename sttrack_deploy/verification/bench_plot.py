"""The plot of a benchmark: where a frame's time goes, how steady it is, what more targets and more frames cost."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Any

import numpy as np

from sttrack_deploy.evaluation.reporting.plot_style import (
    INK,
    SHADE,
    Plot,
    drawing,
    new_figure,
    tracker_style,
)
from sttrack_deploy.verification.bench_figures import batch_cost, latency, long_run, ratio
from sttrack_deploy.verification.bench_run import BenchResult, SubjectTimes
from sttrack_deploy.verification.bench_worker import STAGES

__all__ = ["bench_plot"]


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


def _stages(axes: Any, subjects: Seq[SubjectTimes], baseline: SubjectTimes, title: str) -> None:
    """Stacked medians, a whisker to the 95th and a mark at the 99th percentile of the whole frame."""
    rows = np.arange(len(subjects))
    left = np.zeros(len(subjects))
    for index, stage in enumerate(STAGES):
        widths = np.nan_to_num([latency(s.stages[:, :, index]).p50 for s in subjects])
        style = tracker_style(index)
        axes.barh(rows, widths, left=left, color=style.colour, height=0.62, label=stage)
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


def _targets(axes: Any, subjects: Seq[SubjectTimes], order: dict[str, int]) -> None:
    most = 1
    for s in subjects:
        costs = {n: cost for n in sorted(s.batches) if (cost := batch_cost(s, n)) is not None}
        style = tracker_style(order[s.subject.label])
        values = [cost.value for cost in costs.values()]
        axes.plot(
            list(costs), values, color=style.colour, dashes=style.dashes or (None, None), marker=style.marker,
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


def _long(axes: Any, subjects: Seq[SubjectTimes], order: dict[str, int]) -> None:
    for s in subjects:
        found = long_run(s)
        assert found is not None
        style = tracker_style(order[s.subject.label])
        axes.plot(
            found.frames, found.median, color=style.colour, dashes=style.dashes or (None, None),
            label=f"{s.subject.label}: {found.change:+.1%}, {found.growth:+.2f} MiB/1000",
        )  # fmt: skip
    axes.set(
        xlabel="frame index", ylabel="median ms of update()", title="Cost against frame index", ylim=(0, None)
    )
    axes.legend(fontsize=8)
