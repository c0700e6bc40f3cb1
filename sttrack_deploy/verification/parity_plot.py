"""The plot of a parity run: IoU with PyTorch over time, and how errors grow."""

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
from sttrack_deploy.verification.agreement import PARTED_BELOW
from sttrack_deploy.verification.parity import CandidateParity

__all__ = ["parity_plot"]

_LEAST_SHOWN = 1e-9
"""Errors of exactly zero have no place on a logarithmic axis."""


def parity_plot(results: Seq[CandidateParity], data: str) -> Plot:
    """One panel of IoU over time for each candidate, one of the growth of errors for all.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    title = f"IoU with PyTorch in closed loop, {data}"
    with drawing("parity"):
        figure = new_figure(10.0, 1.6 * len(results) + 3.0)
        grid = figure.add_gridspec(len(results) + 1, 1, height_ratios=[1.0] * len(results) + [1.7])
        for index, result in enumerate(results):
            _timeline(figure.add_subplot(grid[index]), result, index, title if index == 0 else None)
        axes = figure.add_subplot(grid[-1])
        for index, result in enumerate(results):
            style = tracker_style(index)
            growth = result.replay.growth
            for values, what, dashes in ((growth.box, "box", ()), (growth.state, "state", (1.4, 1.4))):
                if np.isnan(values).all():
                    continue
                axes.plot(
                    np.arange(1, len(values) + 1),
                    np.maximum(values, _LEAST_SHOWN),
                    color=style.colour,
                    dashes=dashes or (None, None),
                    linewidth=1.3,
                    label=f"{result.candidate.label}: {what}",
                )
        axes.set(
            yscale="log",
            xlabel="frame",
            ylabel="error",
            title="Same crops for both, state carried by each: greatest error over the sequences",
        )
        axes.set_xlim(left=0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0e}")
        axes.yaxis.set_minor_formatter(lambda *_: "")
        low, high = axes.get_ylim()  # whole decades, so that two of them have a label
        axes.set_ylim(10 ** np.floor(np.log10(low)), 10 ** np.ceil(np.log10(high)))
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=3)
    alt = f"{title}. " + "; ".join(
        f"{r.candidate.label}: mean {r.agreement.mean_iou:.4f}, least {r.agreement.least_iou:.3f}, "
        f"{len(r.agreement.parted)} of {len(r.agreement.sequences)} sequences part"
        for r in results
    )
    return Plot("parity", title, alt, figure)


def _timeline(axes: Any, result: CandidateParity, index: int, title: str | None) -> None:
    """All sequences one after the other, with a line between two."""
    agreement = result.agreement
    overlap = np.concatenate([s.overlap for s in agreement.sequences])
    ends = np.cumsum([len(s.overlap) for s in agreement.sequences])
    axes.plot(overlap, color=tracker_style(index).colour, linewidth=1.0)
    for end in ends[:-1]:
        axes.axvline(end - 0.5, color=SHADE, linewidth=0.5, alpha=0.6)
    axes.axhline(PARTED_BELOW, color=INK, linewidth=0.6, linestyle=":")
    start = 0
    for s, end in zip(agreement.sequences, ends, strict=True):
        if s.parted_at is not None:
            axes.plot([start + s.parted_at - 1], [1.03], "v", color=INK, markersize=4, clip_on=False)
        start = int(end)
    verdict = "passed" if result.verdict.passed else "FAILED"
    label = f"{result.candidate.label}: mean {agreement.mean_iou:.4f}, gate {verdict}"
    axes.set(ylim=(-0.03, 1.06), xlim=(-0.5, len(overlap) - 0.5), ylabel="IoU")
    axes.set_title(label if title is None else f"{title}\n{label}", fontsize=9)
    if title is not None:
        axes.annotate(
            "line: next sequence, mark: first frame under 0.9", (1.0, 1.0), xycoords="axes fraction",
            ha="right", va="bottom", fontsize=7.5, color=SHADE, xytext=(0, 6), textcoords="offset points",
        )  # fmt: skip
