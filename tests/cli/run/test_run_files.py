"""What ``sttrack-run`` reads and writes: nothing is lost, and files are what people expect."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from blobs import frame, truth, write_images, write_video
from click.testing import Result

from sttrack_deploy.video import source
from sttrack_deploy.video.frames import Frame, SourceInfo, ThreadedSource
from sttrack_deploy.video.reader import open_video
from sttrack_deploy.video.writer import VideoWriter

sys.path.append(str(Path(__file__).resolve().parents[2] / "video"))
from clips import trimmed, write_clip
from servers import tcp_server

Run = Callable[..., Result]
BOX = ",".join(f"{value:g}" for value in truth(0))


def made() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


@pytest.mark.parametrize("rate", [65.537, 100.001, 239.677, 240.002])
def test_a_rate_that_a_codec_refuses_does_not_cost_the_source(rate: float, run: Run) -> None:
    write_video(Path("clip.avi"), 6, fps=rate)
    before = Path("clip.avi").read_bytes()
    for codec in ("mpeg4", "h264"):
        result = run("clip.avi", "--init-box", BOX, "--out", "clip.mp4", "--codec", codec, "--overwrite")
        assert result.exit_code == 0, result.output
        assert made() == ["clip.avi", "clip.mp4"]
    assert Path("clip.avi").read_bytes() == before
    times = [item.time for item in open_video("clip.mp4")]
    assert times == pytest.approx([index / rate for index in range(6)], rel=1e-2)


def test_nothing_that_exists_is_replaced_unasked(run: Run, tmp_path: Path) -> None:
    video = write_video(tmp_path / "x.mp4", 4, "mp4v")
    for name in ("x_tracked.mp4", "x.txt", "x.jsonl", "x.xml"):
        Path(name).write_text("ground truth")
    outputs = {"--boxes": "x.txt", "--json": "x.jsonl", "--tracks": "x.xml", "--out": "x_tracked.mp4"}
    for option, name in outputs.items():
        extra = [] if option == "--out" else ["--out", "other.mp4"]
        result = run(video, "--init-box", BOX, option, name, *extra)
        assert result.exit_code == 2, result.output
        assert f"{name} exists" in result.stderr
        assert "--overwrite" in result.stderr
    assert run(video, "--init-box", BOX).exit_code == 2
    assert {Path(name).read_text() for name in made()} == {"ground truth"}
    pairs = [text for pair in outputs.items() for text in pair]
    assert run(video, "--init-box", BOX, *pairs, "--overwrite").exit_code == 0
    assert Path("x.txt").read_text().count("\n") == 4
    ET.parse("x.xml")


def test_the_demo_may_be_run_again(run: Run) -> None:
    for _ in range(2):
        assert run("--demo", "--end", 3).exit_code == 0


def test_outputs_do_not_land_among_a_source_s_images(run: Run, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 4)
    before = (folder / "frame0.png").read_bytes()
    for given in (folder, folder / "frame%d.png", folder / "*.png"):
        arguments = ("--init-box", BOX, "--no-video", "--boxes", folder / "frame0.png", "--overwrite")
        result = run(given, *arguments)
        assert result.exit_code == 2
        assert "never written over" in result.stderr
    assert (folder / "frame0.png").read_bytes() == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs here")
def test_links_fifos_and_devices(run: Run, tmp_path: Path) -> None:
    os.mkfifo("pipe")
    Path("link").symlink_to(tmp_path / "real.txt")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(Path("pipe").read_text()), daemon=True)
    reader.start()
    video = write_video(tmp_path / "clip.avi", 4)
    arguments = ("--init-box", BOX, "--boxes", "link", "--json", "pipe", "--tracks", "/dev/null")
    result = run(video, *arguments, "--tracks-format", "csv", "--no-video")
    reader.join(10)
    assert result.exit_code == 0, result.output
    assert len(got[0].splitlines()) == 4
    assert (tmp_path / "real.txt").read_text().count("\n") == 4
    assert made() == ["link", "pipe"]
    assert Path("/dev/null").is_char_device()


def test_a_password_is_in_no_name_and_no_message(run: Run) -> None:
    url = "rtsp://user:secret@127.0.0.1:9/door?token=hidden"
    result = run(url, "--init-box", BOX)
    assert result.exit_code == 1
    assert "rtsp://127.0.0.1:9/door" in result.stderr
    assert "secret" not in result.output
    assert "hidden" not in result.output
    Path("door_tracked.mp4").write_text("x")
    assert "door_tracked.mp4 exists" in run(url, "--init-box", BOX).stderr


def test_a_trimmed_file_is_whole(run: Run, tmp_path: Path) -> None:
    times = [index / 25 for index in range(30)]
    whole = write_clip(tmp_path / "g.mp4", times, size=(96, 160), options={"g": "30"})
    cut = trimmed(whole, tmp_path / "cut.mp4", 0.4)
    result = run(cut, "--init-box", BOX, "--boxes", "b.txt")
    assert result.exit_code == 0, result.output
    assert Path("b.txt").read_text().count("\n") == 20


def test_a_variable_rate_odd_sizes_and_sound_are_kept(run: Run, tmp_path: Path) -> None:
    times = [0, 0.04, 0.3, 0.34, 1.0, 1.04]
    clip = write_clip(tmp_path / "a.mkv", times, "ffv1", size=(95, 161), pixels="bgr0", audio="aac")
    result = run(clip, "--init-box", BOX, "--json", "r.jsonl", "--out", "a.mp4")
    assert result.exit_code == 0, result.output
    assert "161 x 95 are padded to 162 x 96" in result.stderr
    frames = list(open_video("a.mp4"))
    assert [item.time for item in frames] == pytest.approx(times, abs=0.002)
    assert frames[0].image.shape == (96, 162, 3)
    told = [json.loads(line)["time"] for line in Path("r.jsonl").read_text().splitlines()]
    assert np.diff(told) == pytest.approx(np.diff(times), abs=0.002)
    with av.open("a.mp4") as container:
        assert container.streams.audio[0].codec_context.name == "aac"
    assert run(clip, "--init-box", BOX, "--out", "b.mp4", "--no-audio").exit_code == 0
    with av.open("b.mp4") as container:
        assert not container.streams.audio


def test_the_end_of_a_live_stream_is_told_and_json_tells_the_age(run: Run) -> None:
    def serve(connection: socket.socket, number: int) -> None:
        connection.recv(65_536)
        connection.sendall(
            b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
        )
        for index in range(8):
            data = cv2.imencode(".jpg", frame(truth(index)))[1].tobytes()
            head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data)
            connection.sendall(head + data + b"\r\n")

    with tcp_server(serve) as port:
        arguments = ("--init-box", BOX, "--json", "r.jsonl", "--every-frame", "--reconnect", 0)
        result = run(f"http://127.0.0.1:{port}/door.mjpg", *arguments)
    assert result.exit_code == 1
    assert "door.mjpg stopped sending after 8 frames" in result.stderr
    assert "kept door_tracked.mp4: 8 frames" in result.stderr
    records = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert [record["frame"] for record in records] == list(range(8))
    assert all(record["age"] >= 0 for record in records)


def test_a_live_source_is_recorded_at_the_pace_of_its_arrival(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames that were dropped, or came late, make no shorter video; JSON has the media's time."""
    arrivals = [50.0, 50.5, 50.6, 52.0]
    frames = [
        Frame(3 * index, index / 25, frame(truth(index)), arrived) for index, arrived in enumerate(arrivals)
    ]
    info = SourceInfo("cam", "cam", None, 25.0, True)
    monkeypatch.setattr(source, "open_source", lambda *_, **__: ThreadedSource(info, iter(frames)))
    result = run("0", "--init-box", BOX, "--json", "r.jsonl", "--out", "a.mp4")
    assert result.exit_code == 0, result.output
    assert [item.time for item in open_video("a.mp4")] == pytest.approx([0, 0.5, 0.6, 2.0], abs=1e-3)
    records = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert [record["time"] for record in records] == pytest.approx([0, 0.04, 0.08, 0.12])
    assert [record["frame"] for record in records] == [0, 3, 6, 9]


def test_names_that_are_not_utf8(run: Run, tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("file names are bytes on Linux alone")
    odd = tmp_path / os.fsdecode(b"\xff\xfe")
    odd.mkdir()
    video = write_video(tmp_path / "clip.avi", 4).rename(odd / os.fsdecode(b"\xfd.avi"))
    images = write_images(tmp_path / "images", 3).rename(odd / os.fsdecode(b"images\xfc"))
    for given in (video, images):
        result = run(given, "--init-box", BOX, "--out", odd / os.fsdecode(b"out\xfb.mp4"), "--overwrite")
        assert result.exit_code == 0, result.output
        assert list(open_video(odd / os.fsdecode(b"out\xfb.mp4")))


def test_av1_is_read(run: Run, tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.webm", 25) as video:
        for index in range(6):
            video.write(frame(truth(index), seed=index))
    result = run(tmp_path / "a.webm", "--init-box", BOX)
    assert result.exit_code == 0, result.output
    assert len(list(open_video("a_tracked.mp4"))) == 6


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_runs_leave_no_file_descriptors(run: Run, tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.avi", 4)
    counts = []
    for _ in range(4):
        assert run(video, "--init-box", BOX, "--json", "r.jsonl", "--overwrite").exit_code == 0
        counts.append(len(list(Path("/proc/self/fd").iterdir())))
    assert counts[-1] <= counts[1]
