"""A parity run for programs (plain values for JSON) and for people (the plot)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sttrack_deploy import __version__
from sttrack_deploy.evaluation.scores import without_nan
from sttrack_deploy.plotting import (
    INK,
    SHADE,
    Plot,
    drawing,
    new_figure,
    tracker_style,
)
from sttrack_deploy.verification.gates import DIVERGED_BELOW, GATES
from sttrack_deploy.verification.parity.run import Deployment, DeploymentParity

__all__ = ["SCHEMA", "NotRun", "ParityResult", "parity_document", "parity_plot"]

SCHEMA = 1
"""Of the JSON."""


@dataclass(frozen=True, slots=True)
class NotRun:
    """A deployment that could not be run here, and why in one line."""

    deployment: Deployment
    reason: str


ParityResult = DeploymentParity | NotRun


def parity_document(results: Sequence[ParityResult], data: str, setting: dict[str, Any]) -> dict[str, Any]:
    """What ``sttrack-parity --json`` writes.

    Args:
        data: name of the sequences' set.
        setting: threads, number of frames and the like.
    """
    document = {
        "schema": SCHEMA,
        "sttrack_deploy": __version__,
        "data": data,
        **setting,
        "passed": all(isinstance(o, DeploymentParity) and o.verdict.passed for o in results),
        "candidates": [_measured(o) if isinstance(o, DeploymentParity) else _not_run(o) for o in results],
    }
    plain: dict[str, Any] = without_nan(document)
    return plain


def _subject(deployment: Deployment) -> dict[str, Any]:
    m = deployment.bundle.manifest
    return {
        "label": deployment.label,
        "bundle": str(deployment.bundle.path),
        "name": m.name,
        "template_sha256": m.template.sha256,
        "search_sha256": m.search.sha256,
        "weights_sha256": m.weights.get("sha256"),
        "precision": deployment.precision,
        "engine": deployment.engine,
    }


def _not_run(result: NotRun) -> dict[str, Any]:
    return {**_subject(result.deployment), "run": False, "reason": result.reason, "passed": False}


def _measured(result: DeploymentParity) -> dict[str, Any]:
    agreement, replayed = result.agreement, result.replay
    return {
        **_subject(result.deployment),
        "run": True,
        "engine_facts": result.facts,
        "passed": result.verdict.passed,
        "verdict": result.verdict.detail,
        "gate": dataclasses.asdict(GATES[result.deployment.precision]),
        "closed_loop": {
            "mean_iou": agreement.mean_iou,
            "mean_iou_before_divergence": agreement.mean_iou_before_divergence,
            "mean_iou_on_target": agreement.mean_iou_on_target,
            "mean_iou_both_on_target": agreement.mean_iou_followed,
            "share_lost": agreement.lost,
            "share_found": agreement.found,
            "least_iou": agreement.least_iou,
            "auc": agreement.auc,
            "auc_pytorch": agreement.auc_reference,
            "parted_sequences": len(agreement.diverged),
            "sequences": [
                {
                    "name": s.name,
                    "mean_iou": s.mean_iou,
                    "least_iou": s.least_iou,
                    "parted_at": s.diverged_at,
                    "auc": s.auc,
                    "auc_pytorch": s.auc_reference,
                    "iou": _rounded(s.overlap),
                }
                for s in agreement.sequences
            ],
        },
        "tensors": [dataclasses.asdict(tensor) for tensor in replayed.tensors],
        "tensors_from_the_reference_state": True,
        "growth": {
            "frames_compared": replayed.frames,
            "box": replayed.growth.box.tolist(),
            "confidence": replayed.growth.confidence.tolist(),
            "state": replayed.growth.state.tolist(),
        },
        "tolerance": result.tolerance,
        "divergence": None if result.divergence is None else dataclasses.asdict(result.divergence),
        "note": result.note,
    }


def _rounded(values: npt.NDArray[np.float64]) -> list[float]:
    return [round(float(value), 5) for value in values]


_LEAST_SHOWN = 1e-9
"""Errors of exactly zero have no place on a logarithmic axis."""


def parity_plot(results: Sequence[DeploymentParity], data: str) -> Plot:
    """One panel of IoU over time for each deployment, one of the growth of errors for all.

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
                    color=style.color,
                    dashes=dashes or (None, None),
                    linewidth=1.3,
                    label=f"{result.deployment.label}: {what}",
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
        f"{r.deployment.label}: mean {r.agreement.mean_iou:.4f}, least {r.agreement.least_iou:.3f}, "
        f"{len(r.agreement.diverged)} of {len(r.agreement.sequences)} sequences diverge"
        for r in results
    )
    return Plot("parity", title, alt, figure)


def _timeline(axes: Any, result: DeploymentParity, index: int, title: str | None) -> None:
    """All sequences one after the other, with a line between two."""
    agreement = result.agreement
    overlap = np.concatenate([s.overlap for s in agreement.sequences])
    ends = np.cumsum([len(s.overlap) for s in agreement.sequences])
    axes.plot(overlap, color=tracker_style(index).color, linewidth=1.0)
    for end in ends[:-1]:
        axes.axvline(end - 0.5, color=SHADE, linewidth=0.5, alpha=0.6)
    axes.axhline(DIVERGED_BELOW, color=INK, linewidth=0.6, linestyle=":")
    start = 0
    for s, end in zip(agreement.sequences, ends, strict=True):
        if s.diverged_at is not None:
            axes.plot([start + s.diverged_at - 1], [1.03], "v", color=INK, markersize=4, clip_on=False)
        start = int(end)
    verdict = "passed" if result.verdict.passed else "FAILED"
    label = f"{result.deployment.label}: mean {agreement.mean_iou:.4f}, gate {verdict}"
    axes.set(ylim=(-0.03, 1.06), xlim=(-0.5, len(overlap) - 0.5), ylabel="IoU")
    axes.set_title(label if title is None else f"{title}\n{label}", fontsize=9)
    if title is not None:
        axes.annotate(
            "line: next sequence, mark: first frame under 0.9", (1.0, 1.0), xycoords="axes fraction",
            ha="right", va="bottom", fontsize=7.5, color=SHADE, xytext=(0, 6), textcoords="offset points",
        )  # fmt: skip
