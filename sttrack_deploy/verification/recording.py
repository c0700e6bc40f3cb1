"""Recording what the reference saw and said in closed loop, so that others can be given exactly the same."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.engines.base import BoolArray, Engine, EngineState, Prediction, UInt8Array
from sttrack_deploy.verification.engine_state import Arrays, read_state

__all__ = ["RecordedStep", "Recorder", "Recording"]

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """One search step of the reference.

    Attributes:
        search, mask: the crop it was given, as :class:`~sttrack_deploy.engines.base.Engine` takes it.
        box: float32 ``(B, 4)``; confidence: float32 ``(B,)``.
        changed: the state's changing tensors after the step.
    """

    search: UInt8Array
    mask: BoolArray
    box: Float32Array
    confidence: Float32Array
    changed: Arrays


@dataclass(slots=True)
class Recording:
    """The first frames of one sequence.

    Attributes:
        initial: the whole state after the template graph.
        steps: frame 1 first.
    """

    sequence: str
    template: UInt8Array
    template_mask: BoolArray
    initial: Arrays
    steps: list[RecordedStep] = field(default_factory=list)

    def state_before(self, index: int) -> Arrays:
        """The whole state that step ``index`` (0 is frame 1) started from."""
        return self.initial if index == 0 else {**self.initial, **self.steps[index - 1].changed}


class Recorder:
    """An engine that passes everything to another one and keeps the first ``frames`` steps of each track."""

    def __init__(self, engine: Engine, bundle: Bundle, frames: int) -> None:
        self.name = engine.name
        self.recording: Recording | None = None
        self.enabled = True
        self._engine, self._bundle, self._frames = engine, bundle, frames
        self._changing = {spec.name for spec in bundle.manifest.state if spec.output is not None}

    def initial_state(self, template: UInt8Array, mask: BoolArray) -> EngineState:
        state = self._engine.initial_state(template, mask)
        arrays = read_state(self._engine, self._bundle, state)
        self.recording = None
        if self.enabled and arrays is not None:
            self.recording = Recording("", template.copy(), mask.copy(), arrays)
        return state

    def step(self, search: UInt8Array, mask: BoolArray, state: EngineState) -> tuple[Prediction, EngineState]:
        prediction, after = self._engine.step(search, mask, state)
        recording = self.recording
        if recording is not None and len(recording.steps) < self._frames:
            arrays = read_state(self._engine, self._bundle, after) or {}
            changed = {name: value for name, value in arrays.items() if name in self._changing}
            recording.steps.append(
                RecordedStep(
                    search.copy(), mask.copy(), prediction.box.copy(), prediction.confidence.copy(), changed
                )
            )
        return prediction, after

    def describe(self) -> dict[str, str]:
        return self._engine.describe()
