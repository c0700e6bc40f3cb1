"""A server on a free port of the loopback address, with an engine that finds red squares."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sttrack_deploy.bundle import open_bundle
from sttrack_deploy.engines.base import Engine

httpx = pytest.importorskip("httpx", reason="httpx is not installed: pip install 'sttrack-deploy[dev]'")
pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'sttrack-deploy[serve]'")
pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")

from sttrack_deploy.serve.server import Server  # noqa: E402
from sttrack_deploy.serve.service import Service  # noqa: E402
from sttrack_deploy.serve.settings import Settings  # noqa: E402


@dataclass
class Served:
    """A running server and a client of it."""

    service: Service
    url: str
    client: Any

    def get(self, path: str, **options: Any) -> Any:
        return self.client.get(path, **options)

    def post(self, path: str, body: object | None = None, **options: Any) -> Any:
        return self.client.post(path, **({"json": body} if body is not None else {}), **options)

    def upload(self, video: Path) -> dict[str, Any]:
        answer = self.client.post("/api/uploads", params={"name": video.name}, content=video.read_bytes())
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def track(self, source: dict[str, Any], box: object, **more: object) -> dict[str, Any]:
        answer = self.post("/api/tracks", {"source": source["id"], "boxes": [list(box)], **more})  # type: ignore[call-overload]
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def until(self, track: dict[str, Any], *states: str) -> dict[str, Any]:
        """The track, once it is in one of these states."""
        found: dict[str, Any] = eventually(
            lambda: (now := self.get(f"/api/tracks/{track['id']}").json())["state"] in states and now
        )
        return found


def eventually(found: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What ``found`` returns, once that is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = found()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"nothing after {seconds} s: {value!r}")


@contextlib.contextmanager
def running(
    settings: Settings, bundle: Path | None, engine: Callable[[Any], Engine], sources: tuple[str, ...] = ()
) -> Iterator[Served]:
    opened = open_bundle(bundle)
    service = Service(settings, opened, engine(opened), opened.manifest.tracking)
    for source in sources:
        service.sources.add_given(source)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = Server(service)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    eventually(lambda: server.started)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, timeout=30) as client:
            yield Served(service, url, client)
    finally:
        server.should_exit = True
        thread.join(15)
        listener.close()
    assert not thread.is_alive()
    assert not service.sources.folder.exists()  # uploads end with the server
