"""Annotation texts: boxes and per-frame flags, in the delimiters that data sets use."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UserError

__all__ = ["check_start", "parse_box", "read_boxes", "read_flags", "read_lines", "read_names", "spread_start"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def read_lines(path: Path) -> list[str]:
    """A text's lines, less the empty ones at its end.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error


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
        raise UserError(f"{where} has {len(columns)} columns instead of 4 (x,y,w,h): {line!r}")
    try:
        values = [float(column) for column in columns]
    except ValueError:
        raise UserError(f"{where} is not four numbers x,y,w,h: {line!r}") from None
    finite = [math.isfinite(value) for value in values]
    if not (all(finite) or all(math.isnan(value) for value in values)):
        raise UserError(f"{where} must be four finite numbers, or nan,nan,nan,nan where absent: {line!r}")
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
        raise UserError(f"{where}: tracking starts on this box, but it is {line!r}")


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
