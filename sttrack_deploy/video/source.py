"""Opens whatever a source's name means: a video, images, a camera, a stream, standard input."""

from __future__ import annotations

import dataclasses
import re
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.video.container import Pipe, open_container, open_pipe, shown_name
from sttrack_deploy.video.decoded import DisplayedImage
from sttrack_deploy.video.file_types import IMAGE_SUFFIXES
from sttrack_deploy.video.frames import Frame, FrameSource, Note, SourceInfo, ThreadedSource
from sttrack_deploy.video.image_folder import image_files, image_frames, matching_images
from sttrack_deploy.video.live import CameraConnection, Connection, LiveOptions, LiveSource, StreamConnection
from sttrack_deploy.video.reader import open_video

__all__ = ["open_source", "source_stem"]

LIVE_SCHEMES = frozenset({"rtsp", "rtsps", "rtp", "rtmp", "rtmps", "udp", "tcp", "srt"})
FILE_SCHEMES = frozenset({"http", "https"})
STANDARD_INPUT = "-"


def open_source(
    name: str,
    start: int = 0,
    end: int | None = None,
    fps: float | None = None,
    *,
    live: LiveOptions | None = None,
    hardware: str | None = None,
    note: Note | None = None,
) -> FrameSource:
    """Open a source; a thread reads ahead of whoever iterates over it.

    Args:
        name: path of a video; a folder of images (in natural order of their names), a numbered pattern
            (``%05d.jpg``) or a glob; index of a camera or its device; URL; ``-`` for standard input.
        start: first frame to deliver, counted from 0.
        end: the frame to stop before (exclusive); ``None`` for all.
        fps: frame rate to assume, instead of the source's own times.
        live: how a live source is followed.
        hardware: device type to decode files on (``cuda``, ``vaapi``, …).
        note: is told of warnings, which are no errors.

    Raises:
        UsageError: impossible ``start`` and ``end``.
        UserError: nothing there, not readable, or without a single frame.
    """
    if start < 0 or (end is not None and end <= start):
        raise UsageError(f"there are no frames from {start} to {end}: --end must be greater than --start")
    live = live or LiveOptions()
    path, scheme = Path(name), _scheme(name)
    if name == STANDARD_INPUT:
        if sys.stdin is not None and sys.stdin.isatty():
            raise UsageError("- reads a video from standard input, which is a terminal: pipe one in")
        return _open_pipe(open_pipe(None), "standard input", "stdin", start, end, fps, live, note)
    kind = _kind(path)
    if kind == "folder":
        files = image_files(path)
        if not files:
            raise UserError(f"the folder {path} has no images in it ({' '.join(IMAGE_SUFFIXES)})")
        return _open_images(files, name, start, end, fps)
    if kind == "file":
        if path.suffix.lower() in IMAGE_SUFFIXES:
            raise UserError(f"{path} is a single image; give the folder of images that it is in, or a video")
        return _open_video(name, start, end, fps, hardware, note)
    if kind == "pipe":
        return _open_pipe(open_pipe(name), name, source_stem(name), start, end, fps, live, note)
    if kind == "device":
        return _open_stream(name, start, end, fps, live, note, format="v4l2")
    if name.isascii() and name.isdecimal() and len(name) < 5:
        return _open_camera(name, start, end, live, note)
    if scheme in FILE_SCHEMES:
        return _open_remote(name, start, end, fps, live, hardware, note)
    if scheme in LIVE_SCHEMES:
        options = {"rtsp_flags": "prefer_tcp"} if scheme.startswith("rtsp") else {}
        return _open_stream(name, start, end, fps, live, note, options=options)
    if "://" in name:
        known = ", ".join(sorted(FILE_SCHEMES | LIVE_SCHEMES))
        raise UserError(f"cannot open {shown_name(name)}: {scheme} is not one of {known}")
    if path.exists():
        raise UserError(f"{name} is neither a video file nor a folder of images")
    matching = matching_images(name)
    if matching is not None:
        return _open_images(matching, name, start, end, fps)
    raise UserError(f"there is no file or folder {name}; give a video, a folder of images or a camera index")


def source_stem(name: str) -> str:
    """What a source's results are called after: no directories, no password, no query, no pattern."""
    if name == STANDARD_INPUT:
        return "stdin"
    if name.isascii() and name.isdecimal() and _kind(Path(name)) is None:
        return f"camera{name}"
    if "://" in name:
        try:
            parts = urlsplit(name)
            stem = Path(unquote(parts.path)).stem or (parts.hostname or "")
        except ValueError:
            stem = ""
        return re.sub(r"[^\w.-]+", "_", stem).strip("._") or "stream"
    path = Path(name)
    if any(sign in path.name for sign in "%*?[") and _kind(path) is None:
        path = path.parent.resolve()  # a pattern's images are called after their folder
    return path.stem if _kind(path) != "folder" and path.stem else path.resolve().name or "images"


def _scheme(name: str) -> str:
    return name.partition("://")[0].lower() if "://" in name else ""


def _kind(path: Path) -> str | None:
    """``folder``, ``file``, ``pipe`` or ``device``; ``None`` where nothing is.

    Raises:
        UserError: nothing can have that name.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        if "://" in str(path) or "%" in path.name:
            return None
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISDIR(mode):
        return "folder"
    if stat.S_ISFIFO(mode):
        return "pipe"
    if stat.S_ISCHR(mode):
        return "device" if path.name.startswith("video") else "other"
    return "file" if stat.S_ISREG(mode) else "other"


def _open_images(files: list[Path], name: str, start: int, end: int | None, fps: float | None) -> FrameSource:
    if start >= len(files):
        raise UserError(f"{name} has {len(files)} images; --start {start} is past its end")
    chosen = files[start:end]
    info = SourceInfo(name, source_stem(name), len(chosen), fps)
    return ThreadedSource(info, image_frames(chosen, start, fps))


def _open_video(
    name: str, start: int, end: int | None, fps: float | None, hardware: str | None, note: Note | None
) -> FrameSource:
    reader = open_video(name, start=start, end=end, hardware=hardware, note=note)
    count = reader.info.frames
    known = None if count is None else max(0, (count if end is None else min(end, count)) - start)
    sound = (name if "://" in name else f"file:{name}") if reader.info.audio and fps is None else None
    info = SourceInfo(reader.info.name, source_stem(name), known, fps or reader.info.fps, False, sound)
    frames = iter(reader)
    return ThreadedSource(info, frames if fps is None else _at_rate(frames, fps))


def _at_rate(frames: Iterator[Frame], fps: float) -> Iterator[Frame]:
    for frame in frames:
        yield dataclasses.replace(frame, time=frame.index / fps)


def _open_remote(
    name: str,
    start: int,
    end: int | None,
    fps: float | None,
    live: LiveOptions,
    hardware: str | None,
    note: Note | None,
) -> FrameSource:
    """A file on a server, or a stream that has no end."""
    timeout = (live.timeout, live.timeout)
    container = open_container(name, shown_name(name), timeout=timeout, stream=True)
    if container.duration is not None:
        container.close()
        return _open_video(name, start, end, fps, hardware, note)
    displayed = DisplayedImage()
    first = StreamConnection(name, shown_name(name), displayed, live.timeout, container=container)

    def connect() -> Connection:
        return StreamConnection(name, shown_name(name), displayed, live.timeout)

    return _follow(name, first, connect, start, end, fps, live, note)


def _open_stream(
    name: str,
    start: int,
    end: int | None,
    fps: float | None,
    live: LiveOptions,
    note: Note | None,
    *,
    format: str | None = None,
    options: dict[str, str] | None = None,
) -> FrameSource:
    displayed = DisplayedImage()

    def connect() -> Connection:
        return StreamConnection(
            name, shown_name(name), displayed, live.timeout, format=format, options=options
        )

    return _follow(name, connect(), connect, start, end, fps, live, note)


def _open_pipe(
    pipe: Pipe,
    name: str,
    stem: str,
    start: int,
    end: int | None,
    fps: float | None,
    live: LiveOptions,
    note: Note | None,
) -> FrameSource:
    connection = StreamConnection(pipe, name, DisplayedImage(), None, ends=True)
    info = SourceInfo(name, stem, None, fps or connection.fps, True)
    return LiveSource(
        info,
        lambda: connection,
        connection,
        live,
        start=start,
        end=end,
        note=note,
        interrupt=pipe.close,
    )


def _open_camera(name: str, start: int, end: int | None, live: LiveOptions, note: Note | None) -> FrameSource:
    first = CameraConnection(int(name))
    info = SourceInfo(f"camera {name}", source_stem(name), None, first.fps, True)
    return LiveSource(info, lambda: CameraConnection(int(name)), first, live, start=start, end=end, note=note)


def _follow(
    name: str,
    first: Connection,
    connect: Callable[[], Connection],
    start: int,
    end: int | None,
    fps: float | None,
    live: LiveOptions,
    note: Note | None,
) -> FrameSource:
    info = SourceInfo(shown_name(name), source_stem(name), None, fps or first.fps, True)
    return LiveSource(info, connect, first, live, start=start, end=end, note=note)
