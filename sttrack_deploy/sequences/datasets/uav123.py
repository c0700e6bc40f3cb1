"""UAV123, whose 123 sequences are ranges of the images of 91 folders."""

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
    require,
)
from sttrack_deploy.sequences.sequence import Numbering, VideoSequence

__all__ = ["UAV123", "read_uav123"]


def read_uav123(root: Path, partial: bool = False) -> list[VideoSequence]:
    """The 123 sequences, in pytracking's order; NaN boxes where the target is out of view.

    Their names are the data set's; pytracking files results under ``uav_<name>``. The boxes' origin is not
    documented (its toolkit is in MATLAB, which counts from 1); they are used as published, like pytracking and
    the got10k toolkit do.
    """
    check_root(UAV123, root)
    table = published_table(UAV123.name)

    def read_one(name: str) -> VideoSequence:
        row = table[name]
        first, last = int(row["first"]), int(row["last"])
        images = root / "data_seq" / "UAV123" / row["folder"]
        numbering = Numbering("%06d.jpg", first)
        truth = read_boxes(require(root / "anno" / "UAV123" / f"{name}.txt"), frames=last - first + 1)
        check_ends(images, numbering, len(truth))
        return VideoSequence(
            name,
            images,
            truth,
            numbering=numbering,
            attributes=attributes_of(row),
            dataset=UAV123.name,
            filed_as={"pytracking": f"uav_{name}"},
        )

    return gather(UAV123, root, table, read_one, partial)


UAV123 = DatasetReader(
    name="uav123",
    title="UAV123",
    read=read_uav123,
    layout="data_seq/UAV123/<folder>/000001.jpg… and anno/UAV123/<sequence>.txt",
    source="https://cemse.kaust.edu.sa/ivul/uav123",
    subfolder="uav123",
    also=("UAV123", "uav"),
)
