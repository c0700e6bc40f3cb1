"""VOT's annotation lines: rectangles, polygons and masks, as boxes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UserError
from sttrack_deploy.sequences.datasets.annotations import check_start, read_lines

__all__ = ["read_regions", "region_box"]

FloatArray = npt.NDArray[np.float64]

_ABSENT = (math.nan,) * 4


def read_regions(path: Path) -> FloatArray:
    """The boxes around a trajectory's regions, one a line; float64 ``(N, 4)``, NaN where there is none.

    Raises:
        UserError: unreadable, empty, malformed, or the first has no area.
    """
    lines = read_lines(path)
    if not lines:
        raise UserError(f"{path} is empty; it needs one region a frame")
    boxes = np.array([region_box(line, f"{path}, line {n}") for n, line in enumerate(lines, 1)], np.float64)
    check_start(boxes[0], lines[0], f"{path}, line 1")
    return boxes


def region_box(line: str, where: str) -> tuple[float, float, float, float]:
    """The upright x, y, w, h around one region.

    A rectangle ``x,y,w,h`` is itself. A polygon ``x1,y1,x2,y2,…`` gives the extremes of its corners, like
    pytracking and the VOT toolkit. A mask ``m<x>,<y>,<w>,<h>,<runs>`` is a window at (x, y) of the image,
    run-length encoded row by row, zeros first; it gives the pixels it covers. One number is a code for a frame
    without a region, and so is a region with NaN in it.

    Args:
        where: file and line, for the error.

    Raises:
        UserError: the line is none of these.
    """
    if line.startswith("m"):
        return _mask_box(line, where)
    try:
        values = [float(value) for value in line.split(",")]
    except ValueError:
        raise UserError(f"{where} is not a region (x,y,w,h, a polygon or a mask): {line!r}") from None
    if any(map(math.isnan, values)) or len(values) == 1:
        return _ABSENT
    if not all(map(math.isfinite, values)):
        raise UserError(f"{where} must be finite: {line!r}")
    if len(values) == 4:
        return (values[0], values[1], values[2], values[3])
    if len(values) < 6 or len(values) % 2:
        raise UserError(
            f"{where} has {len(values)} numbers; a rectangle has 4, a polygon an even number from 6 on"
        )
    xs, ys = values[::2], values[1::2]
    return (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))


def _mask_box(line: str, where: str) -> tuple[float, float, float, float]:
    try:
        left, top, width, height, *runs = (int(value) for value in line[1:].split(","))
    except ValueError:
        raise UserError(f"{where} is not a mask m<x>,<y>,<w>,<h>,<runs>: {line[:40]!r}") from None
    if min(width, height, *runs, 0) < 0 or sum(runs) > width * height:
        raise UserError(
            f"{where}: the mask's runs are {sum(runs)} pixels long, but its window is {width} by {height}"
        )
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    mask = np.zeros(width * height, np.bool_)
    mask[: values.size] = values
    rows, columns = np.nonzero(mask.reshape(height, width))
    if not rows.size:
        return _ABSENT
    x, y = int(columns.min()), int(rows.min())
    return (left + x, top + y, int(columns.max()) - x + 1, int(rows.max()) - y + 1)
