"""OTB-100 (OTB-2015, TB-100)."""

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

__all__ = ["OTB100", "read_otb100"]


def read_otb100(root: Path, partial: bool = False) -> list[VideoSequence]:
    """The 100 sequences, in pytracking's order.

    Annotations start and end at other images than their folders do for David, Football1, Freeman3, Freeman4,
    Diving, BlurCar1, BlurCar3 and BlurCar4. Jogging and Skating2 have two targets each and Human4's is the
    second (``Human4-2``). Of Tiger1, the official toolkit and pytracking leave out the first 5 annotated frames;
    so does this.

    Names are the official toolkit's, ``Jogging-1``; pytracking files results under ``Jogging_1``. The boxes'
    origin is 1 (they come from MATLAB); they are used as published, like pytracking and the got10k toolkit do.
    """
    check_root(OTB100, root)
    table = published_table(OTB100.name)

    def read_one(name: str) -> VideoSequence:
        row = table[name]
        first, last, skip = (int(row[column]) for column in ("first", "last", "skip"))
        folder = root / row["folder"]
        truth = read_boxes(require(folder / row["annotation"]), frames=last - first + 1, skip=skip)
        numbering = Numbering(_pattern(folder / "img", row["pattern"], first), first + skip)
        check_ends(folder / "img", numbering, len(truth))
        return VideoSequence(
            name,
            folder / "img",
            truth,
            numbering=numbering,
            attributes=attributes_of(row),
            dataset=OTB100.name,
            filed_as={"pytracking": name.replace("-", "_"), "otb": name.replace("-", ".")},
        )

    return gather(OTB100, root, table, read_one, partial)


def _pattern(images: Path, pattern: str, first: int) -> str:
    """KiteSurf is PNG in pytracking's copy and JPEG in the official toolkit's."""
    png = str(Path(pattern).with_suffix(".png"))
    return png if (images / (png % first)).exists() else pattern


OTB100 = DatasetReader(
    name="otb100",
    title="OTB-100",
    read=read_otb100,
    layout="<Sequence>/{img/0001.jpg…, groundtruth_rect.txt}",
    source="http://cvlab.hanyang.ac.kr/tracker_benchmark/datasets.html",
    subfolder="otb",
    also=("otb100", "OTB100", "OTB2015"),
)
