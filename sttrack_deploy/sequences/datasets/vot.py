"""The layout of the VOT challenges' data sets."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UserError
from sttrack_deploy.sequences.datasets.annotations import read_flags, read_lines, read_names
from sttrack_deploy.sequences.datasets.on_disk import check_ends, check_root, count_images, gather, require
from sttrack_deploy.sequences.datasets.reader import DatasetReader
from sttrack_deploy.sequences.datasets.vot_regions import read_regions
from sttrack_deploy.sequences.sequence import Numbering, VideoSequence, usable_truth

__all__ = ["VOT", "read_vot"]

BoolArray = npt.NDArray[np.bool_]

_ABSENT_TAGS = frozenset({"out-of-frame", "out-of-view"})
_OCCLUDED_TAGS = frozenset({"full-occlusion"})


def read_vot(root: Path, partial: bool = False) -> list[VideoSequence]:
    """The sequences that ``list.txt`` names, in its order.

    Rectangles, polygons and masks become upright boxes, see :mod:`.vot_regions`; coordinates are used as
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
    """Where a sequence's colour images are: as its ``sequence`` file says, else as VOT's defaults have it."""
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
