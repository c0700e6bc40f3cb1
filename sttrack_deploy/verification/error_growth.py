"""The candidate on the reference's own crops: tensor by tensor, and how errors grow while it carries its state.

Teacher-forced: a box that differs does not change the next crop, so what is seen is the numbers' own error and
not the chaos of the closed loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import BOX, CONFIDENCE, Bundle
from sttrack_deploy.engines.base import Engine
from sttrack_deploy.verification.engine_state import given_state, read_state
from sttrack_deploy.verification.recording import Recording
from sttrack_deploy.verification.tensor_errors import TensorError, TensorErrors, relative_error

__all__ = ["GrowthCurves", "Replay", "replay"]

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
        tensors: every output of both graphs; the search graph's from the reference's state where the engine
            takes one (``single_step``), else from its own.
        single_step: see above.
        growth: with the candidate's own state carried from frame to frame.
        parted: sequence and step (0 is frame 1) where ``growth`` first exceeds the tolerance; ``None``: nowhere.
        template_parted: sequence whose initial state exceeds the tolerance; ``None``: none.
        frames: steps that were compared.
    """

    tensors: list[TensorError]
    single_step: bool
    growth: GrowthCurves
    parted: tuple[str, int] | None
    template_parted: str | None
    frames: int


def replay(
    engine: Engine,
    bundle: Bundle,
    recordings: Iterable[Recording],
    tolerance: float,
    tick: Callable[[], None] = lambda: None,
) -> Replay:
    """Give the engine what the reference was given.

    Args:
        bundle: the engine's; its state has the reference's names.
        tolerance: relative error from which tensors count as parted, for ``parted`` and ``template_parted``.
    """
    errors, rows = TensorErrors(), []
    changing = [spec for spec in bundle.manifest.state if spec.output is not None]
    single_step, template_parted = True, None
    parted: tuple[str, int] | None = None
    for recording in recordings:
        state = engine.initial_state(recording.template, recording.template_mask)
        initial = read_state(engine, bundle, state)
        for spec in bundle.manifest.state if initial is not None else ():
            assert initial is not None
            errors.add(f"template {spec.initial}", initial[spec.name], recording.initial[spec.name])
            if template_parted is None:
                off = relative_error(initial[spec.name], recording.initial[spec.name])
                template_parted = recording.sequence if off > tolerance else None
        curve = np.full((len(recording.steps), 3), np.nan)
        for index, step in enumerate(recording.steps):
            given = given_state(engine, bundle, state, recording.state_before(index))
            if given is not None:
                one, after = engine.step(step.search, step.mask, given)
                single = read_state(engine, bundle, after)
            prediction, state = engine.step(step.search, step.mask, state)
            own = read_state(engine, bundle, state)
            if given is None:
                single_step, one, single = False, prediction, own
            errors.add(f"search {BOX}", one.box, step.box)
            errors.add(f"search {CONFIDENCE}", one.confidence, step.confidence)
            for spec in changing if single is not None and step.changed else ():
                assert single is not None
                errors.add(f"search {spec.output}", single[spec.name], step.changed[spec.name])
            curve[index, 0] = np.abs(prediction.box - step.box).max()
            curve[index, 1] = np.abs(prediction.confidence - step.confidence).max()
            if own is not None and step.changed:
                curve[index, 2] = max(
                    (relative_error(own[s.name], step.changed[s.name]) for s in changing), default=0.0
                )
            tick()
        over = np.flatnonzero(np.nanmax(np.nan_to_num(curve, nan=0.0), axis=1) > tolerance)
        if len(over) and (parted is None or over[0] < parted[1]):
            parted = (recording.sequence, int(over[0]))
        rows.append(curve)
    return Replay(errors.table(), single_step, _curves(rows), parted, template_parted, sum(map(len, rows)))


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
