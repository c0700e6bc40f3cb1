"""The files that are written play in a browser, to their end."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from sttrack_deploy.runtime.demo import DemoClip
from sttrack_deploy.video.writer import VideoWriter

PAGE = """<!DOCTYPE html><video id=v muted src="{name}"></video><script>
const v = document.getElementById("v");
const tell = what => fetch(
  `/told?what=${{what}}&time=${{v.currentTime}}&width=${{v.videoWidth}}&height=${{v.videoHeight}}`);
v.onended = () => tell("ended");
v.onerror = () => tell("error " + v.error.message);
v.play().catch(e => tell("refused " + e));
</script>"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and keeps what the page tells."""

    told: ClassVar[dict[str, str]]
    done: ClassVar[threading.Event]

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/told":
            self.told.update({key: values[0] for key, values in parse_qs(parts.query).items()})
            self.send_response(204)
            self.end_headers()
            self.done.set()
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize(("codec", "frames"), [("h264", 30), ("av1", 15)])
def test_chromium_plays_the_demo_to_its_end(codec: str, frames: int, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    demo = DemoClip()
    site = tmp_path / "site"
    with VideoWriter(site / "demo.mp4", demo.fps, codec=codec) as video:
        for frame in demo.frames(range(frames)):
            video.write(frame.image, frame.time)
    (site / "index.html").write_text(PAGE.format(name="demo.mp4"))

    class Told(Handler):
        told: ClassVar[dict[str, str]] = {}
        done = threading.Event()

    handler = Told
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(site))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # Nothing is fetched from elsewhere, and no user has to click.
    flags = "headless no-sandbox disable-gpu no-first-run disable-background-networking disable-sync"
    flags += " disable-component-update autoplay-policy=no-user-gesture-required remote-debugging-port=0"
    options = [f"--{flag}" for flag in flags.split()]
    command = [
        browser,
        *options,
        f"--user-data-dir={tmp_path / 'profile'}",
        f"http://127.0.0.1:{server.server_address[1]}/index.html",
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    try:
        assert handler.done.wait(120), "the page told nothing"
    finally:
        process.terminate()
        process.wait(20)
        server.shutdown()
        server.server_close()
    assert handler.told["what"] == "ended"
    assert float(handler.told["time"]) == pytest.approx(frames / demo.fps, abs=0.05)
    assert (handler.told["width"], handler.told["height"]) == ("640", "360")
