"""The layout of the VOT challenges' data sets; its rectangles, polygons and masks as boxes."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UserError
from sttrack_deploy.records import parse_number, show
from sttrack_deploy.sequences.datasets.base import (
    DatasetReader,
    check_ends,
    check_root,
    check_start,
    count_images,
    gather,
    read_flags,
    read_lines,
    read_names,
    require,
)
from sttrack_deploy.sequences.sequence import Numbering, VideoSequence, usable_truth

__all__ = ["VOT", "read_regions", "read_vot", "region_box"]


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
        values = [parse_number(value) for value in line.split(",")]
    except ValueError:
        raise UserError(f"{where} is not a region (x,y,w,h, a polygon or a mask): {show(line)}") from None
    if any(map(math.isnan, values)) or len(values) == 1:
        return _ABSENT
    if not all(map(math.isfinite, values)):
        raise UserError(f"{where} must be finite: {show(line)}")
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


BoolArray = npt.NDArray[np.bool_]

_ABSENT_TAGS = frozenset({"out-of-frame", "out-of-view"})
_OCCLUDED_TAGS = frozenset({"full-occlusion"})


def read_vot(root: Path, partial: bool = False) -> list[VideoSequence]:
    """The sequences that ``list.txt`` names, in its order.

    Rectangles, polygons and masks become upright boxes, see :func:`region_box`; coordinates are used as
    published, like pytracking and the VOT toolkit do. VOT's own measures restart trackers; this is for scoring
    its material like any other data.

    A tag (``<tag>.tag``, in older sets ``<tag>.label``: one 0 or 1 a frame) that is ever set is an attribute.
    ``absent`` are frames tagged ``out-of-frame`` or ``out-of-view``, ``occluded`` those tagged
    ``full-occlusion``. The short-term sets' ``occlusion`` is not: it is set for partial occlusion as well.
    """
    check_root(VOT, root)
    if not (root / "list.txt").is_file():
        raise UserError(f"{VOT.title}: there is no {root / 'list.txt'}; give a folder with {VOT.layout}")

    def read_one(name: str) -> VideoSequence:
        folder = require(root / name)
        truth = read_regions(require(folder / "groundtruth.txt"))
        images, numbering = _images(folder)
        check_ends(images, numbering, len(truth))
        if (images / (numbering.pattern % (numbering.first + len(truth)))).exists():
            # Annotations may end before the images do; the VOT toolkit too counts the rest as unknown.
            unknown = count_images(images, numbering) - len(truth)
            truth = np.pad(truth, ((0, unknown), (0, 0)), constant_values=np.nan)
        tags = _tags(folder, len(truth))
        return VideoSequence(
            name,
            images,
            truth,
            numbering=numbering,
            absent=_any_of(tags, _ABSENT_TAGS),
            occluded=_any_of(tags, _OCCLUDED_TAGS),
            attributes=tuple(tag for tag, flags in tags.items() if flags.any()),
            dataset=VOT.name,
            scorable=bool(usable_truth(truth)[1:].any()),
        )

    return gather(VOT, root, read_names(root / "list.txt"), read_one, partial)


def _images(folder: Path) -> tuple[Path, Numbering]:
    """Where a sequence's color images are: as its ``sequence`` file says, else as VOT's defaults have it."""
    metadata = folder / "sequence"
    channel = ""
    for line in read_lines(metadata) if metadata.is_file() else ():
        key, _, value = line.partition("=")
        if key.strip() == "channels.color":
            channel = value.strip().replace("\\", "/")  # the toolkit writes the system's separator
    if not channel:
        # Until VOT2017, images lay beside the annotation.
        channel = "color/" if (folder / "color").is_dir() else "./"
    if not Path(channel).suffix:
        channel = f"{channel.rstrip('/')}/%08d.jpg"
    path = folder / channel
    if len(re.findall(r"%0?\d*d", path.name)) != 1 or path.name.count("%") != 1:
        raise UserError(f"{metadata}: channels.color must have one number like %08d in its name: {channel!r}")
    return path.parent, Numbering(path.name)


def _tags(folder: Path, frames: int) -> dict[str, BoolArray]:
    """Per-frame flags by tag; a file may end early, the rest being 0."""
    files = sorted([*folder.glob("*.tag"), *folder.glob("*.label")])
    return {file.stem: read_flags(file, frames, pad=True) == 1 for file in files}


def _any_of(tags: dict[str, BoolArray], names: frozenset[str]) -> BoolArray | None:
    chosen = [flags for tag, flags in tags.items() if tag.replace("_", "-") in names]
    return np.logical_or.reduce(chosen) if chosen else None


VOT = DatasetReader(
    name="vot",
    title="VOT",
    read=read_vot,
    layout="list.txt and <sequence>/{color/00000001.jpg…, groundtruth.txt, sequence}",
    source="https://www.votchallenge.net/challenges.html (the VOT toolkit's `vot initialize` downloads it)",
    subfolder="vot",
    also=("VOT",),
)
