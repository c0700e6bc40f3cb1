"""Single frames of a video or a folder by number, always those that a run over it would see.

A video's packets are listed once, without decoding; a frame is then found by its presentation time from
the key frame before it. Where time stamps are missing or stand twice, frames are counted from the start.
"""

from __future__ import annotations

import bisect
import contextlib
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import av
import av.error
from av.video.frame import VideoFrame

from sttrack_deploy.errors import UserError
from sttrack_deploy.video.container import open_container, video_stream
from sttrack_deploy.video.decoded import DisplayedImage
from sttrack_deploy.video.frames import Frame
from sttrack_deploy.video.image_folder import image_files, image_frames, read_image
from sttrack_deploy.video.reader import open_video

__all__ = ["FrameReader", "open_frames"]

FORMATS = (
    "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,ogg,flv,asf,gif,h264,hevc,ivf,mjpeg,mpjpeg,nut,wtv,mxf"
)
"""Containers that hold their video themselves. Playlists (HLS, DASH, concat) name other files and addresses."""
STEP_AHEAD = 48  # frames that are decoded on the way to one, before seeking is faster
MOST_PACKETS = 5_000_000


class FrameReader(Protocol):
    """Frames by number; from any thread.

    Attributes:
        width, height: of a displayed frame, pixels.
        frames: how many there are, as far as known.
    """

    width: int
    height: int
    frames: int | None
    fps: float | None

    def read(self, index: int) -> Frame | None:
        """One frame; ``None`` past the end."""
        ...

    def iterate(self, start: int) -> Iterator[Frame]:
        """Frames in turn from that one on."""
        ...

    def close(self) -> None:
        """Release files."""
        ...


def open_frames(path: Path, pixels: int) -> FrameReader:
    """Open a video or a folder of images.

    Args:
        pixels: most that a frame may have.

    Raises:
        UserError: unreadable, not a video, or frames that are too large.
    """
    reader: FrameReader = _FolderFrames(path) if path.is_dir() else _VideoFrames(path)
    if reader.width * reader.height > pixels:
        reader.close()
        raise UserError(f"its frames are {reader.width} x {reader.height}, larger than this server takes")
    return reader


class _FolderFrames:
    def __init__(self, path: Path) -> None:
        self._files = image_files(path)
        if not self._files:
            raise UserError(f"the folder {path} has no images in it")
        first = read_image(self._files[0])
        self.height, self.width = first.shape[:2]
        self.frames: int | None = len(self._files)
        self.fps: float | None = None

    def read(self, index: int) -> Frame | None:
        return next(self.iterate(index), None)

    def iterate(self, start: int) -> Iterator[Frame]:
        return image_frames(self._files[start:], start)

    def close(self) -> None:
        """Nothing is open."""


class _Table(NamedTuple):
    """Presentation times of all frames in the stream's unit, in order; seconds = stamp * base - zero."""

    stamps: list[int]
    keys: list[int]
    base: float
    zero: float


class _Decoded(NamedTuple):
    number: int
    convert: Callable[[], Frame]


class _VideoFrames:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._ahead: Generator[_Decoded] | None = None
        self._next = 0
        self._closed = False
        _check_format(path)
        with open_video(path) as video:
            first = next(iter(video), None)
            if first is None:
                raise UserError(f"{path} has no frame that can be decoded")
            self.fps: float | None = video.info.fps
            announced = video.info.frames
        self.height, self.width = first.image.shape[:2]
        self._table = _list_packets(path, first.time)
        self.frames: int | None = announced if self._table is None else len(self._table.stamps)

    def read(self, index: int) -> Frame | None:
        with self._lock:
            if self._closed:
                return None
            if self._ahead is None or not self._next <= index < self._next + STEP_AHEAD:
                self._stop()
                self._ahead = self._decode(index)
            for decoded in self._ahead:
                self._next = decoded.number + 1
                if decoded.number >= index:
                    return decoded.convert()
            self._stop()
            return None

    def iterate(self, start: int) -> Iterator[Frame]:
        with contextlib.closing(self._decode(start)) as decoded:
            for one in decoded:
                if one.number >= start:
                    yield one.convert()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._stop()

    def _stop(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    def _decode(self, start: int) -> Generator[_Decoded]:
        """Frames up to and from ``start`` on; those before it are not converted."""
        if start == 0 or self._table is None:
            with open_video(self._path) as video:
                for frame in video:
                    yield _Decoded(frame.index, lambda frame=frame: frame)  # type: ignore[misc]
            return
        table = self._table
        if start >= len(table.stamps):
            return
        # Some containers are searched by bytes and land behind the key frame: then begin at an earlier one.
        key, back = bisect.bisect_right(table.keys, table.stamps[start]) - 1, 1
        while key >= 0:
            decoded = self._decode_from(table, table.keys[key])
            first = next(decoded, None)
            if first is not None and first.number <= start:
                yield first
                yield from decoded
                return
            decoded.close()
            key, back = key - back, 2 * back
        self._table = None  # it cannot be searched: count
        yield from self._decode(start)

    def _decode_from(self, table: _Table, stamp: int) -> Generator[_Decoded]:
        with open_container(f"file:{self._path}", str(self._path)) as container:
            stream = video_stream(container, str(self._path))
            stream.thread_type = "AUTO"
            image = DisplayedImage(stream.sample_aspect_ratio)
            try:
                if stamp != table.keys[0]:
                    container.seek(stamp, stream=stream, backward=True)
                for raw in container.decode(stream):
                    index = self._index_of(raw, table)
                    if index is not None:
                        time = table.stamps[index] * table.base - table.zero
                        yield _Decoded(index, _converter(index, time, raw, image))
            except av.error.FFmpegError as error:
                raise UserError(f"{self._path} is damaged behind frame {self._next}") from error

    def _index_of(self, raw: VideoFrame, table: _Table) -> int | None:
        if raw.pts is None:
            return None
        index = bisect.bisect_left(table.stamps, raw.pts)
        return index if index < len(table.stamps) and table.stamps[index] == raw.pts else None


def _converter(index: int, time: float, raw: VideoFrame, image: DisplayedImage) -> Callable[[], Frame]:
    return lambda: Frame(index, time, image(raw))


def _check_format(path: Path) -> None:
    """Raises UserError where the file is no self-contained video; it is not read further than to know that."""
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    open_container(f"file:{path}", str(path), options=options).close()


def _list_packets(path: Path, first_time: float) -> _Table | None:
    """``None`` where frames cannot be told by their time stamps.

    Args:
        first_time: of the first frame as a run sees it, seconds.
    """
    stamps: list[int] = []
    keys: list[int] = []
    with open_container(f"file:{path}", str(path)) as container:
        stream = video_stream(container, str(path))
        try:
            for packet in container.demux(stream):
                if packet.size == 0 or packet.is_discard:
                    continue
                if packet.pts is None or packet.is_corrupt or len(stamps) >= MOST_PACKETS:
                    return None
                stamps.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(packet.pts)
        except av.error.FFmpegError:
            return None
        base = float(stream.time_base or 0)
    stamps.sort()
    keys.sort()
    if not stamps or not keys or not base or keys[0] != stamps[0] or len(set(stamps)) != len(stamps):
        return None
    return _Table(stamps, keys, base, stamps[0] * base - first_time)
