"""Writes a video that plays in a browser, by PyAV, in a thread of its own."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import av.error
import cv2
import numpy as np
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.files import explain_os_error
from sttrack_deploy.output_file import OutputFile
from sttrack_deploy.video.file_types import CONTAINERS
from sttrack_deploy.video.frames import DEFAULT_FPS, Image, Note
from sttrack_deploy.video.sound import SoundCopy

__all__ = ["DEFAULT_QUALITY", "VideoWriter", "check_codec", "scheduling_kept"]

DEFAULT_QUALITY = 75

RESERVE_BYTES = 4 * 2**20
"""Free space at which a video is closed: an MP4 that cannot write its index at the end is lost."""
QUEUE_DEPTH = 8  # frames that wait for the encoder
POLL_SECONDS = 0.2
ONE_THREAD_PIXELS = 1280 * 720  # of frames that one thread encodes faster than any tracker needs them


@dataclass(frozen=True, slots=True)
class _Encoder:
    """How a codec is written.

    Attributes:
        names: FFmpeg's encoders, best first.
        worst: its own measure of quality at 0, best at 100.
        finest: most ticks a second that its time stamps can count.
        smallest: pixels a side of the smallest frame that it takes.
    """

    names: tuple[str, ...]
    option: str
    worst: float
    best: float
    finest: int
    smallest: int
    fixed: tuple[tuple[str, str], ...] = ()

    def options(self, quality: int) -> dict[str, str]:
        level = self.worst + (self.best - self.worst) * quality / 100
        if self.option == "crf":
            return {"crf": str(round(level)), **dict(self.fixed)}
        whole = str(max(2, round(level)))
        return {"qmin": whole, "qmax": whole, **dict(self.fixed)}


_ENCODERS = {
    "h264": _Encoder(("libx264", "libopenh264"), "crf", 41, 13, 100_000, 2, (("preset", "ultrafast"),)),
    "av1": _Encoder(("libsvtav1", "libaom-av1"), "crf", 60, 22, 100_000, 64, (("preset", "9"),)),
    "mpeg4": _Encoder(("mpeg4",), "q", 18, 1, 65_535, 2),
}


def check_codec(path: Path, codec: str | None) -> str:
    """The codec that a video of this name gets.

    Args:
        path: the video to write.
        codec: one of ``CODECS``; ``None`` for the suffix's default.

    Raises:
        UsageError: the suffix is no video's, or does not go with the codec.
    """
    known = CONTAINERS.get(path.suffix.lower())
    if known is None:
        raise UsageError(
            f"cannot write a video named {path.name}: its suffix must be one of {' '.join(CONTAINERS)}"
        )
    if codec is None:
        return known.codecs[0]
    if codec not in known.codecs:
        raise UsageError(
            f"a {path.suffix.lower()} file takes the codec {' or '.join(known.codecs)}, not {codec}"
        )
    return codec


class VideoWriter(OutputFile):
    """Writes frames to a video file, at their times; the first frame decides the size.

    Frames are encoded in a thread. An error there is raised by the next :meth:`write`, or at the end.
    """

    def __init__(
        self,
        path: Path,
        fps: float | None = None,
        *,
        codec: str | None = None,
        quality: int = DEFAULT_QUALITY,
        sound: str | None = None,
        note: Note | None = None,
    ) -> None:
        """Start a file.

        Args:
            path: the suffix decides the format.
            fps: frames a second on average: the step of frames without a time, and the clock of formats that
                know no times (AVI).
            codec: see :func:`check_codec`.
            quality: 0 to 100.
            sound: what :func:`av.open` reads the sound to copy from.
            note: is told where frames are padded, and why sound is missing.

        Raises:
            UsageError: the suffix is no video's, or does not go with the codec.
            UserError: the folder cannot be written, or the disk is full.
        """
        self._codec = check_codec(path, codec)
        super().__init__(path)
        self._fps = fps or DEFAULT_FPS
        self._quality, self._sound_source = quality, sound
        self._note: Note = note or (lambda _: None)
        self._size = (0, 0)
        self._first = self._last = 0.0
        self._encoding: _Encoding | None = None
        self._thread: threading.Thread | None = None
        self._queue: queue.Queue[tuple[Image, float] | None] = queue.Queue(QUEUE_DEPTH)
        self._error: BaseException | None = None

    def __enter__(self) -> VideoWriter:
        return self

    def write(self, image: Image, time: float | None = None) -> None:
        """Append a frame.

        Args:
            image: BGR uint8 ``(height, width, 3)``; must not change afterwards.
            time: seconds; the first frame's becomes 0. ``None``: one step after the last one.

        Raises:
            UserError: the disk is full, or the frame cannot be encoded.
        """
        size = (image.shape[1], image.shape[0])
        if self._encoding is None:
            self._start(image, size, time or 0.0)
        elif size != self._size:
            raise UserError(f"a video of {self._size} cannot take a frame of {size}")
        self._check_space(image)
        if time is None:
            time = self._last + 1 / self._fps if self.frames else 0.0
        self._last = time
        self._put((image, time - self._first))
        self.frames += 1

    def _start(self, image: Image, size: tuple[int, int], time: float) -> None:
        self._check_space(image)
        self._size, self._first = size, time
        with self._explained():
            self._encoding = _Encoding(self, size, time)
        self._thread = threading.Thread(target=self._encode, name="sttrack-encode", daemon=True)
        self._thread.start()

    def _put(self, item: tuple[Image, float] | None) -> None:
        while True:
            self._raise()
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=POLL_SECONDS)
                return

    def _raise(self) -> None:
        if self._error is not None:
            with self._explained():
                raise self._error

    def _encode(self) -> None:
        assert self._encoding is not None
        try:
            while (item := self._queue.get()) is not None:
                self._encoding.add(*item)
            self._encoding.finish()
        except BaseException as error:  # handed to the writer's thread, whatever it is
            self._error = error

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise  # the reader of a FIFO has gone, which ends the run
        except (av.error.FFmpegError, OSError, ValueError) as error:
            code = getattr(error, "errno", None)
            if isinstance(code, int) and 0 < code < 200 and code != 22:
                raise explain_os_error(OSError(code, os.strerror(code)), self.path) from error
            reason = getattr(error, "strerror", None) or error
            width, height = self._size
            raise UserError(
                f"cannot write {self.path} with frames of {width} x {height} in {self._codec}: {reason}; "
                "try another --codec, or leave the video out with --no-video"
            ) from error

    def _check_space(self, image: Image) -> None:
        if self._special:
            return
        free = shutil.disk_usage(self._target.parent).free
        if free < RESERVE_BYTES + image.nbytes:
            kept = f"; the video up to there is kept in {self.path}" if self.frames else ""
            raise UserError(
                f"the disk is full: no room for frame {self.frames} of {self.path} "
                f"({free / 2**20:.1f} MiB free){kept}"
            )

    def _finish(self) -> None:
        if self._encoding is None or self._thread is None:
            return
        try:
            with contextlib.suppress(UserError, BrokenPipeError):  # told below
                self._put(None)
            while self._thread.is_alive() and self._error is None:
                self._thread.join(POLL_SECONDS)
            self._raise()
        finally:
            self._encoding.close()
            self._encoding = None


@contextlib.contextmanager
def scheduling_kept() -> Iterator[None]:
    """Keep threads ordinary ones: as root, SVT-AV1 makes its own and the one that opens it real-time (FIFO, 99).

    They, and all processes started afterwards, would keep everybody else from the processor.
    """
    if sys.platform != "linux" or os.sched_getscheduler(0) != os.SCHED_OTHER:
        yield
        return
    try:
        yield
    finally:
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):  # it has ended
                if os.sched_getscheduler(int(thread.name)) == os.SCHED_FIFO:
                    os.sched_setscheduler(int(thread.name), os.SCHED_OTHER, os.sched_param(0))


class _Encoding:
    """The encoder, the container and the sound of one file."""

    def __init__(self, writer: VideoWriter, size: tuple[int, int], start: float) -> None:
        """``start``: the source's time of the first frame, seconds."""
        path, special = writer._target, writer._special
        encoder = _ENCODERS[writer._codec]
        format_name = CONTAINERS[path.suffix.lower()].format
        self._file: BinaryIO | None = None
        self._sound: SoundCopy | None = None
        self._size = padded_size(size, writer._codec)
        if self._size != size:
            (width, height), (wide, high) = size, self._size
            writer._note(
                f"note: frames of {width} x {height} are padded to {wide} x {high} for {writer._codec}"
            )
        self._base = time_base(writer._fps, encoder.finest, fixed=format_name == "avi")
        self._step = max(1, round(1 / writer._fps / self._base))
        self._tick = -1
        # What cannot be sought back in is written in fragments.
        flags = "frag_keyframe+empty_moov+default_base_moof" if special else "faststart"
        options = {"movflags": flags} if format_name in ("mp4", "mov") else {}
        target: str | BinaryIO = f"file:{path}"
        if special:
            target = self._file = path.open("wb", buffering=0)
        try:
            self._container: OutputContainer = av.open(target, "w", format=format_name, options=options)
            self._stream = self._video_stream(encoder, writer)
            if writer._sound_source is not None:
                self._sound = SoundCopy(writer._sound_source, self._container, start, writer._note)
        except BaseException:
            if self._file is not None:
                self._file.close()
            raise

    def _video_stream(self, encoder: _Encoder, writer: VideoWriter) -> VideoStream:
        name = next((name for name in encoder.names if name in av.codecs_available), None)
        if name is None:
            raise UserError(f"this PyAV cannot write {writer._codec}; choose another --codec")
        # Only a hint; the time stamps say when. SVT-AV1 refuses more.
        rate = Fraction(min(writer._fps, 240.0)).limit_denominator(1001)
        options = encoder.options(writer._quality)
        if self._size[0] * self._size[1] <= ONE_THREAD_PIXELS and name == "libx264":
            options["threads"] = "1"
        os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 tells its settings on standard error
        if self._container.format.name == "avi":
            options["bf"] = "0"  # it knows no time but the order of frames
        stream = self._container.add_stream(name, rate=rate, options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = self._size
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = self._base
        context.gop_size = max(1, min(300, round(2 * writer._fps)))  # a player can jump to every other second
        # cv2's conversion: BT.601, limited range.
        context.colorspace, context.color_range = 6, 1
        context.color_primaries, context.color_trc = 6, 6
        with scheduling_kept():
            context.open(strict=False)
        return stream

    def add(self, image: Image, seconds: float) -> None:
        """Encode a frame; ``seconds`` since the first one."""
        width, height = self._size
        right, below = width - image.shape[1], height - image.shape[0]
        if right or below:
            image = np.asarray(cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE), np.uint8)
        # Not by swscale, whose fast conversion is up to four levels too dark.
        planes = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420), np.uint8)
        frame = av.VideoFrame.from_ndarray(planes, "yuv420p")
        self._tick = max(self._tick + 1, round(seconds / self._base))
        frame.pts, frame.time_base = self._tick, self._base
        self._mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Write what the encoder holds, the sound up to the end, and the index."""
        self._mux(self._stream.encode())
        if self._sound is not None:
            self._sound.copy_until(float((self._tick + self._step) * self._base))
        self._container.close()

    def _mux(self, packets: list[Packet[VideoStream]]) -> None:
        for packet in packets:
            if not packet.duration:
                packet.duration = self._step  # the last frame would have none
            if self._sound is not None and packet.dts is not None:
                self._sound.copy_until(float(packet.dts * self._base))
            self._container.mux(packet)

    def close(self) -> None:
        """Release everything; after :meth:`finish`, or instead of it."""
        if self._sound is not None:
            self._sound.close()
        with contextlib.suppress(av.error.FFmpegError, OSError):
            self._container.close()
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()


def padded_size(size: tuple[int, int], codec: str) -> tuple[int, int]:
    """Width and height that the codec takes: even, and not below its smallest."""
    least = _ENCODERS[codec].smallest
    return (max(least, size[0] + size[0] % 2), max(least, size[1] + size[1] % 2))


def time_base(fps: float, finest: int, *, fixed: bool = False) -> Fraction:
    """The unit of time stamps, seconds: a part of the frame's duration, as exact as the codec allows.

    Args:
        fps: frames a second.
        finest: units a second that the codec can count.
        fixed: the unit is the frame's duration itself.
    """
    denominator = 1001
    rate = Fraction(fps).limit_denominator(denominator)
    while rate.numerator > finest and denominator > 1:
        denominator //= 2
        rate = Fraction(fps).limit_denominator(denominator)
    return 1 / rate if fixed else Fraction(1, rate.numerator * max(1, finest // rate.numerator))
