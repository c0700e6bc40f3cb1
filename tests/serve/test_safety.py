"""What a server refuses."""

from __future__ import annotations

import hmac
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from blobs import truth
from served import Served, eventually, httpx

from sttrack_deploy.serve.settings import Limits, Settings, is_loopback

Serve = Callable[..., Served]
TOKEN = "a-token-of-32-printable-letters-"


def listing(served: Served) -> set[str]:
    return {file.name for file in served.service.sources.folder.iterdir()}


def test_foreign_names_are_refused(serve: Serve) -> None:
    """DNS rebinding: a name of the attacker's that was pointed at this machine."""
    served = serve(Settings(hosts=("tracker.example",)))
    port = served.url.rpartition(":")[2]
    for host in (
        f"evil.example:{port}",
        "evil.example",
        "",
        "127.0.0.1.evil.example",
        "[::1",
        "localhost@evil.example",
    ):
        assert served.get("/api/info", headers={"host": host}).status_code in (400, 421), host
    for host in (
        f"localhost:{port}",
        f"127.0.0.1:{port}",
        f"[::1]:{port}",
        "tracker.example",
        "TRACKER.example:80",
    ):
        assert served.get("/api/info", headers={"host": host}).status_code == 200, host


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
    ],
)
def test_other_sites_pages_are_refused(serve: Serve, headers: dict[str, str]) -> None:
    served = serve()
    assert served.get("/api/sources", headers=headers).status_code == 403
    assert served.post("/api/sources", {"camera": 0}, headers=headers).status_code == 403
    assert (
        served.get(
            "/api/sources", headers={"origin": served.url, "sec-fetch-site": "same-origin"}
        ).status_code
        == 200
    )


def test_forms_are_refused(serve: Serve) -> None:
    served = serve()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = served.client.post("/api/sources", content=b'{"camera": 0}', headers={"content-type": kind})
        assert answer.status_code == 400
        assert "application/json" in answer.json()["error"]


def test_the_token(serve: Serve) -> None:
    served = serve(Settings(host="0.0.0.0", token=TOKEN))
    assert served.get("/healthz").status_code == 200
    for path in ("/", "/api/info", "/metrics", "/docs", "/page/app.js", "/api/sources", "/openapi.json"):
        answer = served.get(path)
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"] == "Bearer"
    for wrong in ("Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", "Bearer é"):
        assert served.get("/api/info", headers={"authorization": wrong.encode()}).status_code == 401, wrong
    assert served.get(f"/?token={TOKEN}x").status_code == 401
    assert (
        served.get(f"/api/info?token={TOKEN}").status_code == 401
    )  # only the page takes it from the address
    assert served.get("/api/info", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    answer = served.get(f"/?token={TOKEN}")
    assert answer.status_code == 303
    assert TOKEN not in answer.headers["location"]
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert served.get("/api/info").status_code == 200  # by the cookie
    assert served.get("/api/info", headers={"authorization": "Bearer wrong"}).status_code == 401


def test_the_token_is_compared_in_constant_time(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:

    compared = []

    def compare(given: bytes, right: bytes) -> bool:
        compared.append(given)
        return given == right

    monkeypatch.setattr(hmac, "compare_digest", compare)
    served = serve(Settings(host="0.0.0.0", token=TOKEN))
    served.get("/api/info", headers={"authorization": "Bearer wrong"})
    assert compared == [b"wrong"]


def test_nothing_outside_the_root_can_be_named(serve: Serve, clip: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "below").mkdir(parents=True)
    (root / "below" / "clip.avi").write_bytes(clip.read_bytes())
    (root / "link.avi").symlink_to(clip)
    (root / "way").symlink_to(clip.parent)
    (tmp_path / "root-beside").mkdir()
    served = serve(Settings(root=root))
    assert served.post("/api/sources", {"file": "below/clip.avi"}).status_code == 201
    for name in (
        str(clip),
        "../" + clip.name,
        "link.avi",
        f"way/{clip.name}",
        "below/../../root-beside",
        "/etc/passwd",
    ):
        answer = served.post("/api/sources", {"file": name})
        assert answer.status_code == 403, name
        assert served.get("/api/files", params={"path": name}).status_code == 403
    for other in (
        "nothing.mp4",
        "",
        "file:below/clip.avi",
        "below/clip.avi\0.mp4",
        "x" * 5000,
        7,
        None,
        ["a"],
    ):
        assert served.post("/api/sources", {"file": other}).status_code in (400, 404), other
    shown = served.get("/api/files").json()
    assert shown["folders"] == ["below"]
    assert shown["files"] == []
    assert str(root) not in served.get("/api/sources").text


def test_files_urls_and_cameras_need_leave(serve: Serve) -> None:
    served = serve(Settings(allow_camera=False))
    for body in ({"file": "a.mp4"}, {"url": "http://127.0.0.1:1/a.mp4"}, {"camera": 0}):
        assert served.post("/api/sources", body).status_code == 403
    assert served.get("/api/files").status_code == 403


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "concat:/etc/passwd",
        "/etc/passwd",
        "pipe:0",
        "data:,x",
        "subfile:http://a",
        "",
        7,
    ],
)
def test_urls_are_of_network_schemes(serve: Serve, url: object) -> None:
    served = serve(Settings(allow_url=True))
    assert served.post("/api/sources", {"url": url}).status_code == 400


@pytest.mark.parametrize(
    "content",
    [
        b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\nhttp://127.0.0.1:{port}/secret.ts\n#EXT-X-ENDLIST\n",
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n",
        b"not a video at all",
        b"",
    ],
)
def test_an_upload_cannot_make_the_server_open_anything(serve: Serve, content: bytes) -> None:
    served = serve()
    with socket.socket() as bait:
        bait.bind(("127.0.0.1", 0))
        bait.listen()
        bait.settimeout(0.2)
        content = content.replace(b"{port}", str(bait.getsockname()[1]).encode())
        for name in ("a.mp4", "a.ts", "a.mkv"):
            answer = served.client.post("/api/uploads", params={"name": name}, content=content)
            assert answer.status_code == 400
            assert str(served.service.sources.folder) not in answer.text
        with pytest.raises(TimeoutError):
            bait.accept()
    assert listing(served) == set()


@pytest.mark.parametrize("name", ["../../a.sh", "a", "a.mp4.sh", "", "a.m3u8", "a\0.txt"])
def test_an_upload_is_named_like_a_video(serve: Serve, clip: Path, name: str) -> None:
    served = serve()
    assert (
        served.client.post("/api/uploads", params={"name": name}, content=clip.read_bytes()).status_code
        == 400
    )
    assert listing(served) == set()


def test_an_uploads_name_is_no_path(serve: Serve, clip: Path, tmp_path: Path) -> None:
    served = serve()
    answer = served.client.post(
        "/api/uploads", params={"name": f"{tmp_path}/../x/evil.avi"}, content=clip.read_bytes()
    )
    assert answer.json()["title"] == "evil.avi"
    (file,) = listing(served)
    assert "evil" not in file
    assert served.client.delete(f"/api/sources/{answer.json()['id']}").status_code == 204
    assert listing(served) == set()


def test_uploads_are_bounded(serve: Serve, clip: Path) -> None:
    size = clip.stat().st_size
    served = serve(upload_bytes=size, stored_bytes=int(1.5 * size))
    more = clip.read_bytes() + b"x"

    def parts() -> object:  # no Content-Length
        yield more[: len(more) // 2]
        yield more[len(more) // 2 :]

    for content in (more, parts()):
        answer = served.client.post("/api/uploads", params={"name": "a.avi"}, content=content)
        assert answer.status_code == 413
        assert listing(served) == set()
    served.upload(clip)
    answer = served.client.post("/api/uploads", params={"name": "b.avi"}, content=clip.read_bytes())
    assert answer.status_code == 429
    assert len(listing(served)) == 1


def test_an_upload_that_cannot_be_kept_is_said(serve: Serve, clip: Path) -> None:
    served = serve()
    served.service.sources.folder.rmdir()  # as good as a full disk
    answer = served.client.post("/api/uploads", params={"name": "a.avi"}, content=clip.read_bytes())
    assert answer.status_code == 429
    assert "cannot keep the upload" in answer.json()["error"]


def test_a_broken_upload_leaves_nothing(serve: Serve, clip: Path) -> None:
    served = serve()
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        head = (
            f"POST /api/uploads?name=a.avi HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 100000\r\n\r\n"
        )
        raw.sendall(head.encode() + clip.read_bytes()[:1000])
        eventually(lambda: listing(served))
    eventually(lambda: not listing(served))


def test_clients_that_hang_up_are_no_fault(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    """Half a body and gone: the server's log is for its own faults."""
    served = serve()
    host, port = served.url.removeprefix("http://").split(":")
    for path in ("/api/tracks", "/api/uploads?name=a.avi"):
        with socket.create_connection((host, int(port))) as raw:
            head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
            raw.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
    eventually(lambda: 'sttrack_refused_requests_total{status="400"} 2.0' in served.get("/metrics").text)
    assert served.get("/api/info").status_code == 200
    assert "Traceback" not in capfd.readouterr().err


def test_limits_are_answered_with_429(serve: Serve, clip: Path) -> None:
    limits = Limits(tracks=2, targets=2, streams=1, sources=2, viewers=1)
    served = serve(Settings(limits=limits), seconds=0.2)
    source = served.upload(clip)
    box = list(truth(0))

    def create(boxes: int = 1) -> object:
        return served.post("/api/tracks", {"source": source["id"], "boxes": [box] * boxes})

    def refused(answer: object) -> str:
        assert answer.status_code == 429  # type: ignore[attr-defined]
        assert answer.headers["retry-after"]  # type: ignore[attr-defined]
        message: str = answer.json()["error"]  # type: ignore[attr-defined]
        return message

    assert "targets" in refused(create(3))
    track = create().json()  # type: ignore[attr-defined]
    assert "sources at once" in refused(create())
    with httpx.Client(base_url=served.url) as other, other.stream("GET", f"/api/tracks/{track['id']}/events"):
        eventually(lambda: served.service.viewers == 1)
        assert "follow" in refused(served.get(f"/api/tracks/{track['id']}/events"))
        assert "follow" in refused(served.get(f"/api/tracks/{track['id']}/snapshot.jpg"))
    eventually(lambda: served.service.viewers == 0)
    served.post(f"/api/tracks/{track['id']}/stop")
    eventually(lambda: create().status_code == 201)  # type: ignore[attr-defined]
    assert "2 tracks" in refused(create())
    served.upload(clip)
    assert "2 sources" in refused(
        served.client.post("/api/uploads", params={"name": "c.avi"}, content=clip.read_bytes())
    )
    assert 'sttrack_refused_requests_total{status="429"}' in served.get("/metrics").text


def test_a_vanished_client_frees_its_track(serve: Serve, clip: Path) -> None:
    served = serve(Settings(limits=Limits(idle_seconds=0.5, keep_seconds=1.0)), seconds=0.1)
    source = served.upload(clip)
    watched = served.track(source, truth(0))
    service = served.service
    with (
        httpx.Client(base_url=served.url) as other,
        other.stream("GET", f"/api/tracks/{watched['id']}/events") as stream,
    ):
        lines = stream.iter_lines()
        while "data" not in next(lines):
            pass
        assert service.tracks()[0].viewers == 1
    (track,) = service.tracks()
    eventually(lambda: track.viewers == 0)
    eventually(lambda: track.state == "stopped")
    assert track.message == "nobody was watching"
    assert len(track.results()) < 20
    eventually(lambda: not service.tracks())
    eventually(lambda: not listing(served))  # the upload as well


@pytest.mark.parametrize(
    "body",
    [
        {"boxes": [[1, 2, 3]]},
        {"boxes": []},
        {"boxes": [["a", 1, 2, 3]]},
        {"boxes": [[1, 2, 3, 1e400]]},
        {"boxes": [[1e9, 1e9, 5, 5]]},
        {"boxes": [[0, 0, -5, 5]]},
        {"boxes": [[0, 0, True, 5]]},
        {"boxes": [[10, 10, 20, 20]], "frame": -1},
        {"boxes": [[10, 10, 20, 20]], "frame": 20},
        {"boxes": [[10, 10, 20, 20]], "frame": 1.5},
        {"boxes": [[10, 10, 20, 20]], "frame": 5, "end": 5},
        {"boxes": [[10, 10, 20, 20]], "keep": "yes"},
        {"boxes": [[10, 10, 20, 20]], "speed": 2},
        {"boxes": {"a": 1}},
    ],
)
def test_bad_requests_are_answered_in_one_line(serve: Serve, clip: Path, body: dict[str, object]) -> None:
    import json

    served = serve()
    source = served.upload(clip)
    content = json.dumps({"source": source["id"], **body})
    answer = served.client.post("/api/tracks", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert "\n" not in answer.json()["error"]
    assert served.service.tracks() == []


def test_bodies_and_other_paths(serve: Serve) -> None:
    served = serve()
    json_type = {"content-type": "application/json"}
    for content in (b"{", b"[]", b"1", b"\xff", b"[" * 60_000, b'{"file": "\\ud800"}'):
        assert served.client.post("/api/sources", content=content, headers=json_type).status_code == 400
    assert served.client.post("/api/sources", content=b" " * 100_000, headers=json_type).status_code == 413
    for path in (
        "/page/../app.py",
        "/page/%2e%2e/app.py",
        "/page/..%2fapp.py",
        "/page//etc/passwd",
        "/api/tracks/x",
    ):
        assert served.get(path).status_code == 404, path
    assert served.client.put("/api/tracks").status_code == 405
    headers = served.get("/").headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_which_addresses_are_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "localhost", "::1", "127.3.2.1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.4", "example.org")))
