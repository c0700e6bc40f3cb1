"""Opening what PyAV reads: one line for what cannot be opened; Ctrl-C and closing the source end the waiting."""

from __future__ import annotations

import errno
import os
import re
import select
import sys
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import av
import av.error
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.container import InputContainer
from av.video.stream import VideoStream

from sttrack_deploy.errors import UsageError, UserError

__all__ = ["Pipe", "open_container", "open_pipe", "reason", "shown_name", "video_stream"]


WAIT_SECONDS = 0.2


class Pipe:
    """A file for PyAV that can only be read; FFmpeg's own reading of a silent pipe never comes back.

    Attributes:
        name: what FFmpeg may guess a format from.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self.name = name
        self._descriptor, self._closed = descriptor, False
        self._interrupt: KeyboardInterrupt | None = None

    def read(self, size: int) -> bytes:
        """The next bytes; none at the end, and when it is closed or Ctrl-C is pressed meanwhile."""
        try:
            while not self._closed:
                # Windows cannot wait for pipes.
                if sys.platform == "win32" or select.select([self._descriptor], [], [], WAIT_SECONDS)[0]:
                    return os.read(self._descriptor, size)
        except KeyboardInterrupt as interrupt:  # PyAV would print it and read on
            self._interrupt, self._closed = interrupt, True
        return b""

    def check(self) -> None:
        """Raise a KeyboardInterrupt that came while FFmpeg was reading."""
        if self._interrupt is not None:
            raise self._interrupt

    def close(self) -> None:
        """Let whoever is reading come back with nothing."""
        self._closed = True


def open_pipe(path: str | None) -> Pipe:
    """Standard input, or a named pipe, whose writer is waited for.

    Raises:
        UserError: it cannot be opened.
    """
    if path is None:
        return Pipe(0, "")
    try:
        return Pipe(os.open(path, os.O_RDONLY), Path(path).name)
    except OSError as error:
        raise UserError(f"cannot open {path}: {error.strerror}") from error


NOT_VIDEO = frozenset({"tty", "ffmetadata", "concat", "image2", "lrc", "srt", "ass", "webvtt", "subviewer"})
"""Formats that FFmpeg sees in text files and lists; a list could also name other files."""


def shown_name(name: str) -> str:
    """``name`` as messages and file names may show it: a URL without user, password, query and fragment."""
    if "://" not in name:
        return name
    try:
        parts = urlsplit(name)
    except ValueError:  # no host can be told from the password
        return f"{name.partition('://')[0]}://…"
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def reason(error: BaseException) -> str:
    """FFmpeg's reason, without the address that it adds (there may be a password in it)."""
    return str(getattr(error, "strerror", None) or type(error).__name__)


def open_container(
    target: str | BinaryIO | Pipe,
    name: str,
    *,
    format: str | None = None,
    options: dict[str, str] | None = None,
    timeout: tuple[float, float] | None = None,
    hardware: str | None = None,
    stream: bool = False,
) -> InputContainer:
    """``av.open`` for reading.

    Args:
        target: a URL as FFmpeg knows it (``file:…`` for files), or an open binary file, or a pipe.
        name: how messages call it.
        timeout: seconds to wait while opening, and for each read.
        hardware: device type to decode on (``cuda``, ``vaapi``, …).
        stream: it cannot be read twice, and may be images behind one another.

    Raises:
        UserError: it cannot be opened, or there is no such hardware here.
    """
    try:
        accelerator = None if hardware is None else _accelerator(hardware)
        container = av.open(target, "r", format=format, options=options, timeout=timeout, hwaccel=accelerator)
    except UserError:
        raise
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise _explained(error, name) from error
    if container.format.name in NOT_VIDEO:
        container.close()
        raise UserError(f"{name} is not a video: it is text")
    if container.format.name.endswith("_pipe") and not stream:
        # One image, or several behind one another (Motion JPEG)?
        several = sum(1 for _, packet in zip(range(2), container.demux(), strict=False) if packet.size) > 1
        container.close()
        if not several:
            raise UserError(f"{name} is a single image; give the folder of images that it is in, or a video")
        if not isinstance(target, str | Pipe):
            target.seek(0)
        return open_container(
            target, name, format=format, options=options, timeout=timeout, hardware=hardware, stream=True
        )
    return container


def _accelerator(hardware: str) -> HWAccel:
    known = hwdevices_available()
    if hardware not in known:
        raise UsageError(
            f"this PyAV cannot decode on {hardware!r}; it knows: {', '.join(sorted(known)) or 'none'}"
        )
    return HWAccel(hardware, allow_software_fallback=False)


def _explained(error: Exception, name: str) -> UserError:
    remote = name.startswith(("http://", "https://"))
    if isinstance(error, UserError):
        return error
    if isinstance(error, av.error.InvalidDataError):
        if remote:
            return UserError(
                f"what is at {name} is not a video (a web page, perhaps): download the video first, for "
                "example with yt-dlp, and give the file"
            )
        return UserError(f"{name} cannot be read as a video: it is damaged, cut short, or not a video at all")
    if isinstance(error, (av.error.ExitError, av.error.TimeoutError)):
        return UserError(f"{name} did not answer in time; check the address and that it is sending")
    if "://" in name:
        return UserError(f"cannot open {name}: {reason(error)}; check the address")
    if (
        isinstance(error, EOFError) or getattr(error, "errno", None) == errno.EIO
    ):  # so do some formats' readers
        return UserError(f"{name} cannot be read as a video: it is damaged or cut short ({reason(error)})")
    return UserError(f"cannot open {name}: {reason(error)}")


def video_stream(container: InputContainer, name: str) -> VideoStream:
    """The stream to decode: FFmpeg's choice of the best one, never an album's cover.

    Raises:
        UserError: there is none, or nothing here decodes it; the codec is named.
    """
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        held = sorted({stream.type for stream in container.streams})
        raise UserError(f"{name} has no video in it" + (f", only {' and '.join(held)}" if held else ""))
    best = container.streams.best("video")
    stream = next((stream for stream in streams if stream is best), streams[0])
    context: object = stream.codec_context
    if context is None:
        codec = _codec_tag(Path(name), streams.index(stream))
        raise UserError(
            f"{name} is encoded with {codec or 'a codec'}, which this PyAV (FFmpeg) cannot decode; convert it "
            "with a tool that can, for example to H.264"
        )
    return stream


def _codec_tag(path: Path, number: int) -> str | None:
    """The name a file gives its video's codec: an MP4's sample entry or a Matroska codec ID; None if unknown.

    PyAV does not tell a codec that it has no decoder for.
    """
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16)
            matroska = re.search(rb"V_[A-Z0-9/_.]{2,40}", head)
            if matroska:
                return matroska[0].decode()
            file.seek(0)
            while len(box := file.read(8)) == 8:
                size, kind = int.from_bytes(box[:4], "big"), box[4:]
                if size == 1:
                    size, box = int.from_bytes(file.read(8), "big"), box + b"\0" * 8
                if size < len(box):
                    return None
                if kind == b"moov":
                    # Each video track: its handler, then its sample table with the codec's four letters.
                    tags = re.findall(rb"vide.*?stsd.{12}(.{4})", file.read(min(size, 1 << 24)), re.DOTALL)
                    return None if number >= len(tags) else repr(tags[number].decode("latin-1"))
                file.seek(size - len(box), 1)
    except OSError:
        return None
    return None
