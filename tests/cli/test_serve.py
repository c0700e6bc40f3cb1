"""``sttrack-serve`` as a command."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from blobs import truth, write_images
from click.testing import CliRunner

from sttrack_deploy.cli import serve

ROOT = Path(__file__).resolve().parents[2]


def follow_a_track(url: str, token: str) -> http.client.HTTPResponse:
    """The event stream of a new track, from its second line on."""

    def ask(path: str, body: object = None) -> http.client.HTTPResponse:
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        answer = urllib.request.urlopen(urllib.request.Request(url + path, data, headers), timeout=60)
        assert isinstance(answer, http.client.HTTPResponse)
        return answer

    with ask("/api/sources") as answer:
        (source,) = json.load(answer)
    with ask("/api/tracks", {"source": source["id"], "boxes": [list(truth(0))]}) as answer:
        track = json.load(answer)
    stream = ask(f"/api/tracks/{track['id']}/events")
    assert stream.readline().startswith(b"retry:")
    return stream


@pytest.mark.skipif(os.name == "nt", reason="signals differ on Windows")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_it_starts_answers_and_ends_in_order(tmp_path: Path, name: str) -> None:
    pytest.importorskip("uvicorn")
    pytest.importorskip("prometheus_client")
    code = "from sttrack_deploy.cli.serve import main; main()"
    command = [
        sys.executable,
        "-c",
        code,
        "--host",
        "0.0.0.0",
        "--port",
        "0",
        "--threads",
        "1",
        "--max-viewers",
        "1",
    ]
    command += [str(write_images(tmp_path / "images", 3))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    server = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        said = server.stderr.readline()
        port, token = re.findall(r":(\d+)/\?token=(\S+)", said)[0]
        assert len(token) >= 32
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=60) as answer:
            assert answer.status == 200
        assert len(list(tmp_path.glob("sttrack-serve-*"))) == 1
        with follow_a_track(f"http://127.0.0.1:{port}", token) as stream:
            with pytest.raises(urllib.error.HTTPError, match="429"):
                follow_a_track(f"http://127.0.0.1:{port}", token)
            server.send_signal(getattr(signal, name))
            rest = server.stderr.read()
            stream.read()  # the stream is whole: it was ended, not cut off
        assert server.wait(60) == 0, rest
    finally:
        server.kill()
        server.wait()
        server.stderr.close()
    assert "stopped; uploads are deleted" in rest
    assert "Cancel" not in rest
    assert "Traceback" not in rest
    assert token not in rest  # printed once
    assert list(tmp_path.glob("sttrack-serve-*")) == []


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--token", "short"], 2, "--token is at least 16"),
        (["--token", "a secret; with a semicolon"], 2, "--token is at least 16"),
        (["nothing.mp4", "--port", "0"], 1, "there is no file or folder nothing.mp4"),
        (["--host", "256.1.1.1", "--port", "0"], 1, "cannot listen on 256.1.1.1"),
        (["--host", "a\x9f", "--port", "0"], 2, "--host is an address or a name"),
        (["--root", "nowhere"], 2, "nowhere"),
    ],
)
def test_what_cannot_be_served(arguments: list[str], status: int, message: str) -> None:
    pytest.importorskip("uvicorn")
    result = CliRunner().invoke(serve.main, arguments)
    assert result.exit_code == status
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "NEEDED", ("a_package_that_is_not_there",))
    result = CliRunner().invoke(serve.main, [])
    assert result.exit_code == 1
    assert 'pip install "sttrack-deploy[serve]"' in result.stderr
