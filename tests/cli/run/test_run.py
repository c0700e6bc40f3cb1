"""``sttrack-run`` from end to end, with an engine that finds a red square."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from blobs import frame, read_video, truth, write_bundle, write_images, write_video
from click.testing import Result

from sttrack_deploy.geometry import iou
from sttrack_deploy.runtime import display
from sttrack_deploy.video import source
from sttrack_deploy.video.frames import Frame, SourceInfo, ThreadedSource

Run = Callable[..., Result]
BOX = ",".join(f"{value:g}" for value in truth(0))


def read_boxes(path: Path) -> np.ndarray:
    return np.loadtxt(path, delimiter=",", ndmin=2)


def test_a_video_from_end_to_end(run: Run, tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.avi", 20)
    result = run(video, "--init-box", BOX, "--boxes", "b.txt", "--json", "r.jsonl")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in Path().iterdir()) == ["b.txt", "clip_tracked.mp4", "r.jsonl"]
    frames = read_video(Path("clip_tracked.mp4"))
    assert len(frames) == 20
    assert frames[0].shape == (96, 160, 3)
    boxes = read_boxes(Path("b.txt"))
    assert len(boxes) == 20
    assert tuple(boxes[0]) == truth(0)
    assert min(iou(box, truth(index)) for index, box in enumerate(boxes)) > 0.75
    records = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert [record["frame"] for record in records] == list(range(20))
    assert records[0] == {
        "version": 1, "frame": 0, "time": 0.0, "id": 1, "box": list(truth(0)), "confidence": 1.0, "lost": False
    }  # fmt: skip
    assert records[5]["time"] == pytest.approx(0.2)
    assert records[5]["confidence"] == pytest.approx(0.9)
    assert "tracked 20 frames" in result.stderr
    assert "lost on 0" in result.stderr
    for part in ("decode wait", "crop", "inference", "draw + write"):
        assert part in result.stderr
    for name in ("clip_tracked.mp4", "b.txt", "r.jsonl"):
        assert f"wrote {name}: 20 frames" in result.stderr
    assert "next" in result.stderr


def test_a_range_of_a_folder_without_video(run: Run, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 8)
    box = ",".join(map(str, truth(2)))
    result = run(folder, "--init-box", box, "--start", 2, "--end", 6, "--no-video", "--json", "-")
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["frame"] for record in records] == [2, 3, 4, 5]
    assert [record["time"] for record in records] == pytest.approx([0.08, 0.12, 0.16, 0.2])
    assert list(Path().iterdir()) == []


def test_lost_options(run: Run, tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.avi", 6)
    result = run(video, "--init-box", BOX, "--no-video", "--json", "-", "--lost-below", 0.95)
    assert [json.loads(line)["lost"] for line in result.stdout.splitlines()] == [False] + [True] * 5
    assert "lost on 5" in result.stderr
    assert run(video, "--init-box", BOX, "--no-video", "--recover").exit_code == 0


def test_demo(run: Run) -> None:
    result = run("--demo", "--end", 12, "--json", "demo.jsonl")
    assert result.exit_code == 0, result.output
    assert len(read_video(Path("sttrack_demo.mp4"))) == 12
    assert "mean IoU with the exact truth" in result.stderr
    assert "on the 11 frames that show the target" in result.stderr
    hidden = run("--demo", "--start", 121, "--no-video")
    assert hidden.exit_code == 2
    assert "hidden on frame 121" in hidden.stderr


def test_select_and_show(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = iter([display.Key.NONE, display.Key.SELECT, display.Key.PAUSE, display.Key.NONE, display.Key.QUIT])
    chosen = iter([truth(0), truth(1)])
    monkeypatch.setattr(display, "require_display", lambda: None)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)
    monkeypatch.setattr(display.Window, "show", lambda *_: next(keys))
    monkeypatch.setattr(display.Window, "wait", lambda _: display.Key.NONE)
    monkeypatch.setattr(display.Window, "select", lambda *_: next(chosen))
    result = run(write_video(tmp_path / "clip.avi"), "--select", "--show", "--boxes", "b.txt", "--no-video")
    assert result.exit_code == 0, result.output
    assert len(read_boxes(Path("b.txt"))) == 5
    assert "--init-box 20,30,24,24" in result.stderr
    assert next(chosen, None) is None


def test_no_display(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Aborted:
        returncode = -6

    monkeypatch.setattr(subprocess, "run", lambda *_, **__: Aborted)
    result = run(write_video(tmp_path / "clip.avi"), "--select")
    assert result.exit_code == 1
    assert "--init-box X,Y,W,H" in result.stderr
    assert list(Path().iterdir()) == []


def test_ctrl_c_keeps_complete_results(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> Iterator[Frame]:
        for index in range(7):
            yield Frame(index, index / 25, frame(truth(index)))
        raise KeyboardInterrupt

    info = SourceInfo("clip", "clip", 20, 25.0)
    monkeypatch.setattr(source, "open_source", lambda *_, **__: ThreadedSource(info, interrupted()))
    result = run("clip.mp4", "--init-box", BOX, "--boxes", "b.txt", "--json", "r.jsonl")
    assert result.exit_code == 130
    assert "stopped early after 7 frames" in result.stderr
    assert "kept clip_tracked.mp4: 7 frames" in result.stderr
    assert result.stderr.rstrip().endswith("interrupted")
    assert len(read_video(Path("clip_tracked.mp4"))) == 7
    assert len(read_boxes(Path("b.txt"))) == 7
    assert len(Path("r.jsonl").read_text().splitlines()) == 7
    assert len(list(Path().iterdir())) == 3


@pytest.mark.skipif(os.name == "nt", reason="signals work differently on Windows")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_real_signal(tmp_path: Path, number: int) -> None:
    video = write_video(tmp_path / "clip.avi", 400)
    bundle = write_bundle(tmp_path / "bundle")
    tests = Path(__file__).resolve().parents[2]
    code = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits it ignored
sys.path[:0] = [{str(tests / "material")!r}, {str(tests.parent)!r}]
from blobs import BlobEngine
from sttrack_deploy.engines import registry
registry.load_engine = lambda *_: BlobEngine(0.02)
from sttrack_deploy.cli.run import main
main()
"""
    arguments = [str(video), "--init-box", BOX, "--boxes", "b.txt", "--bundle", str(bundle), "--json", "-"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for _ in range(10):
            assert json.loads(process.stdout.readline())["id"] == 1
        process.send_signal(number)
        started = time.monotonic()
        _, problem = process.communicate(timeout=30)
        assert time.monotonic() - started < 10
    assert process.returncode == 130, problem
    assert "Traceback" not in problem
    assert "kept clip_tracked.mp4" in problem
    done = len(read_video(tmp_path / "clip_tracked.mp4"))
    assert 8 <= done < 400
    assert abs(len(read_boxes(tmp_path / "b.txt")) - done) <= 1
    assert not list(tmp_path.glob(".*partial*"))
