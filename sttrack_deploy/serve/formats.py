"""A track's results as files of other tools."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from sttrack_deploy.runtime.results import BoxesWriter, FrameResult, JsonWriter, ResultWriter, json_line
from sttrack_deploy.runtime.track_formats import TRACK_FORMATS, TracksWriter, open_tracks
from sttrack_deploy.serve.settings import Conflict
from sttrack_deploy.serve.track import Found, Track

__all__ = ["FORMATS", "Format", "frame_result", "result_line", "write_format"]


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
