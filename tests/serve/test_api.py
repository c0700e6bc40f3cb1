"""The HTTP interface, on a real server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from blobs import frame, read_video, truth, write_images
from served import Served, eventually

from sttrack_deploy.geometry import iou
from sttrack_deploy.serve import reading
from sttrack_deploy.serve.openapi import describe_api
from sttrack_deploy.serve.settings import Settings
from sttrack_deploy.video.frames import SourceInfo
from sttrack_deploy.video.live import LiveSource, Received

Serve = Callable[..., Served]
ELSEWHERE = [100.0, 10.0, 20.0, 20.0]


def results(served: Served, track: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in served.get(f"/api/tracks/{track['id']}/results").text.splitlines()]


def events(served: Served, track: dict[str, Any], after: int = 0) -> list[tuple[str, str]]:
    """Kind and data of a track's events, up to the state ``done``."""
    found, kind = [], "message"
    with served.client.stream("GET", f"/api/tracks/{track['id']}/events?after={after}") as stream:
        for line in stream.iter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                found.append((kind, value))
                if kind == "state" and json.loads(value)["state"] == "done":
                    return found
            elif not line:
                kind = "message"
    return found


def test_a_video_from_upload_to_downloads(serve: Serve, clip: Path) -> None:
    served = serve()
    source = served.upload(clip)
    assert source["frames"] == 20
    assert (source["width"], source["height"]) == (160, 96)
    track = served.track(source, truth(0))
    lines = [json.loads(value) for kind, value in events(served, track) if kind == "message"]
    assert [line["frame"] for line in lines] == list(range(20))
    assert lines == results(served, track)
    assert lines[0]["box"] == list(truth(0))
    assert lines[0]["confidence"] == 1.0
    assert min(iou(line["box"], truth(line["frame"])) for line in lines) > 0.75
    boxes = served.get(f"/api/tracks/{track['id']}/files/boxes").text.splitlines()
    assert [float(value) for value in boxes[7].split(",")] == pytest.approx(lines[7]["box"], abs=0.01)
    path = f"/api/tracks/{track['id']}/files"
    assert [json.loads(line) for line in served.get(f"{path}/jsonl").text.splitlines()] == lines
    assert served.get(f"{path}/mot").text.splitlines()[0].startswith("1,1,")
    assert served.get(f"{path}/cvat").text.count("<box ") >= 20
    assert len(served.get(f"{path}/coco").json()["annotations"]) == 20
    assert len(served.get(f"{path}/csv").text.splitlines()) == 21
    assert served.get(f"{path}/exe").status_code == 404
    video = eventually(
        lambda: (got := served.get(f"/api/tracks/{track['id']}/video")).status_code == 200 and got
    )
    saved = clip.parent / "saved.mp4"
    saved.write_bytes(video.content)
    assert len(read_video(saved)) == 20
    metrics = served.get("/metrics").text
    assert "sttrack_frames_total 20.0" in metrics
    assert 'sttrack_stage_seconds_count{stage="inference"} 20.0' in metrics


def test_frames_by_number_are_those_of_the_video(serve: Serve, clip: Path) -> None:
    served = serve()
    source = served.upload(clip)
    for index in (13, 2, 19):
        answer = served.get(f"/api/sources/{source['id']}/frames/{index}.jpg")
        assert answer.headers["sttrack-frame"] == str(index)
        image = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        distances = [np.abs(image.astype(float) - other).mean() for other in read_video(clip)]
        assert int(np.argmin(distances)) == index
    assert served.get(f"/api/sources/{source['id']}/frames/20.jpg").status_code == 404
    small = served.get(f"/api/sources/{source['id']}/frames/3.jpg?width=80").content
    image = cv2.imdecode(np.frombuffer(small, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image.shape == (48, 80, 3)


def test_a_corrected_target_goes_on_from_there_and_the_other_stays(serve: Serve, clip: Path) -> None:
    served = serve()
    track = served.post(
        "/api/tracks", {"source": served.upload(clip)["id"], "boxes": [list(truth(0)), ELSEWHERE]}
    ).json()
    served.until(track, "done")
    before = results(served, track)
    sequence = served.get(f"/api/tracks/{track['id']}").json()["sequence"]
    body = {"target": 2, "frame": 8, "box": list(truth(8))}
    assert served.post(f"/api/tracks/{track['id']}/correct", body).status_code == 200
    heard = events(served, track, after=sequence)
    served.until(track, "done")
    after = results(served, track)
    first = [line for line in after if line["id"] == 1]
    second = [line for line in after if line["id"] == 2]
    assert first == [line for line in before if line["id"] == 1]
    assert second[:8] == [line for line in before if line["id"] == 2][:8]
    assert [line["frame"] for line in second] == list(range(20))
    assert min(iou(line["box"], truth(line["frame"])) for line in second[8:]) > 0.75
    assert ("rewind", json.dumps({"targets": [2], "frame": 8})) in heard
    assert [json.loads(data)["frame"] for kind, data in heard if kind == "message"] == list(range(8, 20))


def test_the_last_state_told_is_the_state(serve: Serve, clip: Path) -> None:
    """One frame is tracked again before the answer is out; neither may bring back what was before."""
    served = serve()
    track = served.track(served.upload(clip), truth(0))
    served.until(track, "done")
    for _ in range(20):
        body = {"target": 1, "frame": 19, "box": list(truth(19))}
        answer = served.post(f"/api/tracks/{track['id']}/correct", body).json()
        served.until(track, "done")
        log = served.service.track(track["id"]).events(0)
        assert log is not None
        told = [event for event in log if event.kind == "state"]
        assert [event.data["sequence"] for event in told] == [event.sequence for event in told]
        assert told[-1].data["state"] == "done"
        assert answer["state"] == "done" or answer["sequence"] < told[-1].sequence


def test_boxes_of_two_targets_are_two_files(serve: Serve, clip: Path) -> None:
    served = serve()
    body = {"source": served.upload(clip)["id"], "boxes": [list(truth(0)), ELSEWHERE], "end": 3}
    track = served.until(served.post("/api/tracks", body).json(), "done")
    path = f"/api/tracks/{track['id']}/files/boxes?target="
    answers = [served.get(f"{path}{number}") for number in (1, 2)]
    assert [len(answer.text.splitlines()) for answer in answers] == [3, 3]
    names = [answer.headers["content-disposition"].rpartition("'")[2] for answer in answers]
    assert names == ["clip_1_boxes.txt", "clip_2_boxes.txt"]


def test_pause_add_resume_stop_restart_delete(serve: Serve, clip: Path) -> None:
    served = serve(seconds=0.03)
    track = served.track(served.upload(clip), truth(0))
    path = f"/api/tracks/{track['id']}"
    eventually(lambda: (served.get(path).json()["frame"] or 0) >= 3)
    assert served.post(f"{path}/pause").json()["state"] == "paused"
    at = eventually(
        lambda: (now := served.get(path).json()["frame"]) == served.get(path).json()["frame"] and now
    )
    added = served.post(f"{path}/targets", {"frame": at, "box": ELSEWHERE, "resume": False}).json()
    assert [target["id"] for target in added["targets"]] == [1, 2]
    assert added["state"] == "paused"
    served.post(f"{path}/resume")
    served.until(track, "done")
    assert [line["frame"] for line in results(served, track) if line["id"] == 2] == list(range(at, 20))
    served.post(f"{path}/restart")
    assert served.post(f"{path}/stop").json()["state"] == "stopped"
    assert len(results(served, track)) < 40
    assert served.client.delete(path).status_code == 204
    assert served.get(path).status_code == 404
    eventually(lambda: "sttrack_running_tracks 0.0" in served.get("/metrics").text)


def test_part_of_a_folder_of_images(serve: Serve, tmp_path: Path) -> None:
    write_images(tmp_path / "images", 9)
    served = serve(Settings(root=tmp_path))
    listing = served.get("/api/files").json()
    assert "images" in listing["folders"]
    source = served.post("/api/sources", {"file": "images"}).json()
    track = served.track(source, truth(2), frame=2, end=6)
    served.until(track, "done")
    assert [line["frame"] for line in results(served, track)] == [2, 3, 4, 5]


def test_a_client_that_comes_late_gets_everything(serve: Serve, clip: Path) -> None:
    served = serve()
    track = served.track(served.upload(clip), truth(0))
    served.until(track, "done")
    answer = served.get(f"/api/tracks/{track['id']}/results")
    assert len(answer.text.splitlines()) == 20
    rest = events(served, track, after=int(answer.headers["sttrack-sequence"]))
    assert [kind for kind, _ in rest] == ["state"]


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cameras show the moving square at 100 frames a second; every fourth frame is never read."""
    import contextlib
    import time

    from sttrack_deploy.video.frames import Frame, SourceInfo

    class Camera:
        info = SourceInfo("camera 0", "camera0", None, 100.0, True)
        closed = False

        def close(self) -> None:
            self.closed = True

        def __iter__(self) -> Any:
            for index in range(100_000):
                if self.closed:
                    return
                if index % 4 != 3:
                    image = frame(truth(index % 40), seed=index % 7)
                    yield Frame(index, index / 100, image, time.monotonic())
                time.sleep(0.01)

    monkeypatch.setattr(reading, "open_source", lambda name: contextlib.closing(Camera()))


@pytest.mark.usefixtures("camera")
def test_a_live_source_is_held_and_tracked_by_several(serve: Serve) -> None:
    served = serve()
    source = served.post("/api/sources", {"camera": 0}).json()
    path = f"/api/sources/{source['id']}"
    first = served.get(f"{path}/snapshot.jpg?after=-1")
    later = served.get(f"{path}/snapshot.jpg?after={first.headers['sttrack-frame']}")
    assert int(later.headers["sttrack-frame"]) > int(first.headers["sttrack-frame"])
    held = int(
        served.post(f"{path}/hold", {"frame": int(later.headers["sttrack-frame"])}).headers["sttrack-frame"]
    )
    assert held == int(later.headers["sttrack-frame"])
    one = served.track(source, truth(held % 40), frame=held, record=True)
    two = served.track(source, ELSEWHERE)
    eventually(lambda: len(results(served, one)) > 8 and len(results(served, two)) > 8)
    for track in (one, two):
        frames = [line["frame"] for line in results(served, track)]
        assert frames == sorted(set(frames))
        assert served.post(f"/api/tracks/{track['id']}/stop").json()["state"] == "stopped"
    assert served.get(path).json()["width"] == 160
    boxes = served.get(f"/api/tracks/{one['id']}/files/boxes")
    assert boxes.headers["content-disposition"].endswith("''Camera_0_boxes.txt")
    video = served.get(f"/api/tracks/{one['id']}/video")
    assert video.status_code == 200
    assert len(video.content) > 1000
    metrics = served.get("/metrics").text
    assert "sttrack_streams 1.0" in metrics
    dropped = next(line for line in metrics.splitlines() if line.startswith("sttrack_dropped_frames_total "))
    assert float(dropped.split()[1]) > 2
    assert served.post(f"{path}/hold", {"frame": 10**6}).status_code == 410


def test_a_live_source_that_has_gone_silent_can_be_ended(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    class OneFrame:
        fps: float | None = 25.0
        ends = False

        def __iter__(self) -> Iterator[Received]:
            yield Received(0.0, lambda: frame(truth(0)))
            ended.wait(60)  # as a read that waits for the network

        def close(self) -> None:
            pass

    info = SourceInfo("camera 0", "camera0", None, 25.0, True)
    monkeypatch.setattr(reading, "open_source", lambda name: LiveSource(info, OneFrame, OneFrame()))
    served = serve()
    source = served.post("/api/sources", {"camera": 0}).json()
    assert served.get(f"/api/sources/{source['id']}/snapshot.jpg").status_code == 200
    silent = served.service.live(served.service.sources.get(source["id"]))
    assert silent.busy
    silent.end()
    eventually(lambda: not silent.busy)
    ended.set()


def test_the_description_names_every_route(serve: Serve) -> None:
    served = serve()
    described = {(path, verb.upper()) for path, verbs in describe_api()["paths"].items() for verb in verbs}
    assert described == _routes(served)
    assert served.get("/openapi.json").json()["openapi"].startswith("3.1")
    for page in ("/", "/docs", "/page/app.js", "/page/style.css"):
        assert served.get(page).status_code == 200


def _routes(served: Served) -> set[tuple[str, str]]:
    from starlette.routing import Route

    from sttrack_deploy.serve.app import make_app

    found = set()
    for route in make_app(served.service).routes:
        if not isinstance(route, Route) or route.path in ("/", "/docs"):
            continue
        path = route.path.replace(":int", "")
        verbs = (route.methods or set()) - {"HEAD"}
        actions = ("correct", "pause", "resume", "stop", "restart") if "{action}" in path else ("",)
        found |= {(path.replace("{action}", action), verb) for verb in verbs for action in actions}
    return found
