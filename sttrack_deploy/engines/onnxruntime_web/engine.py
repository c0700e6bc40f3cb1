"""Both graphs in ONNX Runtime Web, in a headless Chromium: so that what runs in a browser passes the same gates."""

from __future__ import annotations

import base64
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.engines.base import Arrays, BoolArray, EngineState, Prediction, UInt8Array, graph_inputs
from sttrack_deploy.engines.onnxruntime_web.browser import Browser, FileServer, browser_version
from sttrack_deploy.engines.onnxruntime_web.package import PACKAGE, find_runtime
from sttrack_deploy.errors import UserError

__all__ = ["STATIC", "OnnxRuntimeWebEngine", "create", "devices"]

STATIC = Path(__file__).parent / "static"


class _State:
    """A state that lives in the page, by its number; its memory is freed with this object."""

    def __init__(self, number: int, batch: int, dropped: list[int]) -> None:
        self.number, self.batch = number, batch
        weakref.finalize(self, dropped.append, number)


class OnnxRuntimeWebEngine:
    """Runs a bundle in a page; crops go there and boxes come back through WebDriver, which is not fast.

    Attributes:
        browser: the Chromium it runs in; its page has ``window.sttrack``, see ``static/engine.html``.
        server: serves that page.
    """

    name = "onnxruntime-web"

    def __init__(self, bundle: Bundle, threads: int | None = None, runtime: Path | None = None) -> None:
        """``runtime``: see :func:`~sttrack_deploy.engines.onnxruntime_web.package.find_runtime`.

        Raises:
            MissingDependencyError: Chromium, its driver, selenium or npm is not installed.
            UserError: the page fails to load the graphs.
        """
        self._bundle = bundle
        found = find_runtime(runtime)
        self.server = FileServer({"": STATIC, PACKAGE: found, "bundle": bundle.path})
        weakref.finalize(self, self.server.close)
        self.browser = Browser()
        self.browser.driver.get(self.server.url + "engine.html")
        deadline = time.monotonic() + 60
        while not self.browser.driver.execute_script("return window.ready === true"):
            if time.monotonic() > deadline:
                log = [entry["message"] for entry in self.browser.driver.get_log("browser")]
                raise UserError(f"the page in Chromium does not load: {' '.join(log)[:300]}")
            time.sleep(0.05)
        self._facts = self.browser.run("return await window.sttrack.open(args[0])", threads or 1)
        self._dropped: list[int] = []

    def initial_state(self, template: UInt8Array, mask: BoolArray) -> EngineState:
        number = self.browser.run(
            "return await window.sttrack.initialState(...args)", _text(template), _text(mask)
        )
        return _State(number, len(template), self._dropped)

    def step(self, search: UInt8Array, mask: BoolArray, state: EngineState) -> tuple[Prediction, EngineState]:
        dropped, self._dropped[:] = list(self._dropped), []
        answer = self.browser.run(
            "window.sttrack.drop(args[3]); return await window.sttrack.step(args[0], args[1], args[2])",
            _text(search),
            _text(mask),
            state.number,
            dropped,
        )
        box = np.frombuffer(base64.b64decode(answer["box"]), np.float32).reshape(len(search), 4)
        confidence = np.frombuffer(base64.b64decode(answer["confidence"]), np.float32)
        after = _State(answer["state"], len(search), self._dropped)
        return Prediction(box.copy(), confidence.copy()), after

    def export_state(self, state: EngineState) -> Arrays:
        values = self.browser.run("return window.sttrack.read(args[0])", state.number)
        ports = {port.name: port for port in self._bundle.manifest.search.inputs}
        found = {}
        for spec in self._bundle.manifest.state:
            port, text = ports[spec.input], values[spec.input]
            shape = tuple(state.batch if isinstance(axis, str) else axis for axis in port.shape)
            found[spec.name] = np.frombuffer(base64.b64decode(text), port.dtype).reshape(shape).copy()
        return found

    def import_state(self, arrays: Arrays) -> EngineState:
        values = graph_inputs(self._bundle, arrays)
        texts = {name: _text(value) for name, value in values.items()}
        number = self.browser.run("return window.sttrack.write(args[0])", texts)
        return _State(number, len(next(iter(values.values()))), self._dropped)

    def describe(self) -> dict[str, str]:
        return {
            "engine": self.name,
            "version": str(self._facts["version"]),
            "device": f"WebAssembly, {browser_version()}",
            "threads": str(self._facts["threads"]),
        }


def _text(array: npt.NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def create(bundle: Bundle, threads: int | None) -> OnnxRuntimeWebEngine:
    """See :func:`sttrack_deploy.engines.registry.load_engine`."""
    return OnnxRuntimeWebEngine(bundle, threads)


def devices() -> list[str]:
    """The browser that was found."""
    return [browser_version()]
