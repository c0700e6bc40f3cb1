from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from blobs import SIZE, frame, truth, write_images, write_video

from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.video.frames import Frame, FrameSource, SourceInfo, ThreadedSource
from sttrack_deploy.video.image_folder import natural_key
from sttrack_deploy.video.source import open_source, source_stem


def drain(opened: FrameSource) -> tuple[list[Frame], str]:
    """All frames, and the error that ended them, or nothing."""
    frames: list[Frame] = []
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
    assert opened.info == SourceInfo(str(video), "clip", 20, 25.0, False, None)
    frames, problem = drain(opened)
    assert not problem
    assert [item.index for item in frames] == list(range(20))
    assert [item.time for item in frames] == pytest.approx([index / 25 for index in range(20)])
    for item in frames:
        assert item.image.shape == (*SIZE, 3)
        assert np.abs(item.image.astype(int) - frame(truth(item.index), seed=item.index)).mean() < 20


def test_start_and_end(tmp_path: Path) -> None:
    video = str(write_video(tmp_path / "clip.avi", 20))
    everything, _ = drain(open_source(video))
    opened = open_source(video, 5, 9)
    assert opened.info.frames == 4
    frames, problem = drain(opened)
    assert not problem
    assert [item.index for item in frames] == [5, 6, 7, 8]
    assert frames[0].time == pytest.approx(0.2)
    for item in frames:
        np.testing.assert_array_equal(item.image, everything[item.index].image)
    assert [item.index for item in drain(open_source(video, 17, 100))[0]] == [17, 18, 19]


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
    assert "announces 40 frames" in problem
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
    assert [item.time for item in frames] == pytest.approx([index / 10 for index in range(12)])
    for item in frames:
        np.testing.assert_array_equal(item.image, frame(truth(item.index), seed=item.index))
    assert [item.index for item in drain(open_source(str(folder), 3, 5))[0]] == [3, 4]


def test_natural_key() -> None:
    names = ["b1.png", "a10.png", "a2.png", "A1.png", "a02b.png", "10.png", "9.png"]
    assert sorted(names, key=natural_key) == [
        "9.png", "10.png", "A1.png", "a2.png", "a02b.png", "a10.png", "b1.png"
    ]  # fmt: skip


def test_every_kind_of_image_becomes_bgr(tmp_path: Path) -> None:
    gray = np.full(SIZE, 100, np.uint8)
    cv2.imwrite(str(tmp_path / "0.png"), gray)
    cv2.imwrite(str(tmp_path / "1.png"), gray.astype(np.uint16) * 256)
    cv2.imwrite(str(tmp_path / "2.png"), np.dstack([gray] * 4))
    cv2.imwrite(str(tmp_path / "3.jpg"), np.dstack([gray] * 3))
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


def test_closing_early_ends_the_thread_and_the_generator() -> None:
    closed = threading.Event()

    def endless() -> Iterator[Frame]:
        number = 0
        try:
            while True:
                yield Frame(number, 0.0, np.zeros((2, 2, 3), np.uint8))
                number += 1
        finally:
            closed.set()

    opened = ThreadedSource(SourceInfo("x", "x", None, None), endless())
    with opened:
        assert next(opened).index == 0
    assert closed.wait(2)
    assert not opened._thread.is_alive()
    with pytest.raises(StopIteration):
        next(opened)


def test_a_bug_while_decoding_reaches_the_caller() -> None:
    def broken() -> Iterator[Frame]:
        yield Frame(0, 0.0, np.zeros((2, 2, 3), np.uint8))
        raise ZeroDivisionError

    with ThreadedSource(SourceInfo("x", "x", None, None), broken()) as opened:
        next(opened)
        with pytest.raises(ZeroDivisionError):
            next(opened)


@pytest.mark.parametrize("pattern", ["frame%d.png", "frame*.png", "frame?.png", "*[0-9].png"])
def test_patterns(pattern: str, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 6)
    cv2.imwrite(str(folder / "other.jpg"), frame(None))
    opened = open_source(str(folder / pattern), fps=10)
    assert opened.info == SourceInfo(str(folder / pattern), "images", 6, 10)
    frames, problem = drain(opened)
    assert not problem
    for item in frames:
        np.testing.assert_array_equal(item.image, frame(truth(item.index), seed=item.index))


def test_a_pattern_of_digits(tmp_path: Path) -> None:
    for number in (7, 12, 100000, 8):
        cv2.imwrite(str(tmp_path / f"{number:05d}.png"), frame(None, seed=number))
    cv2.imwrite(str(tmp_path / "9.png"), frame(None))  # not of five digits
    frames, _ = drain(open_source(str(tmp_path / "%05d.png")))
    assert len(frames) == 4
    for item, number in zip(frames, (7, 8, 12, 100000), strict=True):
        np.testing.assert_array_equal(item.image, frame(None, seed=number))
    with pytest.raises(UserError, match="no image matches"):
        open_source(str(tmp_path / "%05d.jpg"))


def test_a_file_that_looks_like_a_pattern(tmp_path: Path) -> None:
    video = write_video(tmp_path / "50%d *.avi", 3)
    assert len(drain(open_source(str(video)))[0]) == 3


def test_another_frame_rate(tmp_path: Path) -> None:
    frames, _ = drain(open_source(str(write_video(tmp_path / "clip.avi", 5)), fps=10))
    assert [item.time for item in frames] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("clips/street.mp4", "street"),
        ("7", "camera7"),
        ("-", "stdin"),
        ("rtsp://user:secret@host:554/live/door?token=x", "door"),
        ("rtsp://user:secret@host:554", "host"),
        ("rtsp://user:secret@host/", "host"),
        ("rtsp://user:sec/ret@host/1", "1"),
        ("http://host/a%2Fb%00.mjpg?secret", "b"),
        ("udp://@239.0.0.1:1234", "239.0.0.1"),
        ("rtsp://[::1", "stream"),
        ("frames/%05d.jpg", "frames"),
        ("frames/*.jpg", "frames"),
    ],
)
def test_names_of_results(name: str, stem: str) -> None:
    assert source_stem(name) == stem


@pytest.mark.parametrize(
    "name", ["99999999999999999999", "gopher://host/x", "rtsp://", "x" * 5000, "a\0b", "²"]
)
def test_names_that_mean_nothing(name: str) -> None:
    with pytest.raises(UserError) as caught:
        open_source(name)
    assert len(str(caught.value).splitlines()) == 1
