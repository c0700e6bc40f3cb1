"""Every bad input that ``sttrack-run`` can meet: one clear line, the right exit code, nothing half-written."""

from __future__ import annotations

import builtins
import importlib.util
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import cv2
import numpy as np
import pytest
from blobs import BlobEngine, frame, read_video, truth, write_bundle, write_images, write_video
from click.testing import CliRunner

from sttrack_deploy.cli.run import main
from sttrack_deploy.engines import registry

BOX = ",".join(f"{value:g}" for value in truth(0))
Usage = namedtuple("Usage", "total used free")


class Place:
    """A folder to run in, and what is left in it afterwards."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self.folder, self.bundle = folder, bundle

    def fails(self, code: int, *arguments: object) -> str:
        """Run; the one line of the error. Checks the exit code and that there is one line only."""
        result = CliRunner().invoke(main, [*map(str, arguments), "--bundle", str(self.bundle)])
        assert result.exit_code == code, result.output
        assert not isinstance(result.exception, (Exception,)), result.exception
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, result.stderr
        assert "Traceback" not in result.output
        assert result.stderr.splitlines()[-1] == errors[0]
        return errors[0]

    def left(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def lines(self, name: str) -> int:
        return len((self.folder / name).read_text().splitlines())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(registry, "load_engine", lambda *_: BlobEngine())
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Place(folder, write_bundle(tmp_path / "bundle"))


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.avi", 20)


def test_missing_video(place: Place) -> None:
    assert "there is no file or folder none.mp4" in place.fails(1, "none.mp4", "--init-box", BOX)
    assert place.left() == []


@pytest.mark.parametrize("content", [b"", b"this is no video" * 50])
def test_unreadable_video(place: Place, tmp_path: Path, content: bytes) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(content)
    assert "bad.mp4" in place.fails(1, bad, "--init-box", BOX)
    assert place.left() == []


def test_zero_frames(place: Place, tmp_path: Path) -> None:
    empty = write_video(tmp_path / "zero.avi", 0)
    assert "no frame that can be decoded" in place.fails(1, empty, "--init-box", BOX, "--boxes", "b.txt")
    assert place.left() == []


def test_truncated_video_keeps_its_results(place: Place, tmp_path: Path) -> None:
    cut = write_video(tmp_path / "cut.avi", 40)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    error = place.fails(1, cut, "--init-box", BOX, "--boxes", "b.txt")
    done = place.lines("b.txt")
    assert "announces 40 frames" in error
    assert "the results are complete up to the end" in error
    assert 10 <= done < 40
    assert len(read_video(place.folder / "cut_tracked.mp4")) == done
    assert place.left() == ["b.txt", "cut_tracked.mp4"]


def test_mixed_sizes_keep_the_results_before(place: Place, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 4)
    cv2.imwrite(str(folder / "frame4.png"), frame(None, (50, 70)))
    error = place.fails(1, folder, "--init-box", BOX, "--boxes", "b.txt")
    assert "frame4.png is 70 x 50, the images before it are 160 x 96" in error
    assert place.lines("b.txt") == 4
    assert len(read_video(place.folder / "images_tracked.mp4")) == 4


def test_unreadable_image_keeps_the_results_before(place: Place, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 4)
    (folder / "frame2.png").write_bytes(b"no image")
    assert "frame2.png cannot be read" in place.fails(1, folder, "--init-box", BOX, "--boxes", "b.txt")
    assert place.lines("b.txt") == 2


def test_gray_and_four_channel_images_are_fine(place: Place, tmp_path: Path) -> None:
    gray = np.full((96, 160), 100, np.uint8)
    cv2.imwrite(str(tmp_path / "0.png"), gray)
    cv2.imwrite(str(tmp_path / "1.png"), np.dstack([gray] * 4))
    arguments = [str(tmp_path), "--init-box", BOX, "--no-video", "--bundle", str(place.bundle)]
    assert CliRunner().invoke(main, arguments).exit_code == 0


def test_a_frame_size_that_changes_is_scaled_and_said(place: Place, tmp_path: Path) -> None:
    images = [frame(truth(0))] * 3 + [frame(truth(0), (192, 320))] * 3
    clip = tmp_path / "clip.mjpeg"
    clip.write_bytes(b"".join(cv2.imencode(".jpg", image)[1].tobytes() for image in images))
    result = CliRunner().invoke(main, [str(clip), "--init-box", BOX, "--bundle", str(place.bundle)])
    assert result.exit_code == 0, result.output
    assert "changes its frame size; its frames are scaled to the first one's" in result.stderr
    assert {image.shape for image in read_video(place.folder / "clip_tracked.mp4")} == {(96, 160, 3)}


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ("500,500,20,20", "less than one pixel inside the image, which is 160 x 96"),
        ("-50,10,20,20", "less than one pixel inside"),
        ("10,10,0,20", "no area"),
        ("10,10,-5,20", "no area"),
        ("nan,10,20,20", "not four finite numbers"),
        ("10,inf,20,20", "not four finite numbers"),
        ("10,10,20", "four numbers"),
        ("ten,10,20,20", "four numbers"),
    ],
)
def test_impossible_boxes(place: Place, video: Path, box: str, message: str) -> None:
    assert message in place.fails(2, video, "--init-box", box, "--boxes", "b.txt")
    assert place.left() == []


@pytest.mark.parametrize(
    ("box", "first"), [("-10,30,20,20", "0.00,30.00,10.00,20.00"), ("80,40,1,1", "80.00,40.00,1.00,1.00")]
)
def test_boxes_over_the_border_and_of_one_pixel_are_fine(
    place: Place, video: Path, box: str, first: str
) -> None:
    arguments = [str(video), "--init-box", box, "--boxes", "b.txt", "--bundle", str(place.bundle)]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    lines = (place.folder / "b.txt").read_text().splitlines()
    assert len(lines) == 20
    assert lines[0] == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name one SOURCE"),
        (["clip.avi", "--demo"], "name one SOURCE"),
        (["--demo", "--init-box", BOX], "--demo knows its target"),
        (["clip.avi"], "say what to track"),
        (["clip.avi", "--select", "--init-box", BOX], "say what to track"),
        (["clip.avi", "--init-box", BOX, "--out", "a.mp4", "--no-video"], "exclude each other"),
        (["clip.avi", "--init-box", BOX, "--start", "5", "--end", "5"], "--end 5 must be greater"),
        (["clip.avi", "--init-box", BOX, "--out", "a.txt"], "suffix must be one of .mp4"),
        (["clip.avi", "--init-box", BOX, "--out", "clip.avi"], "never written over"),
        (["clip.avi", "--init-box", BOX, "--boxes", "x", "--json", "x"], "named twice"),
        (["--demo", "--start", "100000"], "--start 100000 is past its end"),
    ],
)
def test_impossible_options(place: Place, arguments: list[str], message: str) -> None:
    write_video(place.folder / "clip.avi", 5)
    before = (place.folder / "clip.avi").read_bytes()
    assert message in place.fails(2, *arguments)
    assert place.left() == ["clip.avi"]
    assert (place.folder / "clip.avi").read_bytes() == before


@pytest.mark.parametrize("option", ["--out", "--boxes", "--json"])
def test_output_folder_not_writable(place: Place, video: Path, option: str) -> None:
    (place.folder / "file").write_text("in the way")
    extra = [] if option == "--out" else ["--no-video"]
    error = place.fails(1, video, "--init-box", BOX, option, "file/sub/out.mp4", *extra)
    assert "file is a file, not a folder" in error
    assert place.left() == ["file"]


def test_full_disk(place: Place, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frees = iter([10**9] * 9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, next(frees, 1000)))
    error = place.fails(1, video, "--init-box", BOX, "--boxes", "b.txt")
    assert "the disk is full" in error
    assert len(read_video(place.folder / "clip_tracked.mp4")) == 8
    assert place.lines("b.txt") == 8
    assert place.left() == ["b.txt", "clip_tracked.mp4"]


def test_back_end_not_installed(place: Place, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(place.folder)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    error = place.fails(1, video, "--init-box", BOX)
    assert "the engine 'onnxruntime' needs 'onnxruntime', which is not installed: pip install" in error
    assert place.left() == []


def test_bundle_missing_or_altered(place: Place, video: Path) -> None:
    (place.bundle / "search.onnx").write_bytes(b"something else")
    assert "was altered" in place.fails(1, video, "--init-box", BOX)
    (place.bundle / "search.onnx").unlink()
    assert "lacks search.onnx" in place.fails(1, video, "--init-box", BOX)
    assert place.left() == []


def test_opencv_without_libgl(place: Place, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object, **options: object) -> object:
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")
        return real(name, *rest, **options)  # type: ignore[arg-type]

    for name in [name for name in sys.modules if name.startswith("sttrack_deploy.runtime.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    error = place.fails(1, video, "--init-box", BOX)
    assert "install libgl1" in error
    assert "pip install opencv-python-headless" in error


def test_debug_shows_the_traceback(place: Place) -> None:
    result = CliRunner().invoke(
        main, ["none.mp4", "--init-box", BOX, "--debug", "--bundle", str(place.bundle)]
    )
    assert result.exception is not None
    assert not isinstance(result.exception, SystemExit)
