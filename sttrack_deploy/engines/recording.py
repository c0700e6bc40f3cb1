"""An engine that keeps what passes through it: for calibration sets, and to give other engines exactly the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sttrack_deploy.bundle import SEARCH_IMAGE, SEARCH_MASK, TEMPLATE_IMAGE, TEMPLATE_MASK, StateSpec
from sttrack_deploy.engines.base import (
    Arrays,
    BoolArray,
    Engine,
    EngineState,
    Float32Array,
    Prediction,
    UInt8Array,
)

__all__ = ["RecordedStart", "RecordedStep", "Recording", "RecordingEngine"]


@dataclass(frozen=True, slots=True)
class RecordedStart:
    """One call of the template graph.

    Attributes:
        template, mask: what it was given, as :class:`~sttrack_deploy.engines.base.Engine` takes it.
        state: the whole state that came out.
    """

    template: UInt8Array
    mask: BoolArray
    state: Arrays

    def inputs(self) -> Arrays:
        """Of the first target, by the template graph's names."""
        return {TEMPLATE_IMAGE: self.template[:1], TEMPLATE_MASK: self.mask[:1]}


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """One call of the search graph.

    Attributes:
        search, mask: the crop it was given.
        before: the whole state it was given.
        box: float32 ``(B, 4)``; confidence: float32 ``(B,)``.
        after: the whole state that came out.
    """

    search: UInt8Array
    mask: BoolArray
    before: Arrays
    box: Float32Array
    confidence: Float32Array
    after: Arrays

    def inputs(self, state: Sequence[StateSpec]) -> Arrays:
        """Of the first target, by the search graph's names."""
        carried = {spec.input: self.before[spec.name][:1] for spec in state}
        return {SEARCH_IMAGE: self.search[:1], SEARCH_MASK: self.mask[:1], **carried}


@dataclass(frozen=True, slots=True)
class Recording:
    """The first frames of one sequence; ``steps`` begin with frame 1."""

    sequence: str
    start: RecordedStart
    steps: list[RecordedStep] = field(default_factory=list)


class RecordingEngine:
    """Passes everything on to another engine, and keeps the last call of each graph.

    So the tracker itself decides what is cropped, and nothing of it is written a second time.

    Attributes:
        enabled: record steps; copying the state takes time.
        start: the last call of the template graph.
        last: the last call of the search graph while ``enabled``.
        padded: the last search crop reached over the image's border.
    """

    def __init__(self, engine: Engine, *, enabled: bool = True) -> None:
        self.name = engine.name
        self.enabled = enabled
        self.start: RecordedStart | None = None
        self.last: RecordedStep | None = None
        self.padded = False
        self._engine = engine

    def initial_state(self, template: UInt8Array, mask: BoolArray) -> EngineState:
        state = self._engine.initial_state(template, mask)
        self.start = RecordedStart(template.copy(), mask.copy(), self._engine.export_state(state))
        self.last = None
        return state

    def step(self, search: UInt8Array, mask: BoolArray, state: EngineState) -> tuple[Prediction, EngineState]:
        self.padded = bool(mask[0].any())
        if not self.enabled:
            return self._engine.step(search, mask, state)
        # Before the call: a state is used up by the step that it is given to.
        before = self._engine.export_state(state)
        prediction, after = self._engine.step(search, mask, state)
        self.last = RecordedStep(
            search.copy(),
            mask.copy(),
            before,
            prediction.box.copy(),
            prediction.confidence.copy(),
            self._engine.export_state(after),
        )
        return prediction, after

    def export_state(self, state: EngineState) -> Arrays:
        return self._engine.export_state(state)

    def import_state(self, arrays: Arrays) -> EngineState:
        return self._engine.import_state(arrays)

    def describe(self) -> dict[str, str]:
        return self._engine.describe()
