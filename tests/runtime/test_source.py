from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from blobs import SIZE, frame, truth, write_images, write_video

from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.runtime import source
from sttrack_deploy.runtime.source import FrameSource, SourceInfo, TimedFrame, natural_key, open_source


def drain(opened: FrameSource) -> tuple[list[TimedFrame], str]:
    """All frames, and the error that ended them, or nothing."""
    frames: list[TimedFrame] = []
    problem = ""
    with opened:
        try:
            frames.extend(opened)
        except UserError as error:
            problem = str(error)
    assert "\n" not in problem
    return frames, problem


@pytest.mark.parametrize(("suffix", "codec"), [(".avi", "MJPG"), (".mp4", "mp4v")])
def test_a_video(tmp_path: Path, suffix: str, codec: str) -> None:
    video = write_video(tmp_path / f"clip{suffix}", 20, codec)
    opened = open_source(str(video))
    assert opened.info == SourceInfo(str(video), "clip", 20, 25.0)
    frames, problem = drain(opened)
    assert not problem
    assert [item.number for item in frames] == list(range(20))
    assert [item.seconds for item in frames] == pytest.approx([index / 25 for index in range(20)])
    for item in frames:
        assert item.image.shape == (*SIZE, 3)
        assert np.abs(item.image.astype(int) - frame(truth(item.number), seed=item.number)).mean() < 20


def test_start_and_end(tmp_path: Path) -> None:
    video = str(write_video(tmp_path / "clip.avi", 20))
    everything, _ = drain(open_source(video))
    opened = open_source(video, 5, 9)
    assert opened.info.frames == 4
    frames, problem = drain(opened)
    assert not problem
    assert [item.number for item in frames] == [5, 6, 7, 8]
    assert frames[0].seconds == pytest.approx(0.2)
    for item in frames:
        np.testing.assert_array_equal(item.image, everything[item.number].image)
    assert [item.number for item in drain(open_source(video, 17, 100))[0]] == [17, 18, 19]


def test_start_past_the_end(tmp_path: Path) -> None:
    video = str(write_video(tmp_path / "clip.avi", 5))
    frames, problem = drain(open_source(video, 5))
    assert frames == []
    assert "has 5 frames; --start 5 is past its end" in problem
    with pytest.raises(UserError, match="has 6 images; --start 6"):
        open_source(str(write_images(tmp_path / "images")), 6)


@pytest.mark.parametrize(("start", "end"), [(3, 3), (4, 2), (-1, None), (0, 0)])
def test_impossible_range(tmp_path: Path, start: int, end: int | None) -> None:
    with pytest.raises(UsageError, match="--end"):
        open_source(str(tmp_path), start, end)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file or folder"):
        open_source(str(tmp_path / "none.mp4"))


@pytest.mark.parametrize("content", [b"", b"this is no video" * 50])
def test_unreadable(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.mp4").write_bytes(content)
    with pytest.raises(UserError, match="empty" if not content else "cannot be read as a video"):
        open_source(str(tmp_path / "bad.mp4"))


def test_zero_frames(tmp_path: Path) -> None:
    frames, problem = drain(open_source(str(write_video(tmp_path / "zero.avi", 0))))
    assert frames == []
    assert "no frame that can be decoded" in problem


def test_truncated_keeps_what_can_be_decoded(tmp_path: Path) -> None:
    video = write_video(tmp_path / "cut.avi", 40)
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    frames, problem = drain(open_source(str(video)))
    assert 10 <= len(frames) < 30
    assert f"announces 40 frames, only {len(frames)} could be decoded" in problem
    # A range that ends before the cut is whole.
    assert drain(open_source(str(video), 0, 10))[1] == ""


def test_truncated_before_the_index(tmp_path: Path) -> None:
    video = write_video(tmp_path / "cut.mp4", 40, "mp4v")
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    with pytest.raises(UserError, match="cannot be read as a video"):
        open_source(str(video))


def test_a_folder_in_natural_order(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 12)
    (folder / "notes.txt").write_text("not an image")
    opened = open_source(str(folder), fps=10)
    assert opened.info == SourceInfo(str(folder), "images", 12, 10)
    frames, problem = drain(opened)
    assert not problem
    assert [item.seconds for item in frames] == pytest.approx([index / 10 for index in range(12)])
    for item in frames:
        np.testing.assert_array_equal(item.image, frame(truth(item.number), seed=item.number))
    assert [item.number for item in drain(open_source(str(folder), 3, 5))[0]] == [3, 4]


def test_natural_key() -> None:
    names = ["b1.png", "a10.png", "a2.png", "A1.png", "a02b.png", "10.png", "9.png"]
    assert sorted(names, key=natural_key) == [
        "9.png", "10.png", "A1.png", "a2.png", "a02b.png", "a10.png", "b1.png"
    ]  # fmt: skip


def test_every_kind_of_image_becomes_bgr(tmp_path: Path) -> None:
    grey = np.full(SIZE, 100, np.uint8)
    cv2.imwrite(str(tmp_path / "0.png"), grey)
    cv2.imwrite(str(tmp_path / "1.png"), grey.astype(np.uint16) * 256)
    cv2.imwrite(str(tmp_path / "2.png"), np.dstack([grey] * 4))
    cv2.imwrite(str(tmp_path / "3.jpg"), np.dstack([grey] * 3))
    frames, problem = drain(open_source(str(tmp_path)))
    assert not problem
    assert len(frames) == 4
    for item in frames:
        assert item.image.shape == (*SIZE, 3)
        assert item.image.dtype == np.uint8
        assert abs(item.image.astype(int) - 100).max() <= 2


def test_mixed_sizes_name_the_file_and_both_sizes(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 4)
    cv2.imwrite(str(folder / "frame4.png"), frame(None, (50, 70)))
    frames, problem = drain(open_source(str(folder)))
    assert len(frames) == 4
    assert "frame4.png is 70 x 50, the images before it are 160 x 96" in problem


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_an_unreadable_image(tmp_path: Path, content: bytes) -> None:
    folder = write_images(tmp_path / "images", 4)
    (folder / "frame2.png").write_bytes(content)
    frames, problem = drain(open_source(str(folder)))
    assert len(frames) == 2
    assert "frame2.png cannot be read as an image" in problem


def test_a_folder_without_images_and_a_single_image(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no images"):
        open_source(str(tmp_path))
    cv2.imwrite(str(tmp_path / "one.png"), frame(None))
    with pytest.raises(UserError, match="single image"):
        open_source(str(tmp_path / "one.png"))


class FakeCapture:
    """Stands in for cv2.VideoCapture."""

    def __init__(self, images: list[np.ndarray], pause: float = 0.0, opened: bool = True) -> None:
        self.images, self.pause, self.opened = iter(images), pause, opened
        self.released = threading.Event()
        self.delivered = 0

    def isOpened(self) -> bool:
        return self.opened

    def get(self, what: int) -> float:
        return 30.0 if what == cv2.CAP_PROP_FPS else -1.0

    def read(self) -> tuple[bool, np.ndarray | None]:
        time.sleep(self.pause)
        image = next(self.images, None)
        self.delivered += image is not None
        return image is not None, image

    def grab(self) -> bool:
        return next(self.images, None) is not None

    def release(self) -> None:
        self.released.set()


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeCapture]:
    def install(*args: object, **options: object) -> FakeCapture:
        fake = FakeCapture(*args, **options)  # type: ignore[arg-type]
        monkeypatch.setattr(source, "_capture", lambda _: fake)
        return fake

    return install


def test_a_frame_size_that_changes(tmp_path: Path, capture: Callable[..., FakeCapture]) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"x")
    fake = capture([frame(None)] * 3 + [frame(None, (50, 70))] * 3)
    frames, problem = drain(open_source(str(tmp_path / "clip.mp4")))
    assert len(frames) == 3
    assert "at frame 3, from 160 x 96 to 70 x 50" in problem
    assert fake.released.wait(2)


def test_opencv_itself_scales_a_video_that_changes_size(tmp_path: Path) -> None:
    images = [frame(None)] * 5 + [frame(None, (48, 80))] * 5
    raw = b"".join(cv2.imencode(".jpg", image)[1].tobytes() for image in images)
    (tmp_path / "clip.mjpeg").write_bytes(raw)
    frames, problem = drain(open_source(str(tmp_path / "clip.mjpeg")))
    assert not problem
    assert {item.image.shape for item in frames} == {(*SIZE, 3)}


def test_a_camera_drops_stale_frames(capture: Callable[..., FakeCapture]) -> None:
    images = [np.full((4, 4, 3), index, np.uint8) for index in range(200)]
    fake = capture(images, 0.005)
    opened = open_source("0", end=150)
    assert opened.info.live
    assert opened.info.frames is None
    numbers, behind = [], []
    with opened:
        for item in opened:
            assert item.image[0, 0, 0] == item.number
            numbers.append(item.number)
            behind.append(fake.delivered - item.number)
            time.sleep(0.03)
            if len(numbers) == 12:
                break
    assert fake.released.wait(2)
    assert numbers == sorted(numbers)
    assert numbers[-1] >= 24  # most were dropped
    assert max(behind[1:]) <= 4


def test_a_camera_that_stops_or_is_not_there(capture: Callable[..., FakeCapture]) -> None:
    capture([frame(None)] * 2, 0.02)
    assert "camera 0 stopped sending after 2 frames" in drain(open_source("0"))[1]
    capture([], opened=False)
    with pytest.raises(UserError, match="cannot open camera 7: no such camera"):
        open_source("7")
    with pytest.raises(UserError, match="check the address"):
        open_source("rtsp://nowhere.invalid/1")


def test_closing_early_ends_the_thread_and_the_generator() -> None:
    closed = threading.Event()

    def endless() -> Iterator[TimedFrame]:
        number = 0
        try:
            while True:
                yield TimedFrame(number, 0.0, np.zeros((2, 2, 3), np.uint8))
                number += 1
        finally:
            closed.set()

    opened = FrameSource(SourceInfo("x", "x", None, None), endless())
    with opened:
        assert next(opened).number == 0
    assert closed.wait(2)
    assert not opened._thread.is_alive()
    with pytest.raises(StopIteration):
        next(opened)


def test_a_bug_while_decoding_reaches_the_caller() -> None:
    def broken() -> Iterator[TimedFrame]:
        yield TimedFrame(0, 0.0, np.zeros((2, 2, 3), np.uint8))
        raise ZeroDivisionError

    with FrameSource(SourceInfo("x", "x", None, None), broken()) as opened:
        next(opened)
        with pytest.raises(ZeroDivisionError):
            next(opened)
