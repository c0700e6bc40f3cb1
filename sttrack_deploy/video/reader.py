"""Frames of a video file, decoded by PyAV (FFmpeg) as a player would show them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import av.error
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from sttrack_deploy.errors import UserError
from sttrack_deploy.video.container import open_container, reason, shown_name, video_stream
from sttrack_deploy.video.decoded import DisplayedImage, MediaClock, usable_rate
from sttrack_deploy.video.frames import DEFAULT_FPS, Frame, Note

_Opener = Callable[[int], tuple[InputContainer, VideoStream]]
"""Opens the file again, with a decoder of that many threads."""

__all__ = ["VideoInfo", "VideoReader", "open_video"]

OPEN_TIMEOUT, READ_TIMEOUT = 10.0, 20.0  # seconds, for what comes over the network
MOST_THREADS = 16
CUT_SECONDS, CUT_SHARE = 1.0, 0.02  # an end that is this much too early is no rounding of the duration
CUT_FRAMES = 3  # of the video's own duration


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video's header says.

    Attributes:
        name: for messages.
        codec: FFmpeg's name of it, such as ``h264``.
        fps: frames a second on average, if known.
        frames: how many there are, if known; an estimate in some containers.
        audio: it has sound.
    """

    name: str
    codec: str
    fps: float | None
    frames: int | None
    audio: bool


class _DecoderFailed(Exception):
    """A frame could not be decoded, by a decoder of several threads."""


class VideoReader:
    """Iterates over a video's frames, once. A context manager; frames are decoded where it is iterated.

    A damaged file gives every frame that can be decoded. What is missing is told at the end: by a
    UserError if frames are missing, by a note if some were only patched up by the decoder.

    Attributes:
        info: what the header says.
        damaged: frames delivered so far that the decoder had to patch up.
        lost: frames so far that could not be decoded.
    """

    def __init__(
        self, opener: _Opener, name: str, start: int, end: int | None, threads: int, note: Note | None
    ) -> None:
        self._opener = opener
        self._container, self._stream = opener(threads)
        self.info = _info(self._container, self._stream, name)
        self.damaged = self.lost = 0
        self._threads = threads
        self._range = (start, end)
        self._note = note
        self._packets = 0  # of the video
        self._last_end = self._video_end = 0.0  # of any stream, of the video's, seconds
        self._failure: str | None = None
        self._frames = self._read()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Frame]:
        return self._frames

    def __next__(self) -> Frame:
        return next(self._frames)

    def count(self) -> int:
        """How many frames can be decoded, from the first on; instead of iterating, and faster."""
        try:
            return sum(1 for _ in self._decode())
        finally:
            self.close()

    def close(self) -> None:
        """Release the file; may be called twice."""
        self._frames.close()
        self._container.close()

    def _read(self) -> Generator[Frame, None, None]:
        start, end = self._range
        begin, step = (self._container.start_time or 0) / 1e6, 1 / (self.info.fps or DEFAULT_FPS)
        clock = MediaClock(begin, step, self._stream.time_base)
        image_of = DisplayedImage(self._stream.sample_aspect_ratio)
        index = 0
        try:
            for frame in self._decode():
                if end is not None and index >= end:
                    break
                seconds = clock.time_of(frame)
                self.damaged += frame.is_corrupt
                # Not by seeking, which lands on the wrong frame in many files.
                if index >= start:
                    yield Frame(index, seconds, image_of(frame))
                index += 1
            else:
                self._check_end(index)
            self._tell(image_of.resized)
        finally:
            self._container.close()

    def _decode(self) -> Iterator[VideoFrame]:
        """Every frame; from the start once more by one thread where several met a damaged frame.

        Several threads lose the frames that they hold when one of them fails, and do not say how many.
        """
        delivered = 0
        if self._threads != 1:
            try:
                for frame in self._pass(strict=True):
                    yield frame
                    delivered += 1
                return
            except _DecoderFailed:
                self._container.close()
                self._container, self._stream = self._opener(1)
                self._packets, self._last_end, self._video_end, self._failure = 0, 0.0, 0.0, None
        for position, frame in enumerate(self._pass(strict=False)):
            if position >= delivered:
                yield frame

    def _pass(self, *, strict: bool) -> Iterator[VideoFrame]:
        """Decode the file; a frame that fails is counted, or raises _DecoderFailed if ``strict``."""
        frames = expected = 0
        for packet in self._demux():
            expected += packet is not None and not packet.is_discard
            try:
                decoded = self._stream.decode(packet)
            except av.error.FFmpegError as error:
                if strict:
                    raise _DecoderFailed from error
                self.lost += 1
                continue
            frames += len(decoded)
            yield from decoded
        # At the end PyAV keeps an error to itself, with the frames behind it.
        if strict and 0 < expected - frames <= MOST_THREADS:
            raise _DecoderFailed

    def _demux(self) -> Iterator[Packet[Any] | None]:
        """The video's packets, then None."""
        try:
            for packet in self._container.demux():
                base = packet.time_base
                if packet.pts is not None and base is not None:
                    end = float((packet.pts + (packet.duration or 0)) * base)
                    self._last_end = max(self._last_end, end)
                    if packet.stream is self._stream:
                        self._video_end = max(self._video_end, end)
                if packet.stream is not self._stream or (packet.dts is None and not packet.size):
                    continue
                self._packets += 1
                if packet.size:
                    yield packet
        except (av.error.FFmpegError, OSError) as error:
            self._failure = reason(error)
        yield None

    def _check_end(self, frames: int) -> None:
        """Raises UserError unless the file ended where it should."""
        name = self.info.name
        if not frames:
            raise UserError(f"{name} has no frame that can be decoded: it is damaged")
        if frames <= self._range[0]:
            raise UserError(f"{name} has {frames} frames; --start {self._range[0]} is past its end")
        kept = "every other frame was read, and the results are complete up to the end"
        missing = self._announced() - self._packets
        if missing > 0:
            raise UserError(
                f"{name} is truncated or damaged: it announces {self._packets + missing} frames, {missing} are "
                f"missing{self._bad()}; {kept}"
            )
        if self._failure is not None:
            raise UserError(f"{name}: reading stopped after {frames} frames: {self._failure}; {kept}")
        # Only Matroska has no index of all frames but states how long it is to the millisecond.
        if "matroska" in self._container.format.name:
            announced, end = self._announced_end()
            if announced > end:
                raise UserError(
                    f"{name} is truncated: it announces {announced:.2f} s and ends at {end:.2f} s, after "
                    f"{frames} frames{self._bad()}; {kept}"
                )
        if self.lost:
            raise UserError(f"{name} is damaged: {self._bad(first=True)}; {kept}")

    def _announced(self) -> int:
        """Frames that the file's index or header promises; 0 where there is neither.

        Hidden ones (an edit list's) included, as they are in the packets.
        """
        listed = len(self._stream.index_entries)
        base = self._stream.time_base
        if self._container.format.name != "avi" or not base:
            return listed
        # A cut AVI has no index. Its header counts times: those without a frame, which recorders leave, are no loss.
        headed = self._stream.frames
        gone = headed - round(self._video_end / base)
        return max(listed, self._packets + gone if gone > max(2, headed // 100) else 0)

    def _announced_end(self) -> tuple[float, float]:
        """When the file should end and when it ends, seconds; the same where the difference may be a rounding."""
        whole = (self._container.duration or 0) / 1e6
        if whole - self._last_end > max(CUT_SECONDS, CUT_SHARE * whole):
            return whole, self._last_end
        # The video's own, which a writer may have copied from elsewhere: the file must be as long, too.
        own = min(whole, _seconds(self._stream.metadata.get("DURATION", "")))
        few = CUT_FRAMES / (self.info.fps or DEFAULT_FPS)
        return (own, self._video_end) if own - self._video_end > max(few, CUT_SHARE * own) else (0.0, 0.0)

    def _bad(self, *, first: bool = False) -> str:
        """How many frames were bad, as a part of a sentence."""
        told = [f"{self.lost} frames could not be decoded"] if self.lost else []
        if self.damaged:
            told.append(f"{self.damaged} hold errors")
        return "" if not told else ("" if first else ", ") + " and ".join(told)

    def _tell(self, resized: bool) -> None:
        if self._note is None:
            return
        if self.damaged:
            self._note(f"note: {self.info.name} is damaged: {self.damaged} of its frames hold errors")
        if resized:
            self._note(
                f"note: {self.info.name} changes its frame size; its frames are scaled to the first one's"
            )


def open_video(
    source: str | Path | BinaryIO,
    *,
    start: int = 0,
    end: int | None = None,
    threads: int = 0,
    hardware: str | None = None,
    note: Note | None = None,
) -> VideoReader:
    """Open a video to iterate over its frames.

    Args:
        source: a path, a URL (``http://…``), or a seekable binary file.
        start: first frame to deliver, counted from 0.
        end: the frame to stop before; ``None`` for all.
        threads: of the decoder; 0 for one a core.
        hardware: device type to decode on (``cuda``, ``vaapi``, …), instead of the CPU.
        note: is told about damage and changes of size.

    Raises:
        UserError: not readable, or no video; the line says which of it.
    """
    target, name = _target(source)

    def opener(count: int) -> tuple[InputContainer, VideoStream]:
        if not isinstance(target, str):
            target.seek(0)
        timeout = (OPEN_TIMEOUT, READ_TIMEOUT) if "://" in name else None
        container = open_container(target, name, hardware=hardware, timeout=timeout)
        try:
            stream = video_stream(container, name)
        except BaseException:
            container.close()
            raise
        stream.thread_type = "AUTO"
        stream.thread_count = 1 if hardware else count
        return container, stream

    return VideoReader(opener, name, start, end, threads or _threads(), note)


def _target(source: str | Path | BinaryIO) -> tuple[str | BinaryIO, str]:
    """What PyAV opens, and the name for messages."""
    if isinstance(source, str) and "://" in source and not Path(source).exists():
        return source, shown_name(source)
    if not isinstance(source, (str, Path)):
        return source, str(getattr(source, "name", "the video"))
    try:
        with Path(source).open("rb") as file:
            empty = not file.read(1)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {source}: {getattr(error, 'strerror', None) or error}") from error
    if empty:
        raise UserError(f"{source} is empty (0 bytes)")
    # The protocol is named, or a colon in the file's name would be taken for one.
    return f"file:{source}", str(source)


def _seconds(clock: str) -> float:
    """``00:01:02.500000000``; 0 where it is anything else."""
    match = re.fullmatch(r"(\d{1,6}):(\d{2}):(\d{2}(?:\.\d+)?)", clock, re.ASCII)
    return 0.0 if match is None else 3600 * int(match[1]) + 60 * int(match[2]) + float(match[3])


def _threads() -> int:
    return max(1, min(MOST_THREADS, os.cpu_count() or 1))


def _info(container: InputContainer, stream: VideoStream, name: str) -> VideoInfo:
    rate = usable_rate(stream.average_rate) or usable_rate(stream.guessed_rate)
    frames = stream.frames or None
    if rate is not None and container.duration is not None and frames is None:
        frames = round(container.duration / 1e6 * rate) or None
    elif (
        frames is not None
        and rate is not None
        and stream.duration is not None
        and stream.time_base is not None
    ):
        # An edit list hides samples that the header counts.
        frames = min(frames, max(1, round(float(stream.duration * stream.time_base) * rate)))
    return VideoInfo(name, stream.codec_context.name, rate, frames, bool(container.streams.audio))
