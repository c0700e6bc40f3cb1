"""TNL2K's test split."""

from __future__ import annotations

from pathlib import Path

from sttrack_deploy.sequences.datasets.base import DatasetReader, check_root, gather, read_boxes, require
from sttrack_deploy.sequences.sequence import VideoSequence

__all__ = ["TNL2K", "read_tnl2k"]


def read_tnl2k(root: Path, partial: bool = False) -> list[VideoSequence]:
    """The test sequences (700 as published), sorted by name.

    Images have no common naming; all those in a sequence's ``imgs/`` are its frames, in the order of their
    names. Boxes are used as published, like pytracking's successors do; the origin is not documented.

    Args:
        root: holds the sequences, or holds ``test/`` that does.
    """
    check_root(TNL2K, root)
    split = root / "test" if (root / "test").is_dir() else root
    names = sorted(
        path.name
        for path in split.iterdir()
        if (path / "imgs").is_dir() or (path / "groundtruth.txt").is_file()
    )

    def read_one(name: str) -> VideoSequence:
        truth = read_boxes(require(split / name / "groundtruth.txt"))
        return VideoSequence(name, require(split / name / "imgs"), truth, dataset=TNL2K.name)

    return gather(TNL2K, split, names, read_one, partial)


TNL2K = DatasetReader(
    name="tnl2k",
    title="TNL2K test",
    read=read_tnl2k,
    layout="<sequence>/{imgs/, groundtruth.txt}",
    source="https://github.com/wangxiao5791509/TNL2K_evaluation_toolkit",
    subfolder="tnl2k",
    also=("TNL2K", "TNL2K_test_subset"),
)
