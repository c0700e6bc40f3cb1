"""A headless Chromium on pages of our own, served on the loopback address."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from sttrack_deploy.errors import MissingDependencyError, UserError

__all__ = ["INSTALL", "Browser", "FileServer", "browser_version", "find_chromium"]

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
            reason = " ".join(str(error.msg).split())[:300]
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
            reason = " ".join(str(error.msg).split())[:300]
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
