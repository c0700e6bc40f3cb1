"""What the readers of data sets share: the interface, published tables, annotation texts, what is on disk.

The tables are the CSV files in ``tables/``: which sequences, which frames of them, which attributes;
``tables/README.md`` says where each comes from. Whether all of a sequence is there is checked without looking for
each of its images.
"""

from __future__ import annotations

import csv
import functools
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UserError
from sttrack_deploy.records import parse_number, read_text, show
from sttrack_deploy.sequences.sequence import Numbering, VideoSequence

__all__ = [
    "DatasetReader",
    "Lacking",
    "Read",
    "attributes_of",
    "check_ends",
    "check_root",
    "check_start",
    "count_images",
    "gather",
    "parse_box",
    "published_table",
    "read_boxes",
    "read_flags",
    "read_lines",
    "read_names",
    "require",
    "spread_start",
]


class Read(Protocol):
    """Reads a data set's annotations; images are not decoded, and not all of them looked for."""

    def __call__(self, root: Path, partial: bool = False) -> list[VideoSequence]:
        """Its sequences.

        Args:
            root: the data set's own folder.
            partial: leave aside what is missing, as long as anything is there.

        Raises:
            UserError: something is missing, or an annotation is malformed.
        """
        ...


@dataclass(frozen=True, slots=True)
class DatasetReader:
    """One data set in its published layout.

    Attributes:
        name: key in ``DATASETS``; each of its sequences carries it as ``dataset``.
        title: as its authors write it.
        read: its reader.
        layout: what its folder holds, in words that can follow "a folder with".
        source: where it is obtained; empty for layouts that are nobody's in particular.
        subfolder: its usual name in a folder of data sets; empty: it has none.
        also: other names in use for that.
    """

    name: str
    title: str
    read: Read
    layout: str
    source: str = ""
    subfolder: str = ""
    also: tuple[str, ...] = ()

    @property
    def variable(self) -> str:
        """The environment variable that says where it lies."""
        return f"STTRACK_{self.name.upper()}"


@functools.cache
def published_table(name: str) -> Mapping[str, Mapping[str, str]]:
    """Rows of ``tables/<name>.csv`` by sequence, in the published order."""
    file = resources.files("sttrack_deploy.sequences.datasets") / "tables" / f"{name}.csv"
    return {row["name"]: row for row in csv.DictReader(file.read_text(encoding="utf-8").splitlines())}


def attributes_of(row: Mapping[str, str]) -> tuple[str, ...]:
    """A row's attributes, which its column separates by spaces; none where the table has no such column."""
    return tuple(row.get("attributes", "").split())


FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def read_lines(path: Path) -> list[str]:
    """A text's lines, less the empty ones at its end.

    Raises:
        UserError: it cannot be read.
    """
    if path.exists() and not path.is_file():  # a FIFO would be waited for, a device never ends
        raise UserError(f"cannot read the annotations {path}: it is not a file")
    return read_text(path, "the annotations").rstrip().splitlines()


def read_names(path: Path) -> list[str]:
    """A list of sequences, one a line."""
    return [line.strip() for line in read_lines(path) if line.strip()]


def parse_box(line: str, where: str) -> list[float]:
    """x, y, w, h, separated by commas, tabs or spaces; four NaN where the target is absent.

    Args:
        where: file and line, for the error.

    Raises:
        UserError: the line is anything else.
    """
    columns = line.replace(",", " ").split()
    if len(columns) != 4:
        raise UserError(f"{where} has {len(columns)} columns instead of 4 (x,y,w,h): {show(line)}")
    try:
        values = [parse_number(column) for column in columns]
    except ValueError:
        raise UserError(f"{where} is not four numbers x,y,w,h: {show(line)}") from None
    finite = [math.isfinite(value) for value in values]
    if not (all(finite) or all(math.isnan(value) for value in values)):
        raise UserError(f"{where} must be four finite numbers, or nan,nan,nan,nan where absent: {show(line)}")
    return values


def read_boxes(path: Path, frames: int | None = None, skip: int = 0) -> FloatArray:
    """The boxes of a text with one line a frame, as written: nothing is shifted or clipped.

    Args:
        frames: how many lines there must be; ``None``: any number.
        skip: leave out as many frames at the start.

    Returns:
        x, y, w, h; float64 ``(N, 4)``.

    Raises:
        UserError: unreadable, empty, malformed, another number of lines, or a first box without an area.
    """
    lines = read_lines(path)
    if not lines:
        raise UserError(f"{path} is empty; it needs one x,y,w,h line a frame")
    if frames is not None and len(lines) != frames:
        raise UserError(f"{path} has {len(lines)} lines, but its sequence has {frames} frames")
    boxes = np.array([parse_box(line, f"{path}, line {n}") for n, line in enumerate(lines, 1)], np.float64)
    check_start(boxes[skip], lines[skip], f"{path}, line {skip + 1}")
    return boxes[skip:]


def check_start(box: FloatArray, line: str, where: str) -> None:
    """Tracking can only start on a box with an area.

    Raises:
        UserError: this one, x, y, w, h from ``line``, is NaN or empty.
    """
    if not (box[2:] > 0).all():
        raise UserError(
            f"{where}: tracking starts on this box, but it is {line!r}; let the sequence begin where the target is "
            "known, or take its annotation out of the folder"
        )


def spread_start(boxes: FloatArray, frames: int, path: Path) -> tuple[FloatArray, bool]:
    """The truth of a sequence of which perhaps only the first box is published.

    Args:
        boxes: of the annotation at ``path``, ``(1 or frames, 4)``.

    Returns:
        ``(frames, 4)``, NaN where nothing is published, and whether it can be scored.

    Raises:
        UserError: neither one box nor one a frame.
    """
    if len(boxes) not in (1, frames):
        raise UserError(f"{path} has {len(boxes)} lines, but its sequence has {frames} frames")
    if len(boxes) > 1:
        return boxes, True
    truth = np.full((frames, 4), np.nan)
    truth[0] = boxes[0]
    return truth, False


def read_flags(path: Path, frames: int, pad: bool = False) -> IntArray:
    """Whole numbers, one a frame, in one line or one a line; int64 ``(frames,)``.

    Args:
        pad: fewer are allowed, the rest being 0.

    Raises:
        UserError: unreadable, not whole numbers, or not as many as there are frames.
    """
    values = [value for line in read_lines(path) for value in line.replace(",", " ").split()]
    if len(values) > frames or (len(values) < frames and not pad):
        raise UserError(f"{path} has {len(values)} flags, but its sequence has {frames} frames")
    flags = np.zeros(frames, np.int64)
    for index, value in enumerate(values):
        if not value.isdecimal():
            raise UserError(f"{path}: the flag of frame {index + 1} is not a whole number: {value!r}")
        flags[index] = int(value)
    return flags


_NAMED = 3
"""How many missing sequences an error names."""


class Lacking(Exception):
    """A file of a sequence is not there; :func:`gather` decides whether that matters."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"no {path}")
        self.path = path


def require(path: Path) -> Path:
    """The path itself.

    Raises:
        Lacking: it does not exist.
    """
    if not path.exists():
        raise Lacking(path)
    return path


def check_ends(folder: Path, numbering: Numbering, frames: int) -> None:
    """The first and the last image are there; looking for all would take minutes on network drives.

    Raises:
        Lacking: one is not.
    """
    for number in (numbering.first, numbering.first + frames - 1):
        require(folder / (numbering.pattern % number))


def count_images(folder: Path, numbering: Numbering) -> int:
    """How many images a folder has, numbered from ``numbering.first`` on without a gap.

    Raises:
        Lacking: the folder, the first, or one in between is not there.
    """
    names = {entry.name for entry in os.scandir(require(folder))}
    stems = (Path(name).stem for name in names)
    numbers = {int(stem) for stem in stems if stem.isdecimal() and numbering.pattern % int(stem) in names}
    count = len(numbers)
    expected = range(numbering.first, numbering.first + max(count, 1))
    for number in expected:
        if number not in numbers:
            raise Lacking(folder / (numbering.pattern % number))
    return count


def check_root(reader: DatasetReader, root: Path) -> None:
    """The data set's folder is one.

    Raises:
        UserError: it is not.
    """
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise UserError(f"{reader.title}: {root} {problem}; give a folder with {reader.layout}")


def gather(
    reader: DatasetReader,
    root: Path,
    names: Iterable[str],
    read_one: Callable[[str], VideoSequence],
    partial: bool,
) -> list[VideoSequence]:
    """Read one sequence after another.

    Args:
        read_one: raises :class:`Lacking` for one that is not there or only half.
        partial: leave those aside.

    Raises:
        UserError: some are missing and ``partial`` is not set, or all are.
    """
    found: list[VideoSequence] = []
    lacking: list[str] = []
    for name in names:
        try:
            found.append(read_one(name))
        except Lacking as lack:
            inside = lack.path.is_relative_to(root)
            lacking.append(f"{name} (no {lack.path.relative_to(root) if inside else lack.path})")
    total = len(found) + len(lacking)
    if not total:
        raise UserError(
            f"{reader.title} at {root} holds no sequence; it must be a folder with {reader.layout}"
        )
    if lacking and not (partial and found):
        named = ", ".join(lacking[:_NAMED]) + (", …" if len(lacking) > _NAMED else "")
        remedy = (
            "extract them, or do without them with --partial"
            if found
            else f"it must be a folder with {reader.layout}"
        )
        raise UserError(
            f"{reader.title} at {root} lacks {len(lacking)} of {total} sequences: {named}; {remedy}"
        )
    return found
