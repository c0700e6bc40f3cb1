"""LaSOT's test split and its extension."""

from __future__ import annotations

from pathlib import Path

from sttrack_deploy.sequences.datasets.base import (
    DatasetReader,
    attributes_of,
    check_ends,
    check_root,
    gather,
    published_table,
    read_boxes,
    read_flags,
    require,
)
from sttrack_deploy.sequences.sequence import Numbering, VideoSequence

__all__ = ["LASOT", "LASOT_EXT", "read_lasot", "read_lasot_ext"]

_IMAGES = Numbering("%08d.jpg")


def read_lasot(root: Path, partial: bool = False) -> list[VideoSequence]:
    """The 280 test sequences (Protocol II), in the order of the published list.

    The boxes' origin is 1, as LaSOT's authors say; they are used as published, like pytracking does. ``absent``
    is ``out_of_view.txt``, ``occluded`` is ``full_occlusion.txt``; the boxes of such frames, where they are not
    0,0,0,0, are guesses.
    """
    return _read(LASOT, root, partial)


def read_lasot_ext(root: Path, partial: bool = False) -> list[VideoSequence]:
    """The 150 sequences of the extension (``lasot_extension_subset``); see :func:`read_lasot`.

    No attributes: none are published by sequence. Many boxes touch 0, so the origin seems to be 0 here.
    """
    return _read(LASOT_EXT, root, partial)


def _read(reader: DatasetReader, root: Path, partial: bool) -> list[VideoSequence]:
    check_root(reader, root)
    table = published_table(reader.name)

    def read_one(name: str) -> VideoSequence:
        folder = root / name.rpartition("-")[0] / name
        if not folder.is_dir() and (root / name).is_dir():
            folder = root / name  # as some mirrors extract it
        truth = read_boxes(require(folder / "groundtruth.txt"))
        check_ends(folder / "img", _IMAGES, len(truth))
        return VideoSequence(
            name,
            folder / "img",
            truth,
            numbering=_IMAGES,
            absent=read_flags(require(folder / "out_of_view.txt"), len(truth)) != 0,
            occluded=read_flags(require(folder / "full_occlusion.txt"), len(truth)) != 0,
            attributes=attributes_of(table[name]),
            dataset=reader.name,
        )

    return gather(reader, root, table, read_one, partial)


_LAYOUT = (
    "/{img/00000001.jpg…, groundtruth.txt, full_occlusion.txt, out_of_view.txt}, or the sequences without the "
    "class folder"
)

LASOT = DatasetReader(
    name="lasot",
    title="LaSOT",
    read=read_lasot,
    layout=f"<class>/<class>-<N>{_LAYOUT}",
    source="http://vision.cs.stonybrook.edu/~lasot/",
    subfolder="lasot",
    also=("LaSOT", "LaSOTBenchmark"),
)

LASOT_EXT = DatasetReader(
    name="lasot_ext",
    title="LaSOT extension",
    read=read_lasot_ext,
    layout=f"<class>/<class>-<N>{_LAYOUT}",
    source="http://vision.cs.stonybrook.edu/~lasot/",
    subfolder="lasot_extension_subset",
    also=("LaSOT_extension_subset", "lasot_ext"),
)
