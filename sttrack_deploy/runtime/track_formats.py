"""Tracks in the formats of annotation tools and benchmarks: MOTChallenge, CVAT for video, COCO, CSV."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import quoteattr

from sttrack_deploy.errors import UsageError
from sttrack_deploy.geometry import Box
from sttrack_deploy.runtime.results import FrameResult, LinesWriter

__all__ = ["TRACK_FORMATS", "TracksWriter", "open_tracks", "track_format"]

LABEL = "object"

_CSV_HEADER = "frame,time,id,x,y,width,height,confidence,lost\n"


class _Size(NamedTuple):
    width: int
    height: int


class TracksWriter(LinesWriter):
    """Writes one format. Call :meth:`begin` before the first result."""

    def __init__(self, path: Path, name: str) -> None:
        """``name``: of the source, for formats that keep it."""
        super().__init__(path)
        self._name = name
        self._image = _Size(0, 0)

    def __enter__(self) -> TracksWriter:
        return self

    def begin(self, width: int, height: int) -> None:
        """Tell the size of the displayed frames, pixels."""
        self._image = _Size(width, height)

    def write(self, results: Sequence[FrameResult]) -> None:
        """Append one frame's results, one for each target that has started."""
        raise NotImplementedError


class _Mot(TracksWriter):
    """MOTChallenge results: ``frame,id,left,top,width,height,confidence,-1,-1,-1``.

    Frames, ids and pixels count from 1, as the benchmark's rules have it. A lost target has no line.
    """

    def write(self, results: Sequence[FrameResult]) -> None:
        for result in results:
            if not result.lost:
                x, y, w, h = result.box
                self.write_text(
                    f"{result.frame + 1},{result.id},{x + 1:.2f},{y + 1:.2f},{w:.2f},{h:.2f},"
                    f"{result.confidence:.4f},-1,-1,-1\n"
                )
        self.frames += 1


class _Csv(TracksWriter):
    """A table with a header; lost targets stand in it too, with their best guess."""

    def write(self, results: Sequence[FrameResult]) -> None:
        if not self.frames:
            self.write_text(_CSV_HEADER)
        for result in results:
            box = ",".join(f"{value:.2f}" for value in result.box)
            self.write_text(
                f"{result.frame},{result.seconds:.6f},{result.id},{box},{result.confidence:.4f},{int(result.lost)}\n"
            )
        self.frames += 1


class _Kept(TracksWriter):
    """A format that is one document: results are kept (72 bytes each) and written at the end."""

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(path, name)
        self._numbers: dict[int, array[float]] = {}  # by id: frame, time, x, y, w, h, confidence, lost
        self._images = array("d")  # frame, time

    def write(self, results: Sequence[FrameResult]) -> None:
        for result in results:
            if result.id not in self._numbers:
                self._numbers[result.id] = array("d")
            self._numbers[result.id].extend(
                (result.frame, result.seconds, *result.box, result.confidence, float(result.lost))
            )
        if results:
            self._images.extend((results[0].frame, results[0].seconds))
        self.frames += 1

    @property
    def _ids(self) -> list[int]:
        """Numbers of the targets; they need not start on the first frame."""
        return sorted(self._numbers)

    def _rows(self, target: int) -> Iterator[tuple[int, float, Box, float, bool]]:
        """Frame, time, box, confidence, lost of the target of that id."""
        numbers = self._numbers[target]
        for start in range(0, len(numbers), 8):
            frame, time, x, y, w, h, confidence, lost = numbers[start : start + 8]
            yield int(frame), time, (x, y, w, h), confidence, bool(lost)

    def _finish(self) -> None:
        try:
            if self.frames:
                self._document()
        finally:
            super()._finish()

    def _document(self) -> None:
        raise NotImplementedError


class _Cvat(_Kept):
    """CVAT for video 1.1. Each frame is a key frame; a lost target is ``outside``."""

    def _document(self) -> None:
        last = int(max(self._images[::2], default=0))
        self.write_text(
            '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n    <task>\n'
            f"      <name>{_escaped(self._name)}</name>\n      <size>{last + 1}</size>\n"
            "      <mode>interpolation</mode>\n      <overlap>0</overlap>\n"
            f"      <start_frame>0</start_frame>\n      <stop_frame>{last}</stop_frame>\n"
            f"      <labels>\n        <label>\n          <name>{LABEL}</name>\n          <attributes>\n"
            "          </attributes>\n        </label>\n      </labels>\n"
            f"      <original_size>\n        <width>{self._image.width}</width>\n"
            f"        <height>{self._image.height}</height>\n      </original_size>\n    </task>\n  </meta>\n"
        )
        for target in self._ids:
            self.write_text(f'  <track id="{target - 1}" label="{LABEL}" source="auto">\n')
            for frame, _, (x, y, w, h), _, lost in self._rows(target):
                self.write_text(
                    f'    <box frame="{frame}" outside="{int(lost)}" occluded="0" keyframe="1" xtl="{x:.2f}" '
                    f'ytl="{y:.2f}" xbr="{x + w:.2f}" ybr="{y + h:.2f}" z_order="0">\n    </box>\n'
                )
            self.write_text("  </track>\n")
        self.write_text("</annotations>\n")


class _Coco(_Kept):
    """COCO detection with ``track_id``, one image for each frame; a lost target has no annotation."""

    def _document(self) -> None:
        width, height = self._image
        self.write_text(
            '{"info": ' + json.dumps({"description": self._name, "version": "1.0"}) + ', "licenses": [],\n'
            f'"categories": [{json.dumps({"id": 1, "name": LABEL, "supercategory": ""})}],\n"images": [\n'
        )
        images = (
            {
                "id": int(frame) + 1,
                "width": width,
                "height": height,
                "file_name": f"frame_{int(frame):06d}.jpg",
                "frame_index": int(frame),
                "time": round(time, 6),
            }
            for frame, time in zip(self._images[::2], self._images[1::2], strict=True)
        )
        self._write_list(images)
        self.write_text('],\n"annotations": [\n')
        self._write_list(self._annotations())
        self.write_text("]}\n")

    def _annotations(self) -> Iterator[dict[str, object]]:
        number = 0
        for target in self._ids:
            for frame, _, box, confidence, lost in self._rows(target):
                if not lost:
                    number += 1
                    yield {
                        "id": number,
                        "image_id": frame + 1,
                        "category_id": 1,
                        "bbox": [round(value, 2) for value in box],
                        "area": round(box[2] * box[3], 2),
                        "iscrowd": 0,
                        "segmentation": [],
                        "score": round(confidence, 4),
                        "track_id": target,
                        "attributes": {"track_id": target, "occluded": False},
                    }

    def _write_list(self, entries: Iterator[dict[str, object]]) -> None:
        for number, entry in enumerate(entries):
            self.write_text((",\n" if number else "") + json.dumps(entry, allow_nan=False))
        self.write_text("\n")


def _escaped(text: str) -> str:
    """For XML: what no document may hold is left out."""
    printable = "".join(c for c in text if c.isprintable()).encode("utf-8", "replace").decode()
    return quoteattr(printable)[1:-1]


class TrackFormat(NamedTuple):
    """A format of tracks: its name in options and addresses, what people call it, its suffix and media type."""

    name: str
    title: str
    suffix: str
    media_type: str
    writer: Callable[[Path, str], TracksWriter]


TRACK_FORMATS = {
    form.name: form
    for form in (
        TrackFormat("mot", "MOTChallenge", ".txt", "text/plain; charset=utf-8", _Mot),
        TrackFormat("cvat", "CVAT for video", ".xml", "application/xml", _Cvat),
        TrackFormat("coco", "COCO", ".json", "application/json", _Coco),
        TrackFormat("csv", "table", ".csv", "text/csv; charset=utf-8", _Csv),
    )
}
"""By name: what ``--tracks`` writes, and the page of ``sttrack-serve`` offers."""


def track_format(path: Path, chosen: str | None) -> str:
    """The format of a file of tracks.

    Args:
        path: decides by its suffix where ``chosen`` is ``None``.
        chosen: one of :data:`TRACK_FORMATS`.

    Raises:
        UsageError: the suffix says nothing.
    """
    if chosen is not None:
        return chosen
    for form in TRACK_FORMATS.values():
        if path.suffix.lower() == form.suffix:
            return form.name
    known = ", ".join(f"{form.suffix} ({form.name})" for form in TRACK_FORMATS.values())
    raise UsageError(f"{path} has no suffix of a track format: {known}; or name one with --tracks-format")


def open_tracks(path: Path, name: str, chosen: str | None = None) -> TracksWriter:
    """A writer of tracks; for the arguments see :func:`track_format` and :class:`TracksWriter`."""
    return TRACK_FORMATS[track_format(path, chosen)].writer(path, name)
