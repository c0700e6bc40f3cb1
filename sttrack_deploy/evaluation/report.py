"""From runs to numbers: the scores of every sequence and of the whole set, as a table and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich import box
from rich.markup import escape
from rich.table import Table

from sttrack_deploy.evaluation import dataset as data
from sttrack_deploy.evaluation.metrics import (
    Curves,
    Protocol,
    Score,
    mean_curves,
    on_target_auroc,
    presence_auroc,
    usable_truth,
)
from sttrack_deploy.evaluation.results import as_written
from sttrack_deploy.evaluation.runner import SequenceFailure, SequenceRun
from sttrack_deploy.files import atomic_path
from sttrack_deploy.geometry import iou

__all__ = ["FPS_NOTE", "Report", "SequenceReport", "score_run", "write_json"]

FloatArray = npt.NDArray[np.float64]

FPS_NOTE = (
    "FPS: frames over the time in update() (crop, inference, box; no decoding), median over sequences; "
    "e2e adds decoding and init()"
)


@dataclass(frozen=True, slots=True)
class SequenceReport:
    """One sequence's numbers.

    Attributes:
        absent: frames without a usable true box.
        lost: frames that the tracker called lost.
        confidence: of each tracked frame (all but the first), ``(N - 1,)``.
        overlap: IoU with the truth of the same frames; NaN where absent.
        truth: true boxes of the same frames, ``(N - 1, 4)``.
    """

    name: str
    frames: int
    absent: int
    lost: int
    score: Score
    fps: float
    fps_end_to_end: float
    curves: Curves = field(repr=False)
    confidence: FloatArray = field(repr=False)
    overlap: FloatArray = field(repr=False)
    truth: FloatArray = field(repr=False)

    @property
    def presence_auroc(self) -> float:
        return presence_auroc(self.confidence, self.truth)

    @property
    def on_target_auroc(self) -> float:
        return on_target_auroc(self.confidence, self.overlap, self.truth)

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "frames": self.frames,
            "absent": self.absent,
            "lost": self.lost,
            **asdict(self.score),
            "presence_auroc": self.presence_auroc,
            "on_target_auroc": self.on_target_auroc,
            "fps": self.fps,
            "fps_end_to_end": self.fps_end_to_end,
        }


def score_run(run: SequenceRun, sequence: data.Sequence, protocol: Protocol) -> SequenceReport:
    """Compare a run with the truth.

    Raises:
        UserError: the run's boxes cannot be scored (NaN, or a negative side).
    """
    boxes = as_written(run.boxes)
    curves = protocol.curves(boxes, sequence.truth)
    valid = usable_truth(sequence.truth)
    return SequenceReport(
        name=run.name,
        frames=len(sequence),
        absent=int((~valid).sum()),
        lost=int(run.lost.sum()),
        score=protocol.reduce(curves),
        fps=run.fps,
        fps_end_to_end=run.fps_end_to_end,
        curves=curves,
        confidence=run.confidences[1:],
        overlap=np.where(valid, iou(boxes, sequence.truth), np.nan)[1:],
        truth=sequence.truth[1:],
    )


@dataclass(frozen=True, slots=True)
class Report:
    """One tracker's numbers on one data set.

    Attributes:
        subject: what was measured (bundle, engine, threads …), for the JSON.
        label: the same in a few words, for the table.
        planned: how many sequences there were to run; fewer are here after an interruption.
    """

    label: str
    dataset: str
    protocol: Protocol
    sequences: tuple[SequenceReport, ...]
    failures: tuple[SequenceFailure, ...] = ()
    planned: int = 0
    subject: Mapping[str, Any] = field(default_factory=dict)

    @property
    def score(self) -> Score:
        return self.protocol.overall([s.curves for s in self.sequences])

    @property
    def frames(self) -> int:
        return sum(s.frames for s in self.sequences)

    @property
    def fps(self) -> float:
        return _median(s.fps for s in self.sequences)

    @property
    def fps_end_to_end(self) -> float:
        return _median(s.fps_end_to_end for s in self.sequences)

    @property
    def presence_auroc(self) -> float:
        """Over the tracked frames of all sequences in one pool."""
        if not self.sequences:
            return math.nan
        confidence, _, truth = self._pool()
        return presence_auroc(confidence, truth)

    @property
    def on_target_auroc(self) -> float:
        """Over the tracked frames of all sequences in one pool."""
        return on_target_auroc(*self._pool()) if self.sequences else math.nan

    @property
    def complete(self) -> bool:
        return not self.failures and len(self.sequences) == self.planned

    def _pool(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        return (
            np.concatenate([s.confidence for s in self.sequences]),
            np.concatenate([s.overlap for s in self.sequences]),
            np.concatenate([s.truth for s in self.sequences]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything, in types that JSON knows; NaN (no such frames) is None."""
        result = {
            **self.subject,
            "label": self.label,
            "dataset": self.dataset,
            "protocol": self.protocol.name,
            "complete": self.complete,
            "planned": self.planned,
            "overall": {
                "sequences": len(self.sequences),
                "frames": self.frames,
                "absent": sum(s.absent for s in self.sequences),
                "lost": sum(s.lost for s in self.sequences),
                **asdict(self.score),
                "presence_auroc": self.presence_auroc,
                "on_target_auroc": self.on_target_auroc,
                "fps_median": self.fps,
                "fps_end_to_end_median": self.fps_end_to_end,
            },
            "success_curve": mean_curves([s.curves for s in self.sequences]).success.tolist(),
            "fps_means": FPS_NOTE,
            "sequences": [s.to_dict() for s in self.sequences],
            "failures": [asdict(f) for f in self.failures],
        }
        cleaned: dict[str, Any] = _without_nan(result)
        return cleaned

    def table(self) -> Table:
        """The numbers for a terminal: a row a sequence, the whole set below."""
        table = Table(
            title=escape(f"{self.label} on {self.dataset}, protocol {self.protocol.name}"),
            title_justify="left",
            box=box.SIMPLE,
            show_edge=False,
            pad_edge=False,
            show_footer=True,
        )
        score = self.score
        count = len(self.sequences)
        name = f"{count} sequence{'s' if count != 1 else ''}"
        auc, precision, normalized = self.protocol.columns
        name += f" of {self.planned}" if count < self.planned else ""
        table.add_column("sequence", name, no_wrap=True)
        for header, footer in (
            ("frames", str(self.frames)),
            ("absent", str(sum(s.absent for s in self.sequences))),
            (auc, _ratio(score.auc)),
            (precision, _ratio(score.precision)),
            (normalized, _ratio(score.normalized_precision)),
            ("FPS", _rate(self.fps)),
            ("e2e", _rate(self.fps_end_to_end)),
        ):
            table.add_column(header, footer, justify="right")
        for s in self.sequences:
            table.add_row(
                escape(s.name),
                str(s.frames),
                str(s.absent),
                _ratio(s.score.auc),
                _ratio(s.score.precision),
                _ratio(s.score.normalized_precision),
                _rate(s.fps),
                _rate(s.fps_end_to_end),
            )
        return table

    def notes(self) -> list[str]:
        """The lines below the table: the confidence's numbers, and what FPS means."""
        return [
            f"confidence, AUROC over all tracked frames: target present / absent {_ratio(self.presence_auroc)}, "
            f"on target (IoU > 0.5) / off it (< 0.1) {_ratio(self.on_target_auroc)}",
            FPS_NOTE,
        ]


def write_json(value: Any, path: Path | None) -> str:
    """``value`` (of :meth:`Report.to_dict`) as JSON text; written to ``path`` if there is one.

    Raises:
        UserError: it cannot be written.
    """
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    if path is not None:
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return text


def _median(values: Iterable[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.median(finite)) if finite else math.nan


def _ratio(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _rate(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
