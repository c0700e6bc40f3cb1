"""Frames from a video file, a folder of images or a camera, decoded in a thread of their own."""

from __future__ import annotations

import contextlib
import math
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UsageError, UserError

__all__ = ["DEFAULT_FPS", "FrameSource", "SourceInfo", "TimedFrame", "natural_key", "open_source"]

Image = npt.NDArray[np.uint8]

DEFAULT_FPS = 25.0
"""Frame rate taken where the source has none: a folder of images, a container that does not say."""

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
LIVE_SCHEMES = frozenset({"rtsp", "rtsps", "rtmp", "udp", "srt"})
QUEUE_DEPTH = 4  # frames decoded ahead; a 4K frame is 24 MB
POLL_SECONDS = 0.2  # how soon a blocked side notices that the other one has gone


class TimedFrame(NamedTuple):
    """A frame.

    Attributes:
        number: 0 for the source's first frame, whatever ``start`` is; a camera's also counts
            the frames that were dropped.
        seconds: since the source's first frame.
        image: BGR uint8 ``(height, width, 3)``, owned by the receiver.
    """

    number: int
    seconds: float
    image: Image


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What is known before the first frame.

    Attributes:
        name: as the user gave it.
        stem: for naming what is made from it.
        frames: how many frames will come (after ``start`` and ``end``), if that is known.
        fps: frames a second, if that is known.
        live: frames come in real time; those that nobody had time for are dropped.
    """

    name: str
    stem: str
    frames: int | None
    fps: float | None
    live: bool = False


class _End(NamedTuple):
    error: BaseException | None


class FrameSource:
    """Iterates over :class:`TimedFrame`; a thread stays a few frames ahead.

    What goes wrong while decoding is raised by the iteration, after every frame that was good. Close
    it (or use ``with``): the thread ends and the file or camera is released.
    """

    def __init__(self, info: SourceInfo, frames: Iterator[TimedFrame]) -> None:
        self.info = info
        self._queue: queue.Queue[TimedFrame | _End] = queue.Queue(1 if info.live else QUEUE_DEPTH)
        self._stop = threading.Event()
        # A daemon, so that a camera driver that hangs in read() cannot keep the program alive.
        self._thread = threading.Thread(
            target=self._decode, args=(frames,), name="sttrack-decode", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> FrameSource:
        return self

    def __next__(self) -> TimedFrame:
        while not self._stop.is_set():
            try:
                item = self._queue.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            if isinstance(item, TimedFrame):
                return item
            self._stop.set()
            if item.error is not None:
                raise item.error
        raise StopIteration

    def close(self) -> None:
        """End the thread and release the source; may be called twice."""
        self._stop.set()
        self._thread.join(timeout=2.0)

    def _decode(self, frames: Iterator[TimedFrame]) -> None:
        end = _End(None)
        try:
            for frame in frames:
                self._put(frame, drop_stale=self.info.live)
                if self._stop.is_set():
                    break
        except BaseException as error:  # handed to the consumer, whatever it is
            end = _End(error)
        finally:
            close: Callable[[], None] | None = getattr(frames, "close", None)
            if close is not None:
                close()  # releases the capture here, in the thread that reads from it
        self._put(end, drop_stale=False)

    def _put(self, item: TimedFrame | _End, *, drop_stale: bool) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.0 if drop_stale else POLL_SECONDS)
                return
            except queue.Full:
                if drop_stale:
                    with contextlib.suppress(queue.Empty):
                        self._queue.get_nowait()


def open_source(name: str, start: int = 0, end: int | None = None, fps: float | None = None) -> FrameSource:
    """Open whatever ``name`` means: an existing file or folder, else a camera index, else a stream's URL.

    Args:
        name: path of a video, path of a folder of images (taken in natural order of their names), camera
            index, or URL.
        start: first frame to deliver, counted from 0.
        end: the frame to stop before (exclusive); ``None`` for all.
        fps: frame rate to assume, instead of the source's own.

    Raises:
        UsageError: impossible ``start`` and ``end``.
        UserError: nothing there, not readable, or without a single frame.
    """
    if start < 0 or (end is not None and end <= start):
        raise UsageError(f"there are no frames from {start} to {end}: --end must be greater than --start")
    path = Path(name)
    scheme = name.partition("://")[0].lower() if "://" in name else ""
    if path.is_dir():
        return _open_folder(path, start, end, fps)
    if path.is_file():
        return _open_video(path, start, end, fps)
    if name.isdecimal():
        return _open_live(int(name), f"camera {name}", f"camera{name}", start, end, fps)
    if scheme in LIVE_SCHEMES:
        return _open_live(name, name, "stream", start, end, fps)
    if scheme:
        return _open_capture(_capture(name), name, path.stem, start, end, fps)
    if path.exists():
        raise UserError(f"{name} is neither a video file nor a folder of images")
    raise UserError(f"there is no file or folder {name}; give a video, a folder of images or a camera index")


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts names as people do: ``frame2`` before ``frame10``."""
    parts = re.split(r"(\d+)", name.lower())
    key = [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
    return (*key, (2, 0, name))  # the name itself decides between 7 and 007


# --- video files -------------------------------------------------------------------------------------


def _open_video(path: Path, start: int, end: int | None, fps: float | None) -> FrameSource:
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise UserError(f"{path} is a single image; give the folder of images that it is in, or a video")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if empty:
        raise UserError(f"{path} is empty (0 bytes)")
    return _open_capture(_capture(str(path)), str(path), path.stem, start, end, fps)


def _open_capture(
    capture: cv2.VideoCapture, name: str, stem: str, start: int, end: int | None, fps: float | None
) -> FrameSource:
    if not capture.isOpened():
        raise UserError(
            f"{name} cannot be read as a video: it is damaged, or not in a format that OpenCV decodes; "
            f"try: ffmpeg -i {name} -c:v libx264 repaired.mp4"
        )
    announced = _positive(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    count = None if announced is None else int(announced)
    fps = _usable_fps(capture.get(cv2.CAP_PROP_FPS)) if fps is None else fps
    known = None if count is None else max(0, (count if end is None else min(end, count)) - start)
    frames = _video_frames(capture, name, count, fps or DEFAULT_FPS, start, end)
    return FrameSource(SourceInfo(name, stem, known, fps), frames)


def _video_frames(
    capture: cv2.VideoCapture, name: str, count: int | None, fps: float, start: int, end: int | None
) -> Iterator[TimedFrame]:
    """Decode frames ``start`` up to ``end``.

    The frames before ``start`` are decoded and thrown away, because seeking lands on the wrong frame in
    many files. (OpenCV itself scales frames to the first one's size where a video changes size.)

    Raises:
        UserError: no frame, a frame of another size, or clearly fewer frames than the file announces.
    """
    index, shape = 0, None
    try:
        while index < start and capture.grab():
            index += 1
        while index >= start and (end is None or index < end):
            ok, raw = capture.read()
            if not ok:
                break
            image = np.asarray(raw, np.uint8)
            if shape is not None and image.shape != shape:
                raise UserError(
                    f"{name} changes its frame size at frame {index}, from {shape[1]} x {shape[0]} to "
                    f"{image.shape[1]} x {image.shape[0]}; start again there with --start {index}"
                )
            shape = image.shape
            milliseconds = _positive(capture.get(cv2.CAP_PROP_POS_MSEC))
            yield TimedFrame(index, index / fps if milliseconds is None else milliseconds / 1000, image)
            index += 1
    finally:
        capture.release()
    if index == 0:
        raise UserError(f"{name} has no frame that can be decoded: it is damaged or has no video in it")
    if count is not None and (end is None or index < end) and count - index > _count_tolerance(count):
        raise UserError(
            f"{name} is truncated or damaged: it announces {count} frames, only {index} could be decoded; "
            "the results up to there are complete"
        )
    if shape is None:
        raise UserError(f"{name} has {index} frames; --start {start} is past its end")


def _count_tolerance(count: int) -> int:
    """Frames that may be missing without a word: containers estimate their count from the duration."""
    return max(2, count // 100)


# --- folders of images -------------------------------------------------------------------------------


def _open_folder(path: Path, start: int, end: int | None, fps: float | None) -> FrameSource:
    try:
        files = [
            file
            for file in path.iterdir()
            if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
        ]
    except OSError as error:
        raise UserError(f"cannot read the folder {path}: {error.strerror or error}") from error
    if not files:
        raise UserError(f"the folder {path} has no images in it ({' '.join(sorted(IMAGE_SUFFIXES))})")
    if start >= len(files):
        raise UserError(f"{path} has {len(files)} images; --start {start} is past its end")
    files.sort(key=lambda file: natural_key(file.name))
    chosen = files[start:end]
    info = SourceInfo(str(path), path.resolve().name or "images", len(chosen), fps)
    return FrameSource(info, _folder_frames(chosen, start, fps or DEFAULT_FPS))


def _folder_frames(files: list[Path], start: int, fps: float) -> Iterator[TimedFrame]:
    shape = None
    for index, file in enumerate(files, start):
        image = _read_image(file)
        if shape is not None and image.shape != shape:
            raise UserError(
                f"{file} is {image.shape[1]} x {image.shape[0]}, the images before it are "
                f"{shape[1]} x {shape[0]}; all images of a folder must have one size"
            )
        shape = image.shape
        yield TimedFrame(index, index / fps, image)


def _read_image(file: Path) -> Image:
    """BGR uint8; grey, 16-bit and 4-channel images are converted."""
    try:
        data = np.fromfile(file, np.uint8)  # imread cannot open every file name on every system
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except (OSError, cv2.error) as error:
        raise UserError(f"cannot read the image {file}: {error}") from error
    if image is None:
        raise UserError(f"{file} cannot be read as an image: it is empty, damaged or not an image")
    return np.asarray(image, np.uint8)


# --- cameras and live streams ------------------------------------------------------------------------


def _open_live(
    device: int | str, name: str, stem: str, start: int, end: int | None, fps: float | None
) -> FrameSource:
    capture = _capture(device)
    if not capture.isOpened():
        hint = (
            "no such camera, or another program is using it"
            if isinstance(device, int)
            else "check the address"
        )
        raise UserError(f"cannot open {name}: {hint}")
    fps = _usable_fps(capture.get(cv2.CAP_PROP_FPS)) if fps is None else fps
    # How many frames will come is not known: those that are dropped count too.
    return FrameSource(SourceInfo(name, stem, None, fps, True), _live_frames(capture, name, start, end))


def _live_frames(capture: cv2.VideoCapture, name: str, start: int, end: int | None) -> Iterator[TimedFrame]:
    first, index, shape = time.monotonic(), 0, None
    try:
        while end is None or index < end:
            ok, raw = capture.read()
            if not ok:
                raise UserError(f"{name} stopped sending after {index} frames")
            image = np.asarray(raw, np.uint8)
            if shape is not None and image.shape != shape:
                raise UserError(
                    f"{name} changed its frame size at frame {index}, from {shape[1]} x {shape[0]} to "
                    f"{image.shape[1]} x {image.shape[0]}"
                )
            shape = image.shape
            if index == 0:
                first = time.monotonic()
            if index >= start:
                yield TimedFrame(index, time.monotonic() - first, image)
            index += 1
    finally:
        capture.release()


# --- OpenCV's captures -------------------------------------------------------------------------------


def _capture(device: int | str) -> cv2.VideoCapture:
    return cv2.VideoCapture(device)


def _positive(value: float) -> float | None:
    """OpenCV answers 0, -1, NaN or a huge negative number for "unknown"."""
    return value if math.isfinite(value) and value > 0 else None


def _usable_fps(value: float) -> float | None:
    """Containers without a frame rate report a time base such as 1000 or 90000."""
    return value if math.isfinite(value) and 0.1 <= value <= 480 else None
