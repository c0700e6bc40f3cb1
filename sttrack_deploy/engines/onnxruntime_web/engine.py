"""Both graphs in ONNX Runtime Web, in a headless Chromium: so that what runs in a browser passes the same gates."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.engines.base import Arrays, BoolArray, EngineState, Prediction, UInt8Array, graph_inputs
from sttrack_deploy.engines.onnxruntime_web.package import PACKAGE, find_runtime
from sttrack_deploy.errors import MissingDependencyError, UserError, one_line

__all__ = [
    "INSTALL",
    "STATIC",
    "Browser",
    "FileServer",
    "OnnxRuntimeWebEngine",
    "browser_version",
    "create",
    "devices",
    "find_chromium",
]


INSTALL = "apt-get install chromium chromium-driver && pip install selenium"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".svg": "image/svg+xml",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
}
_FLAGS = (
    "--headless",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,900",
)


def find_chromium() -> tuple[str, str]:
    """Paths of Chromium and its driver.

    Raises:
        MissingDependencyError: one of them, or selenium, is not installed.
    """
    browser = next(
        (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
    )
    driver = shutil.which("chromedriver")
    for what, found in (("chromium", browser), ("chromedriver", driver)):
        if found is None:
            raise MissingDependencyError(what, "the engine 'onnxruntime-web'", INSTALL)
    try:
        import selenium  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("selenium", "the engine 'onnxruntime-web'", INSTALL) from error
    assert browser is not None
    assert driver is not None
    return browser, driver


class FileServer:
    """Serves the files of a mapping from address to path, and of folders, and nothing else, on the loopback address.

    With the headers that let a page use several threads.

    Attributes:
        url: its address, with a final slash.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        """``files``: by address without the first slash; a folder's files are found below its address."""
        self._files: dict[str, Path] = {}
        self.add(files)
        handler = type("Handler", (_Handler,), {"files": self._files})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def add(self, files: Mapping[str, Path]) -> None:
        """Serve more of them."""
        for address, path in files.items():
            if path.is_dir():
                for file in path.rglob("*"):
                    self._files["/".join(filter(None, (address, file.relative_to(path).as_posix())))] = file
            else:
                self._files[address] = path

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    files: Mapping[str, Path]

    def do_GET(self) -> None:
        address = self.path.partition("?")[0].lstrip("/")
        path = self.files.get(address)
        if path is None or not path.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        data = path.read_bytes()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", TYPES.get(path.suffix, "application/octet-stream"))
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class Browser:
    """One Chromium with a profile of its own; it ends with :meth:`close`, with the object, or with the process.

    Attributes:
        driver: the WebDriver of selenium.
    """

    def __init__(self, timeout: float = 120.0) -> None:
        """``timeout``: seconds that one script or page may take.

        Raises:
            MissingDependencyError: see :func:`find_chromium`.
            UserError: Chromium does not start.
        """
        chromium, driver = find_chromium()
        from selenium import webdriver
        from selenium.common.exceptions import WebDriverException

        profile = tempfile.mkdtemp(prefix="sttrack-chromium-")
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        flags = list(_FLAGS)
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            flags.append("--no-sandbox")  # Chromium refuses its sandbox to root
        for flag in (*flags, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        try:
            service = webdriver.ChromeService(executable_path=driver)
            self.driver: Any = webdriver.Chrome(options=options, service=service)
        except WebDriverException as error:
            shutil.rmtree(profile, ignore_errors=True)
            reason = one_line(error.msg, 300)
            raise UserError(
                f"Chromium does not start: {reason}; run {chromium} --headless to see why"
            ) from error
        self.driver.set_script_timeout(timeout)
        self.driver.set_page_load_timeout(timeout)
        self._end = weakref.finalize(self, _quit, self.driver, profile)

    def run(self, body: str, *arguments: Any) -> Any:
        """Run the body of an asynchronous JavaScript function, whose arguments are ``args``, and give its value.

        Raises:
            UserError: it threw, or took too long.
        """
        from selenium.common.exceptions import WebDriverException

        script = (
            "const done = arguments[arguments.length - 1], args = Array.from(arguments).slice(0, -1);"
            f"(async () => {{ {body} }})().then((value) => done({{ value }}),"
            " (error) => done({ error: String(error) }));"
        )
        try:
            answer = self.driver.execute_async_script(script, *arguments)
        except WebDriverException as error:
            reason = one_line(error.msg, 300)
            raise UserError(f"Chromium did not answer: {reason}") from error
        if "error" in answer:
            raise UserError(f"the page in Chromium failed: {answer['error']}")
        return answer.get("value")

    def close(self) -> None:
        """End Chromium and remove its profile."""
        self._end()


def browser_version() -> str:
    """What Chromium calls itself."""
    import subprocess

    chromium, _ = find_chromium()
    done = subprocess.run([chromium, "--version"], capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip()


def _quit(driver: Any, profile: str) -> None:
    with contextlib.suppress(Exception):
        driver.quit()
    shutil.rmtree(profile, ignore_errors=True)


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
