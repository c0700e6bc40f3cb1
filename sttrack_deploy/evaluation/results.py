"""Result files: how the field names and formats them, writing a run as it goes, reading any tracker's."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UserError
from sttrack_deploy.files import atomic_path, sha256_of
from sttrack_deploy.records import parse_number, read_text
from sttrack_deploy.sequences.sequence import TrackRun, VideoSequence

__all__ = [
    "DEFAULT_LAYOUT",
    "LAYOUTS",
    "Layout",
    "ResultFolder",
    "as_written",
    "box_lines",
    "find_results",
    "read_boxes",
    "read_run",
]


FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where one tracker's files on one data set lie, and how a box is written.

    Attributes:
        folder: of a run under the results' root, with the fields ``{tracker}``, ``{parameters}``, ``{dataset}``.
        boxes: file of a sequence's boxes in that folder, with the field ``{name}``.
        times: the same for seconds a frame; ``None``: the layout has none.
        delimiter: between x, y, w and h.
        decimals: of a box.
    """

    name: str
    folder: str
    boxes: str
    times: str | None
    delimiter: str
    decimals: int

    def run_folder(self, root: Path, tracker: str, parameters: str, dataset: str) -> Path:
        return root / self.folder.format(tracker=tracker, parameters=parameters, dataset=dataset)

    def boxes_path(self, folder: Path, sequence: VideoSequence) -> Path:
        """Where a sequence's boxes are written."""
        return folder / self.boxes.format(name=self._name(sequence))

    def times_path(self, folder: Path, sequence: VideoSequence) -> Path | None:
        return None if self.times is None else folder / self.times.format(name=self._name(sequence))

    def confidence_path(self, folder: Path, sequence: VideoSequence) -> Path:
        """Beside the boxes, under a name that no toolkit takes for a result."""
        path = self.boxes_path(folder, sequence)
        return path.with_name(f"{path.stem}_confidence.txt")

    def record_path(self, folder: Path, sequence: VideoSequence) -> Path:
        """What made the boxes, for resuming; beside them too."""
        path = self.boxes_path(folder, sequence)
        return path.with_name(f"{path.stem}_run.json")

    def has(self, folder: Path, sequence: VideoSequence) -> bool:
        """Whether the sequence's boxes are there."""
        return self.boxes_path(folder, sequence).is_file()

    def _name(self, sequence: VideoSequence) -> str:
        return sequence.filed_as.get(self.name, sequence.name)


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("pytracking", "{tracker}/{parameters}/{dataset}", "{name}.txt", "{name}_time.txt", "\t", 2),
        Layout("got10k", "{tracker}-{parameters}", "{name}/{name}_001.txt", "{name}/{name}_time.txt", ",", 3),
        Layout("otb", "{tracker}-{parameters}", "{name}.txt", "times/{name}_time.txt", ",", 3),
        Layout("trackingnet", "{tracker}-{parameters}", "{name}.txt", None, ",", 2),
    )
}
"""By the name that ``--layout`` takes: pytracking and STARK; the got10k toolkit on GOT-10k, and on other data
sets; the TrackingNet server."""

DEFAULT_LAYOUT = LAYOUTS["pytracking"]


def box_lines(boxes: FloatArray, delimiter: str, decimals: int) -> list[str]:
    """One line a box ``(N, 4)``. Zero decimals are a truncation, as other tools' integer files have it."""
    values = np.trunc(boxes) if decimals == 0 else boxes
    return [delimiter.join(f"{value:.{decimals}f}" for value in box) for box in values]


RECORD_SCHEMA = 1
_SEARCH_DEPTH = 4


def as_written(run: TrackRun, layout: Layout) -> TrackRun:
    """The run as a reader of its file will see it.

    Scores are computed from this, so that scoring the files later gives the same numbers to the last bit.
    """
    lines = box_lines(run.boxes, ",", layout.decimals)
    boxes = np.array([[float(value) for value in line.split(",")] for line in lines], np.float64)
    return dataclasses.replace(run, boxes=boxes.reshape(-1, 4))


@dataclass(frozen=True, slots=True)
class ResultFolder:
    """One run on one data set, on disk.

    Attributes:
        folder: the run's own.
        layout: how its files are named and written.
        identity: what decides the boxes (graphs, engine, policy): a sequence that another identity made is run
            again.
    """

    folder: Path
    layout: Layout
    identity: Mapping[str, Any]

    def write(self, run: TrackRun, sequence: VideoSequence) -> None:
        """Write boxes, times, confidences, and last the record that calls the sequence finished.

        Raises:
            UserError: the folder cannot be written, or the disk is full.
        """
        boxes_path = self.layout.boxes_path(self.folder, sequence)
        record_path = self.layout.record_path(self.folder, sequence)
        if record_path.is_file():
            record_path.unlink()  # it vouches for the files that are about to change
        _write_lines(boxes_path, box_lines(run.boxes, self.layout.delimiter, self.layout.decimals))
        times_path = self.layout.times_path(self.folder, sequence)
        if times_path is not None and run.times is not None:
            _write_lines(times_path, [f"{value:.6f}" for value in run.times])
        if run.confidences is not None:
            # Nine digits carry a float32 confidence exactly.
            _write_lines(
                self.layout.confidence_path(self.folder, sequence), [f"{v:.9g}" for v in run.confidences]
            )
        record = {
            "schema": RECORD_SCHEMA,
            **self._expected(sequence),
            "boxes_sha256": sha256_of(boxes_path),
            "confidence_sha256": None
            if run.confidences is None
            else sha256_of(self.layout.confidence_path(self.folder, sequence)),
            "wall_seconds": round(run.wall, 6) if np.isfinite(run.wall) else None,
            "lost_frames": None if run.lost is None else np.flatnonzero(run.lost).tolist(),
        }
        with atomic_path(record_path) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    def check_replaceable(self, sequences: Iterable[VideoSequence]) -> None:
        """Raises UserError where the folder holds results that another identity made."""
        for sequence in sequences:
            record = _read_record(self.layout.record_path(self.folder, sequence))
            if record is not None and record.get("identity") != dict(self.identity):
                raise UserError(
                    f"{self.folder} holds results of another export, engine build or tracking policy "
                    f"({sequence.name}): choose another --out, or replace them with --overwrite"
                )

    def finished(self, sequence: VideoSequence) -> TrackRun | None:
        """The run of a sequence that this identity finished, or ``None`` if it must be run (again)."""
        record = _read_record(self.layout.record_path(self.folder, sequence))
        expected = {"schema": RECORD_SCHEMA, **self._expected(sequence)}
        if record is None or any(record.get(key) != value for key, value in expected.items()):
            return None
        boxes_path = self.layout.boxes_path(self.folder, sequence)
        if not boxes_path.is_file() or sha256_of(boxes_path) != record.get("boxes_sha256"):
            return None
        confidence_path = self.layout.confidence_path(self.folder, sequence)
        told = record.get("confidence_sha256")
        if told is not None and not (confidence_path.is_file() and sha256_of(confidence_path) == told):
            return None
        try:
            return read_run(self.folder, self.layout, sequence)
        except UserError:  # damaged since: running again fixes it
            return None

    def _expected(self, sequence: VideoSequence) -> dict[str, Any]:
        """What must be the same for a finished sequence to count."""
        return {
            "identity": dict(self.identity),
            "sequence": sequence.name,
            "frames": len(sequence),
            "first_box": [float(value) for value in sequence.truth[0]],
            "decimals": self.layout.decimals,
        }


def read_run(
    folder: Path, layout: Layout, sequence: VideoSequence, note: Callable[[str], None] | None = None
) -> TrackRun:
    """One sequence's result of any tracker; what is not there beside the boxes is left open.

    Args:
        note: told where there are more boxes than frames: the last ones are left out then, as pytracking's analysis
            does (``calc_seq_err_robust``). Without it they are an error.

    Raises:
        UserError: no such file, malformed, or not as many boxes as the sequence has frames.
    """
    if not layout.has(folder, sequence):
        # Not every tool files the odd names as its toolkit does.
        sequence = _plain(sequence)
    boxes_path = layout.boxes_path(folder, sequence)
    boxes = read_boxes(boxes_path)
    lines, frames = len(boxes), len(sequence)
    if lines > frames and note is not None:
        note(
            f"{boxes_path} has {lines} boxes, {sequence.name} has {frames} frames: the last {lines - frames} are "
            "left out"
        )
        boxes = boxes[:frames]
    if len(boxes) != frames:
        raise UserError(
            f"{boxes_path} has {len(boxes)} boxes, but {sequence.name} has {len(sequence)} frames; "
            "there must be one line a frame, the first frame included"
        )
    record = _read_record(layout.record_path(folder, sequence)) or {}
    lost_frames, wall = record.get("lost_frames"), record.get("wall_seconds")
    lost = None
    if isinstance(lost_frames, list) and all(type(frame) is int for frame in lost_frames):
        lost = np.isin(np.arange(frames), [frame for frame in lost_frames if 0 <= frame < frames])
    return TrackRun(
        name=sequence.name,
        boxes=boxes,
        confidences=_read_column(layout.confidence_path(folder, sequence), lines, frames),
        lost=lost,
        times=_read_column(layout.times_path(folder, sequence), lines, frames),
        wall=float(wall)
        if isinstance(wall, int | float) and not isinstance(wall, bool) and 0 <= wall < 1e12
        else float("nan"),
    )


def read_boxes(path: Path) -> FloatArray:
    """x, y, w, h a line, float64 ``(N, 4)``; commas, tabs or spaces between.

    Raises:
        UserError: unreadable, or a line is not four numbers.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"cannot read the results {path}: it is not a file")
    rows = []
    for at, line in enumerate(read_text(path, "the results").rstrip().splitlines(), 1):
        try:
            row = [parse_number(value) for value in line.replace(",", " ").split()]
        except ValueError:
            row = []
        if len(row) != 4:
            raise UserError(f"{path}, line {at} is not four numbers x,y,w,h: {line[:80]!r}")
        rows.append(row)
    return np.array(rows, np.float64).reshape(-1, 4)


def find_results(root: Path, sequences: list[VideoSequence], dataset: str) -> dict[str, tuple[Path, Layout]]:
    """The trackers' results below a folder: by label, where they lie and in which layout.

    The folder may be one run's own, or hold several trackers. A label is the path below ``root``, without the
    data set's name.

    Raises:
        UserError: there is no such folder, or nothing in it belongs to a sequence of the data set.
    """
    if not root.is_dir():
        raise UserError(
            f"the results' folder {root} {'is not a folder' if root.exists() else 'does not exist'}"
        )
    found: dict[str, tuple[Path, Layout]] = {}
    for folder in _folders(root, _SEARCH_DEPTH):
        layout = _layout_of(folder, sequences)
        if layout is None:
            continue
        parts = [part for part in folder.relative_to(root).parts if part != dataset]
        label = "/".join(parts) or (root.parent.name if root.name == dataset else root.name)
        if label in found:
            raise UserError(
                f"{root} holds two results of {label!r}: {found[label][0]} and {folder}; "
                "name one of them with --results LABEL=DIR"
            )
        found[label] = (folder, layout)
    if not found:
        raise UserError(
            f"{root} holds no results for {dataset}: no {sequences[0].name}.txt (or {sequences[0].name}/"
            f"{sequences[0].name}_001.txt) or another of its {len(sequences)} sequences, {_SEARCH_DEPTH} folders deep"
        )
    return found


def _layout_of(folder: Path, sequences: list[VideoSequence]) -> Layout | None:
    """The first layout that has a file for one of the sequences here."""
    flat = "otb" if (folder / "times").is_dir() else "pytracking"
    for name in (flat, "got10k"):
        if any(LAYOUTS[name].has(folder, s) or LAYOUTS[name].has(folder, _plain(s)) for s in sequences):
            return LAYOUTS[name]
    return None


def _plain(sequence: VideoSequence) -> VideoSequence:
    """The same, filed under the data set's own name for it."""
    return dataclasses.replace(sequence, filed_as={})


def _folders(root: Path, depth: int) -> list[Path]:
    """``root`` and the folders below it, sorted."""
    folders = [root]
    if depth:
        with os.scandir(root) as entries:
            below = sorted(Path(e.path) for e in entries if e.is_dir() and not e.name.startswith("."))
        for folder in below:
            folders += _folders(folder, depth - 1)
    return folders


def _write_lines(path: Path, lines: list[str]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="ascii")


def _read_record(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _read_column(path: Path | None, lines: int, frames: int) -> FloatArray | None:
    """One number a line, of the first frames; ``None`` where there is no such file, or it has not so many lines."""
    if path is None:
        return None
    try:
        values = np.array(
            [parse_number(word) for word in path.read_text(encoding="utf-8").split()], np.float64
        )
    except (OSError, ValueError):
        return None
    return values[:frames] if len(values) == lines and np.isfinite(values).all() else None
