"""What a client takes home: boxes, tracks in other tools' formats, the annotated video."""

from __future__ import annotations

import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UserError
from sttrack_deploy.runtime.overlay import draw_results
from sttrack_deploy.runtime.results import BoxesWriter, FrameResult, JsonWriter, ResultWriter, json_line
from sttrack_deploy.runtime.track_formats import TRACK_FORMATS, TracksWriter, open_tracks
from sttrack_deploy.serve.settings import Conflict
from sttrack_deploy.serve.track import Found, Track
from sttrack_deploy.video.frames import Frame
from sttrack_deploy.video.writer import VideoWriter

__all__ = [
    "FORMATS",
    "Format",
    "LiveRecorder",
    "VideoRenderer",
    "annotated",
    "by_frame",
    "frame_result",
    "result_line",
    "write_format",
]


class Format(NamedTuple):
    """A file format: its name in addresses, what people read, how a file of it ends, its media type."""

    name: str
    title: str
    meta: str
    suffix: str
    media_type: str


FORMATS = {
    form.name: form
    for form in (
        Format("boxes", "Boxes", "x,y,w,h", "_boxes.txt", TRACK_FORMATS["mot"].media_type),
        Format("jsonl", "JSON lines", "a result a line", ".jsonl", "application/x-ndjson"),
        *(
            Format(
                form.name,
                form.title[0].upper() + form.title[1:],
                form.suffix[1:].upper(),
                form.suffix if form.suffix == f".{form.name}" else f"_{form.name}{form.suffix}",
                form.media_type,
            )
            for form in TRACK_FORMATS.values()
        ),
    )
}


def frame_result(found: Found) -> FrameResult:
    """As a run of ``sttrack-run`` has it."""
    return FrameResult(found.frame, found.time, found.box, found.confidence, found.lost, found.target)


def result_line(found: Found) -> str:
    """One target on one frame, a line of the JSON lines format."""
    return json_line(frame_result(found))


def write_format(form: Format, track: Track, target: int) -> bytes:
    """The file's content.

    Args:
        target: whose boxes, in the format that takes one.

    Raises:
        Conflict: there is no result yet.
    """
    results = track.results()
    if form.name == "boxes":
        results = [found for found in results if found.target == target]
    if not results:
        raise Conflict("there is no result yet")
    with tempfile.TemporaryDirectory(prefix="sttrack-serve-") as folder:
        path = Path(folder) / f"track{form.suffix}"
        with _writer(form, path, track.source.title) as writer:
            if isinstance(writer, TracksWriter):
                writer.begin(track.source.width, track.source.height)
            _write(writer, results)
        return path.read_bytes()


def _writer(form: Format, path: Path, title: str) -> BoxesWriter | JsonWriter | TracksWriter:
    if form.name == "boxes":
        return BoxesWriter(path)
    return JsonWriter(path) if form.name == "jsonl" else open_tracks(path, title, form.name)


def _write(writer: ResultWriter, results: Sequence[Found]) -> None:
    for _, found in groupby(results, key=lambda result: result.frame):
        writer.write([frame_result(one) for one in found])


Image = npt.NDArray[np.uint8]


def by_frame(results: Sequence[Found]) -> Iterator[tuple[int, list[Found]]]:
    """Results in the order of :meth:`Track.results`, frame by frame."""
    for frame, found in groupby(results, key=lambda result: result.frame):
        yield frame, list(found)


def annotated(image: Image, found: Sequence[Found], targets: int) -> Image:
    """A copy of a frame with its results drawn as ``sttrack-run`` draws them.

    Args:
        targets: in the whole track; several have a number and a color each.
    """
    canvas = image.copy()
    if found:
        numbers = None if targets == 1 else [one.target for one in found]
        draw_results(canvas, [frame_result(one) for one in found], numbers=numbers)
    return canvas


class VideoRenderer:
    """Writes a track's annotated video in a thread, from its first result to its last.

    Attributes:
        outdated: results have changed since.
        progress: 0..1.
        error: why there is no video.
        path: the file, once it is complete.
    """

    def __init__(self, track: Track, folder: Path) -> None:
        self.outdated = False
        self.progress = 0.0
        self.error = ""
        self.path: Path | None = None
        self._track = track
        self._target = folder / f"{secrets.token_hex(8)}.mp4"
        self._cancelled = False
        self._thread = threading.Thread(target=self._main, name="sttrack-render", daemon=True)

    @property
    def running(self) -> bool:
        """It is being written."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def delete(self) -> None:
        """Stop and remove the file."""
        self._cancelled = True
        if self._thread.is_alive():
            self._thread.join(10.0)
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _main(self) -> None:
        try:
            self._render()
        except UserError as error:
            self.error = str(error).replace(str(self._target), "the video")
        except Exception as error:
            self.error = f"unexpected {type(error).__name__}: {error}"

    def _render(self) -> None:
        results = self._track.results()
        if not results:
            self.error = "there is no result yet"
            return
        source = self._track.source
        assert source.reader is not None
        first, last = results[0].frame, results[-1].frame
        found = dict(by_frame(results))
        count = len(self._track.targets)
        frames: Iterator[Frame] = source.reader.iterate(first)
        with VideoWriter(self._target, source.fps) as writer:
            for frame in frames:
                if frame.index > last or self._cancelled:
                    break
                writer.write(annotated(frame.image, found.get(frame.index, []), count), frame.time)
                self.progress = (frame.index - first + 1) / (last - first + 1)
        if self._cancelled:
            writer.path.unlink(missing_ok=True)
        else:
            self.path = writer.path


class LiveRecorder:
    """Writes a live source's annotated video while it is tracked; ends when the room for it is used up.

    Attributes:
        path: the file, once it is complete.
    """

    def __init__(self, folder: Path, fps: float | None, room: Callable[[], bool]) -> None:
        """``room``: whether more may be written."""
        self.path: Path | None = None
        self._room = room
        self._writer = VideoWriter(folder / f"{secrets.token_hex(8)}.mp4", fps)
        self._lock = threading.Lock()
        self._open = True
        self._targets = 1

    def write(self, frame: Frame, found: Sequence[Found]) -> None:
        """Add a frame; nothing once the file is complete."""
        with self._lock:
            if not self._open:
                return
            self._targets = max(self._targets, *(one.target for one in found))
            self._writer.write(annotated(frame.image, found, self._targets), frame.time)
            if self._writer.frames % 32 == 0 and not self._room():
                self._finish()

    def close(self) -> None:
        """Complete the file."""
        with self._lock:
            if self._open:
                self._finish()

    def delete(self) -> None:
        """Close and remove it."""
        self.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _finish(self) -> None:
        self._open = False
        self._writer.__exit__(None, None, None)
        if self._writer.kept:
            self.path = self._writer.path
