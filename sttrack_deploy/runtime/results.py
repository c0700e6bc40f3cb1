"""What a run finds, frame by frame, and the files that keep it: boxes and JSON lines."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from sttrack_deploy.errors import UserError
from sttrack_deploy.files import explain_os_error
from sttrack_deploy.geometry import Box
from sttrack_deploy.output_file import OutputFile

__all__ = [
    "JSON_VERSION",
    "BoxesWriter",
    "FrameResult",
    "JsonToStdout",
    "JsonWriter",
    "LinesWriter",
    "ResultCollector",
    "ResultWriter",
    "json_line",
]

JSON_VERSION = 1
"""Of the JSON lines; it grows when a key changes its meaning or goes, not when one is added."""


class FrameResult(NamedTuple):
    """One frame's result for one target.

    Attributes:
        frame: index of the frame, as the source's.
        seconds: its presentation time, as the source's.
        box: x, y, w, h in pixels of the displayed frame.
        confidence: 0..1.
        lost: the target is believed not to be there; ``box`` is then only the best guess.
        id: the target's number, from 1.
        age: for live sources, seconds from the frame's arrival to its result.
    """

    frame: int
    seconds: float
    box: Box
    confidence: float
    lost: bool
    id: int = 1
    age: float | None = None


class ResultWriter(Protocol):
    """Takes results frame by frame."""

    def write(self, results: Sequence[FrameResult]) -> None:
        """Write one frame's results, one for each target; raises UserError if that fails."""
        ...


class LinesWriter(OutputFile):
    """Writes whole lines: one that does not fit on the disk any more is taken back."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        # Unbuffered, so that a full disk shows at the line that it cuts.
        try:
            self._file: BinaryIO = self._target.open("wb", buffering=0)
        except OSError as error:
            raise explain_os_error(error, path) from error

    def write_text(self, text: str) -> None:
        """Append text; raises UserError if it cannot all be written, and then none of it is."""
        data = text.encode()
        start = None if self._special else self._file.tell()
        try:
            while data:
                data = data[self._file.write(data) :]
        except BrokenPipeError:
            raise  # the reader of a FIFO has gone, which ends the run
        except OSError as error:
            if start is not None:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file.fileno(), start)
            raise explain_os_error(error, self.path) from error

    def _finish(self) -> None:
        self._file.close()


class BoxesWriter(LinesWriter):
    """``x,y,w,h`` a line, in pixels with two decimals: the result format of OTB and most benchmarks.

    One target's boxes: the one of that number, counted from 0.
    """

    def __init__(self, path: Path, target: int = 0) -> None:
        super().__init__(path)
        self._index = target

    def __enter__(self) -> BoxesWriter:
        return self

    def write(self, results: Sequence[FrameResult]) -> None:
        """Append the target's box."""
        self.write_text(",".join(f"{value:.2f}" for value in results[self._index].box) + "\n")
        self.frames += 1


class JsonWriter(LinesWriter):
    """JSON lines, see :func:`json_line`."""

    def __enter__(self) -> JsonWriter:
        return self

    def write(self, results: Sequence[FrameResult]) -> None:
        """Append one frame."""
        self.write_text("".join(json_line(result) + "\n" for result in results))
        self.frames += 1


class JsonToStdout:
    """JSON lines on standard output, each frame's at once, for a program that follows along."""

    def write(self, results: Sequence[FrameResult]) -> None:
        """Print one frame."""
        sys.stdout.write("".join(json_line(result) + "\n" for result in results))
        sys.stdout.flush()


class ResultCollector:
    """Keeps the first target's results in memory, in ``results``."""

    def __init__(self) -> None:
        self.results: list[FrameResult] = []

    def write(self, results: Sequence[FrameResult]) -> None:
        """Keep one result."""
        self.results.append(results[0])


def json_line(result: FrameResult) -> str:
    """One target on one frame, as ``docs/formats.md`` describes.

    ``{"version": 1, "frame": 12, "time": 0.48, "id": 1, "box": [x, y, w, h], "confidence": 0.93, "lost": false}``

    Raises:
        UserError: a number is none.
    """
    numbers = (result.seconds, *result.box, result.confidence)
    if not all(map(math.isfinite, numbers)):
        raise UserError(f"the result of frame {result.frame} is not a number: {result}")
    line = {
        "version": JSON_VERSION,
        "frame": result.frame,
        "time": round(result.seconds, 6),
        "id": result.id,
        "box": [round(float(value), 4) for value in result.box],
        "confidence": round(float(result.confidence), 4),
        "lost": bool(result.lost),
    }
    if result.age is not None:
        line["age"] = round(result.age, 4)
    return json.dumps(line, allow_nan=False)
