"""What a run writes: the annotated video, a file of boxes, JSON lines.

Every file is written under a temporary name and gets its own when it is closed, after an error or
Ctrl-C too: what has its final name is complete and can be read, up to the last frame that was done.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.files import atomic_path, explain_os_error
from sttrack_deploy.geometry import Box

__all__ = [
    "AtomicFile",
    "BoxesWriter",
    "FrameResult",
    "JsonToStdout",
    "JsonWriter",
    "ResultCollector",
    "ResultWriter",
    "VideoWriter",
]

Image = npt.NDArray[np.uint8]

# Codecs to try for each suffix, best first; the last resort is an .avi, whose writer OpenCV has built in.
CODECS = {
    ".mp4": ("mp4v", "avc1"),
    ".m4v": ("mp4v", "avc1"),
    ".mov": ("mp4v", "avc1"),
    ".mkv": ("mp4v", "MJPG"),
    ".avi": ("MJPG",),
}
RESERVE_BYTES = 4 * 2**20
"""Free space at which a video is closed: an MP4 that cannot write its index at the end is lost."""


class FrameResult(NamedTuple):
    """One frame's result for one target; ``box`` is x, y, w, h in pixels, ``seconds`` and ``frame`` as the source's."""

    frame: int
    seconds: float
    box: Box
    confidence: float
    lost: bool


class ResultWriter(Protocol):
    """Takes results frame by frame."""

    def write(self, results: Sequence[FrameResult]) -> None:
        """Write one frame's results, one for each target; raises UserError if that fails."""
        ...


def _check_target(path: Path) -> None:
    """Raises UserError where ``path`` cannot become a file: a folder, or something in place of its folder."""
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; name a file")
    parent = path.parent
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        raise UserError(f"cannot write {path}: {parent} is a file, not a folder")


class _Discarded(Exception):
    """Leaves :func:`atomic_path` without giving the file its final name."""


class AtomicFile:
    """A context that gives a file its final name on the way out, unless it is worth nothing.

    Attributes:
        path: the final name; it exists after the context if ``kept``.
        frames: frames written so far.
        kept: the file is there and complete.
    """

    def __init__(self, path: Path) -> None:
        _check_target(path)
        self.path = path
        self.frames = 0
        self.kept = False
        self._guard = contextlib.ExitStack()
        self._temporary = self._guard.enter_context(atomic_path(path))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._finish()
            self._commit()
        except UserError:
            # The first failure is the one to report; a full disk would otherwise be told twice.
            if error is None:
                raise

    def _finish(self) -> None:
        """Complete the temporary file."""
        raise NotImplementedError

    def _commit(self) -> None:
        if self.frames:
            self._guard.close()
            self.kept = True
        else:
            self._discard()

    def _discard(self) -> None:
        with contextlib.suppress(_Discarded), self._guard:
            raise _Discarded


class VideoWriter(AtomicFile):
    """Writes frames to a video file; the first frame decides the size.

    ``path`` may end up with the suffix ``.avi``, where this OpenCV cannot write the one asked for.
    """

    def __init__(self, path: Path, fps: float) -> None:
        """``fps``: frames a second.

        Raises:
            UsageError: the suffix is not a video's.
            UserError: the folder cannot be written, or the disk is full.
        """
        if path.suffix.lower() not in CODECS:
            raise UsageError(
                f"cannot write a video named {path.name}: its suffix must be one of {' '.join(CODECS)}"
            )
        super().__init__(path)
        self._fps = fps
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def __enter__(self) -> VideoWriter:
        return self

    def write(self, image: Image) -> None:
        """Append a BGR uint8 frame.

        Raises:
            UserError: the disk is full, or no codec takes frames of this size.
        """
        size = (image.shape[1], image.shape[0])
        if self._writer is None:
            self._check_space(image)
            self._writer = self._open(size)
            self._size = size
        elif size != self._size:
            raise UserError(f"a video of {self._size} cannot take a frame of {size}")
        self._check_space(image)
        # OpenCV 5 says whether the frame was written; OpenCV 4 returns None and ignores frames it cannot.
        written: object = self._writer.write(image)
        if written is False:
            raise UserError(f"OpenCV could not write frame {self.frames} to {self.path}; is the disk full?")
        self.frames += 1

    def _open(self, size: tuple[int, int]) -> cv2.VideoWriter:
        for codec in CODECS[self._temporary.suffix.lower()]:
            fourcc = cv2.VideoWriter.fourcc(codec[0], codec[1], codec[2], codec[3])
            writer = cv2.VideoWriter(str(self._temporary), fourcc, self._fps, size)
            if writer.isOpened():
                return writer
        self._discard()
        if self._temporary.suffix.lower() == ".avi":
            raise UserError(
                f"this OpenCV cannot write {self.path.name} with frames of {size[0]} x {size[1]}; "
                "leave the video out with --no-video, or pip install --force-reinstall opencv-python"
            )
        self.path = self.path.with_suffix(".avi")
        _check_target(self.path)
        self._temporary = self._guard.enter_context(atomic_path(self.path))
        return self._open(size)

    def _check_space(self, image: Image) -> None:
        free = shutil.disk_usage(self._temporary.parent).free
        if free < RESERVE_BYTES + image.nbytes:
            kept = f"; the video up to there is kept in {self.path}" if self.frames else ""
            raise UserError(
                f"the disk is full: no room for frame {self.frames} of {self.path} "
                f"({free / 2**20:.1f} MiB free){kept}"
            )

    def _finish(self) -> None:
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        # The writer reports nothing, so look: a file that cannot be opened is no result.
        check = cv2.VideoCapture(str(self._temporary))
        playable = check.isOpened()
        check.release()
        if not playable:
            self._discard()
            raise UserError(f"the video {self.path} could not be completed; is the disk full?")


class _LinesWriter(AtomicFile):
    """Writes whole lines: one that does not fit on the disk any more is taken back."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        # Unbuffered, so that a full disk shows at the line that it cuts.
        self._file: BinaryIO = self._temporary.open("wb", buffering=0)

    def write_line(self, line: str) -> None:
        data = line.encode() + b"\n"
        start = self._file.tell()
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), start)
            raise explain_os_error(error, self.path) from error
        self.frames += 1

    def _finish(self) -> None:
        self._file.close()


class BoxesWriter(_LinesWriter):
    """``x,y,w,h`` a line, in pixels with two decimals: the result format of OTB and most benchmarks.

    One target's boxes: the one of that number, counted from 0.
    """

    def __init__(self, path: Path, target: int = 0) -> None:
        super().__init__(path)
        self._target = target

    def __enter__(self) -> BoxesWriter:
        return self

    def write(self, results: Sequence[FrameResult]) -> None:
        """Append the target's box."""
        self.write_line(",".join(f"{value:.2f}" for value in results[self._target].box))


class JsonWriter(_LinesWriter):
    """One JSON object a line, see :func:`json_line`."""

    def __enter__(self) -> JsonWriter:
        return self

    def write(self, results: Sequence[FrameResult]) -> None:
        """Append one frame."""
        self.write_line(json_line(results))


class JsonToStdout:
    """JSON lines on standard output, each at once, for a program that follows along."""

    def write(self, results: Sequence[FrameResult]) -> None:
        """Print one frame."""
        sys.stdout.write(json_line(results) + "\n")
        sys.stdout.flush()


class ResultCollector:
    """Keeps the first target's results in memory, in ``results``."""

    def __init__(self) -> None:
        self.results: list[FrameResult] = []

    def write(self, results: Sequence[FrameResult]) -> None:
        """Keep one result."""
        self.results.append(results[0])


def json_line(results: Sequence[FrameResult]) -> str:
    """One frame's results.

    One target: ``{"frame": 12, "time": 0.48, "box": [x, y, w, h], "confidence": 0.93, "lost": false}``, the time in
    seconds. Several: box, confidence and lost stand in the objects of a list ``targets`` instead.
    """
    first = results[0]
    frame = {"frame": first.frame, "time": round(first.seconds, 6)}
    found = [
        {
            "box": [round(float(value), 4) for value in result.box],
            "confidence": round(result.confidence, 4),
            "lost": result.lost,
        }
        for result in results
    ]
    return json.dumps({**frame, **found[0]} if len(found) == 1 else {**frame, "targets": found})
