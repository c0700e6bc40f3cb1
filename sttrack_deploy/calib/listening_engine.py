"""An engine that lets the recorder see what the tracker feeds the network."""

from __future__ import annotations

from sttrack_deploy.bundle import SEARCH_IMAGE, SEARCH_MASK, TEMPLATE_IMAGE, TEMPLATE_MASK, Bundle
from sttrack_deploy.calib.calibration_set import Feeds
from sttrack_deploy.engines.base import BoolArray, Engine, EngineState, Prediction, UInt8Array
from sttrack_deploy.errors import UsageError
from sttrack_deploy.verification.engine_state import read_state

__all__ = ["ListeningEngine"]


class ListeningEngine:
    """Passes everything on to an engine, and keeps the inputs of the last call.

    So the tracker itself decides what is cropped, and nothing of it is written a second time. The interface of
    engines hides the state; it is read as the parity check reads it, which works for ONNX Runtime, whose state is
    a mapping of arrays by the search graph's inputs. Engines that show none are refused.

    Attributes:
        template: inputs of the last call of the template graph, batch 1.
        search: inputs of the last call of the search graph, batch 1; only while ``listening``.
        padded: the last search crop reached over the image's border.
        listening: copy the inputs of the search graph.
    """

    def __init__(self, engine: Engine, bundle: Bundle) -> None:
        self.name = engine.name
        self._engine = engine
        self._bundle = bundle
        self.template: Feeds = {}
        self.search: Feeds = {}
        self.padded = False
        self.listening = False

    def initial_state(self, template: UInt8Array, mask: BoolArray) -> EngineState:
        self.template = {TEMPLATE_IMAGE: template[:1].copy(), TEMPLATE_MASK: mask[:1].copy()}
        state = self._engine.initial_state(template, mask)
        if read_state(self._engine, self._bundle, state) is None:
            raise UsageError(
                f"the engine '{self.name}' keeps the state where it cannot be recorded; use --engine onnxruntime"
            )
        return state

    def step(self, search: UInt8Array, mask: BoolArray, state: EngineState) -> tuple[Prediction, EngineState]:
        self.padded = bool(mask[0].any())
        if self.listening:
            # Before the call: a state is used up by the step that it is given to.
            self.search = {SEARCH_IMAGE: search[:1].copy(), SEARCH_MASK: mask[:1].copy()}
            values = read_state(self._engine, self._bundle, state) or {}
            self.search |= {spec.input: values[spec.name][:1] for spec in self._bundle.manifest.state}
        return self._engine.step(search, mask, state)

    def describe(self) -> dict[str, str]:
        return self._engine.describe()
