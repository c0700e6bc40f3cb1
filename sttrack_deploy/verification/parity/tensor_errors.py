"""The deployment on the reference's own crops: tensor by tensor, and how errors grow while it carries its state.

Teacher-forced: a box that differs does not change the next crop, so what is seen is the numbers' own error and
not the chaos of the closed loop.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import BOX, CONFIDENCE, Bundle
from sttrack_deploy.engines.base import Engine
from sttrack_deploy.engines.recording import Recording
from sttrack_deploy.progress import SILENT, Progress

__all__ = ["GrowthCurves", "Replay", "TensorError", "TensorErrors", "relative_error", "replay"]


@dataclass(frozen=True, slots=True)
class TensorError:
    """One tensor over all frames.

    Attributes:
        name: ``<graph> <output>``.
        largest: greatest absolute difference; infinite where one is not a number or a shape differs.
        mean: mean absolute difference.
        relative: ``largest`` over the reference's greatest magnitude.
        cosine: of the two tensors, all frames in one vector; NaN where one is zero everywhere.
        values: how many numbers were compared.
    """

    name: str
    largest: float
    mean: float
    relative: float
    cosine: float
    values: int


@dataclass(slots=True)
class _Sums:
    largest: float = 0.0
    absolute: float = 0.0
    magnitude: float = 0.0
    product: float = 0.0
    square: float = 0.0
    square_reference: float = 0.0
    values: int = 0


class TensorErrors:
    """Add pairs, then ask for :meth:`table`; the order is that of the first ``add`` of each name."""

    def __init__(self) -> None:
        self._sums: dict[str, _Sums] = {}

    def add(self, name: str, value: npt.NDArray[Any], reference: npt.NDArray[Any]) -> None:
        """Compare one frame's tensor; any dtype, booleans count as 0 and 1."""
        sums = self._sums.setdefault(name, _Sums())
        a, b = (np.asarray(array, np.float64).ravel() for array in (value, reference))
        if value.shape != reference.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
            sums.largest = math.inf
            return
        difference = np.abs(a - b)
        sums.largest = max(sums.largest, float(difference.max(initial=0.0)))
        sums.absolute += float(difference.sum())
        sums.magnitude = max(sums.magnitude, float(np.abs(b).max(initial=0.0)))
        sums.product += float(a @ b)
        sums.square += float(a @ a)
        sums.square_reference += float(b @ b)
        sums.values += a.size

    def table(self) -> list[TensorError]:
        """One row a tensor."""
        return [
            TensorError(
                name=name,
                largest=s.largest,
                mean=s.absolute / s.values if s.values else math.nan,
                relative=_ratio(s.largest, s.magnitude),
                cosine=_cosine(s),
                values=s.values,
            )
            for name, s in self._sums.items()
        ]


def relative_error(value: npt.NDArray[Any], reference: npt.NDArray[Any]) -> float:
    """Greatest absolute difference over the reference's greatest magnitude; infinite for other shapes or NaN."""
    errors = TensorErrors()
    errors.add("", value, reference)
    return errors.table()[0].relative


def _ratio(largest: float, magnitude: float) -> float:
    if largest == 0.0:
        return 0.0
    return largest / magnitude if magnitude else math.inf


def _cosine(sums: _Sums) -> float:
    norm = math.sqrt(sums.square) * math.sqrt(sums.square_reference)
    return sums.product / norm if norm else math.nan


FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GrowthCurves:
    """Greatest error over the sequences, by frame: float64 ``(frames,)``, frame 1 first.

    Attributes:
        box: greatest difference of a coordinate, as a share of the crop's side.
        confidence: absolute difference.
        state: greatest relative difference of a changing state tensor; NaN where the engine does not show it.
    """

    box: FloatArray
    confidence: FloatArray
    state: FloatArray


@dataclass(frozen=True, slots=True)
class Replay:
    """What came out.

    Attributes:
        tensors: every output of both graphs; the search graph's from the reference's state.
        growth: with the deployment's own state carried from frame to frame.
        diverged: sequence and step (0 is frame 1) where ``growth`` first exceeds the tolerance; ``None``: nowhere.
        template_diverged: sequence whose initial state exceeds the tolerance; ``None``: none.
        frames: steps that were compared.
    """

    tensors: list[TensorError]
    growth: GrowthCurves
    diverged: tuple[str, int] | None
    template_diverged: str | None
    frames: int


def replay(
    engine: Engine,
    bundle: Bundle,
    recordings: Iterable[Recording],
    tolerance: float,
    progress: Progress = SILENT,
) -> Replay:
    """Give the engine what the reference was given.

    Args:
        bundle: the engine's; its state has the reference's names.
        tolerance: relative error from which tensors count as diverged, for ``diverged`` and ``template_diverged``.
    """
    errors, rows = TensorErrors(), []
    changing = [spec for spec in bundle.manifest.state if spec.output is not None]
    template_diverged: str | None = None
    diverged: tuple[str, int] | None = None
    for recording in recordings:
        start = recording.start
        state = engine.initial_state(start.template, start.mask)
        initial = engine.export_state(state)
        for spec in bundle.manifest.state:
            errors.add(f"template {spec.initial}", initial[spec.name], start.state[spec.name])
            if template_diverged is None:
                off = relative_error(initial[spec.name], start.state[spec.name])
                template_diverged = recording.sequence if off > tolerance else None
        curve = np.full((len(recording.steps), 3), np.nan)
        for index, step in enumerate(recording.steps):
            one, after = engine.step(step.search, step.mask, engine.import_state(step.before))
            single = engine.export_state(after)
            prediction, state = engine.step(step.search, step.mask, state)
            own = engine.export_state(state)
            errors.add(f"search {BOX}", one.box, step.box)
            errors.add(f"search {CONFIDENCE}", one.confidence, step.confidence)
            for spec in changing:
                errors.add(f"search {spec.output}", single[spec.name], step.after[spec.name])
            curve[index, 0] = _greatest(prediction.box - step.box)
            curve[index, 1] = _greatest(prediction.confidence - step.confidence)
            curve[index, 2] = max(
                (relative_error(own[s.name], step.after[s.name]) for s in changing), default=0.0
            )
            progress.advance()
        over = np.flatnonzero(np.nanmax(np.nan_to_num(curve, nan=0.0), axis=1) > tolerance)
        if len(over) and (diverged is None or over[0] < diverged[1]):
            diverged = (recording.sequence, int(over[0]))
        rows.append(curve)
    return Replay(errors.table(), _curves(rows), diverged, template_diverged, sum(map(len, rows)))


def _greatest(difference: npt.NDArray[np.float32]) -> float:
    """Infinite where one is not a number, so that it counts as the error that it is."""
    greatest = float(np.abs(difference).max())
    return greatest if np.isfinite(greatest) else np.inf


def _curves(rows: list[FloatArray]) -> GrowthCurves:
    """The greatest over sequences, which may be of different lengths."""
    longest = max((len(row) for row in rows), default=0)
    table = np.full((len(rows), longest, 3), np.nan)
    for place, row in zip(table, rows, strict=True):
        place[: len(row)] = row
    # NaN only where no sequence has a number.
    known = ~np.isnan(table).all(axis=0)
    greatest = np.where(
        known, np.max(np.where(np.isnan(table), -np.inf, table), axis=0, initial=-np.inf), np.nan
    )
    return GrowthCurves(*(greatest[:, column] for column in range(3)))
