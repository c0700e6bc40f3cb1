"""From runs to numbers: what each protocol makes of a tracker's results on one data set."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sttrack_deploy.auroc import auroc
from sttrack_deploy.evaluation.confidence import on_target_auroc
from sttrack_deploy.evaluation.protocols.base import Measured, Protocol, Score, pool
from sttrack_deploy.files import atomic_path
from sttrack_deploy.geometry import iou
from sttrack_deploy.sequences.sequence import (
    SequenceFailure,
    TrackRun,
    VideoSequence,
    image_size,
    usable_truth,
)

__all__ = ["FPS_NOTE", "Report", "SequenceReport", "score_run", "without_nan", "write_json"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

FPS_NOTE = (
    "FPS: frames over the time in update() (crop, inference, box; no decoding), median over sequences; "
    "e2e adds decoding and init()"
)


@dataclass(frozen=True, slots=True)
class SequenceReport:
    """One sequence's numbers, and what plots and pictures are made from.

    Attributes:
        sequence: the data, with the truth and the attributes.
        run: what the tracker said.
        measured: by protocol name.
        scores: by protocol name.
        present: frames with a usable true box that is not flagged hidden, bool ``(N,)``.
        overlap: IoU with the truth, float64 ``(N,)``; NaN where not present.
    """

    sequence: VideoSequence
    run: TrackRun = field(repr=False)
    measured: Mapping[str, Measured] = field(repr=False)
    scores: Mapping[str, Score]
    present: BoolArray = field(repr=False)
    overlap: FloatArray = field(repr=False)

    @property
    def name(self) -> str:
        return self.sequence.name

    @property
    def frames(self) -> int:
        return len(self.sequence)

    @property
    def absent(self) -> int:
        """Frames without a visible target."""
        return int((~self.present).sum())

    @property
    def lost(self) -> int | None:
        """Frames that the tracker called lost; ``None`` where it was not asked."""
        return None if self.run.lost is None else int(self.run.lost.sum())

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "frames": self.frames,
            "absent": self.absent,
            "lost": self.lost,
            "protocols": {name: dict(score) for name, score in self.scores.items()},
            **_confidence_figures([self]),
            "fps": self.run.fps,
            "fps_end_to_end": self.run.fps_end_to_end,
        }


def score_run(run: TrackRun, sequence: VideoSequence, protocols: Iterable[Protocol]) -> SequenceReport:
    """Compare a run with the truth.

    Raises:
        UserError: the run's boxes cannot be scored (NaN, or a negative side).
    """
    protocols = tuple(protocols)
    size = image_size(sequence) if any(p.needs_image_size for p in protocols) else None
    measured = {p.name: p.measure(run.boxes, sequence, size) for p in protocols}
    present = usable_truth(sequence.truth)
    if sequence.visible is not None:
        present &= sequence.visible
    return SequenceReport(
        sequence=sequence,
        run=run,
        measured=measured,
        scores={p.name: p.score(measured[p.name]) for p in protocols},
        present=present,
        overlap=np.where(present, iou(run.boxes, sequence.truth), np.nan),
    )


@dataclass(frozen=True, slots=True)
class Report:
    """One tracker's numbers on one data set.

    Attributes:
        label: the tracker in a few words.
        dataset: name of the data set, as a path shows it.
        protocols: the first is the one that tables lead with.
        sequences: those that were run and scored.
        failures: those that could not be.
        planned: how many sequences there were to run; fewer are here after an interruption.
        subject: what was measured (bundle, engine, threads …), for programs.
    """

    label: str
    dataset: str
    protocols: tuple[Protocol, ...]
    sequences: tuple[SequenceReport, ...]
    failures: tuple[SequenceFailure, ...] = ()
    planned: int = 0
    subject: Mapping[str, Any] = field(default_factory=dict)

    @property
    def protocol(self) -> Protocol:
        """The one that tables lead with."""
        return self.protocols[0]

    def pooled(self, protocol: Protocol) -> Measured:
        """The curves over all sequences."""
        return pool([s.measured[protocol.name] for s in self.sequences], protocol.thresholds)

    def score(self, protocol: Protocol | None = None) -> Score:
        """The numbers over all sequences, by the leading protocol unless another is named."""
        protocol = protocol or self.protocol
        return protocol.score(self.pooled(protocol))

    @property
    def frames(self) -> int:
        return sum(s.frames for s in self.sequences)

    @property
    def absent(self) -> int:
        return sum(s.absent for s in self.sequences)

    @property
    def fps(self) -> float:
        """Median over sequences, of the time in ``update`` alone."""
        return _median(s.run.fps for s in self.sequences)

    @property
    def fps_end_to_end(self) -> float:
        """Median over sequences, decoding included."""
        return _median(s.run.fps_end_to_end for s in self.sequences)

    @property
    def complete(self) -> bool:
        return not self.failures and len(self.sequences) == self.planned

    @property
    def confidence_figures(self) -> dict[str, float]:
        """AUROC of the confidence, over the tracked frames of all sequences in one pool; NaN if not known."""
        return _confidence_figures(self.sequences)

    def to_dict(self) -> dict[str, Any]:
        """Everything, in types that JSON knows; NaN (no such frames) is None."""
        lost = [s.lost for s in self.sequences if s.lost is not None]
        protocols = {}
        for protocol in self.protocols:
            pooled = self.pooled(protocol)
            protocols[protocol.name] = {
                **protocol.score(pooled),
                "curves": {
                    "success": pooled.success.tolist(),
                    "precision": pooled.precision.tolist(),
                    "normalized_precision": pooled.normalized.tolist(),
                },
            }
        result = {
            "label": self.label,
            **self.subject,
            "complete": self.complete,
            "planned": self.planned,
            "overall": {
                "sequences": len(self.sequences),
                "frames": self.frames,
                "absent": self.absent,
                "lost": sum(lost) if lost else None,
                **self.confidence_figures,
                "fps_median": self.fps,
                "fps_end_to_end_median": self.fps_end_to_end,
            },
            "protocols": protocols,
            "sequences": [s.to_dict() for s in self.sequences],
            "failures": [asdict(f) for f in self.failures],
        }
        cleaned: dict[str, Any] = without_nan(result)
        return cleaned


def write_json(value: Any, path: Path | None) -> str:
    """``value`` as JSON text; written to ``path`` if there is one.

    Raises:
        UserError: it cannot be written.
    """
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    if path is not None:
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return text


def without_nan(value: Any) -> Any:
    """The same with None for every number that is not finite, since JSON has no other."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _confidence_figures(sequences: Iterable[SequenceReport]) -> dict[str, float]:
    """Over the tracked frames (all but the first, which the tracker was given) of those that have confidences."""
    known = [(s.run.confidences, s) for s in sequences if s.run.confidences is not None]
    if not known:
        return {"presence_auroc": math.nan, "on_target_auroc": math.nan}
    confidence = np.concatenate([confidences[1:] for confidences, _ in known])
    overlap = np.concatenate([s.overlap[1:] for _, s in known])
    present = np.concatenate([s.present[1:] for _, s in known])
    return {
        "presence_auroc": auroc(confidence, present),
        "on_target_auroc": on_target_auroc(confidence, overlap),
    }


def _median(values: Iterable[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.median(finite)) if finite else math.nan
