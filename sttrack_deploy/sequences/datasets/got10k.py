"""GOT-10k's validation and test splits."""

from __future__ import annotations

from pathlib import Path

from sttrack_deploy.errors import UserError
from sttrack_deploy.sequences.datasets.base import (
    DatasetReader,
    check_ends,
    check_root,
    count_images,
    gather,
    read_boxes,
    read_flags,
    read_names,
    require,
    spread_start,
)
from sttrack_deploy.sequences.sequence import Numbering, VideoSequence

__all__ = ["GOT10K_TEST", "GOT10K_VAL", "read_got10k_test", "read_got10k_val"]

_IMAGES = Numbering("%08d.jpg")


def read_got10k_val(root: Path, partial: bool = False) -> list[VideoSequence]:
    """The validation sequences that ``val/list.txt`` names (180 as published).

    The boxes' origin is 1, as the got10k toolkit's author says; they are used as published, like that toolkit
    and pytracking do. ``absent`` is ``absence.label`` 1; ``occluded`` is ``cover.label`` 0 (of 0..8, the
    visible share): the frames that the got10k toolkit does not count. ``cut_by_image.label`` and
    ``meta_info.ini`` have no part in any score and are not read.

    Args:
        root: holds ``val/``, or is it.
    """
    split = _split(GOT10K_VAL, root, "val")

    def read_one(name: str) -> VideoSequence:
        folder = split / name
        truth = read_boxes(require(folder / "groundtruth.txt"))
        check_ends(folder, _IMAGES, len(truth))
        return VideoSequence(
            name,
            folder,
            truth,
            numbering=_IMAGES,
            absent=read_flags(require(folder / "absence.label"), len(truth)) == 1,
            occluded=read_flags(require(folder / "cover.label"), len(truth)) == 0,
            dataset=GOT10K_VAL.name,
        )

    return gather(GOT10K_VAL, split, read_names(split / "list.txt"), read_one, partial)


def read_got10k_test(root: Path, partial: bool = False) -> list[VideoSequence]:
    """The test sequences that ``test/list.txt`` names (180 as published), of which only the first box is.

    Args:
        root: holds ``test/``, or is it.
    """
    split = _split(GOT10K_TEST, root, "test")

    def read_one(name: str) -> VideoSequence:
        path = require(split / name / "groundtruth.txt")
        frames = count_images(split / name, _IMAGES)
        truth, scorable = spread_start(read_boxes(path), frames, path)
        return VideoSequence(
            name, split / name, truth, numbering=_IMAGES, dataset=GOT10K_TEST.name, scorable=scorable
        )

    return gather(GOT10K_TEST, split, read_names(split / "list.txt"), read_one, partial)


def _split(reader: DatasetReader, root: Path, name: str) -> Path:
    """The folder of one split.

    Raises:
        UserError: there is none, or it has no list.
    """
    check_root(reader, root)
    split = root / name if (root / name).is_dir() else root
    if not (split / "list.txt").is_file():
        raise UserError(
            f"{reader.title}: there is neither {root / name / 'list.txt'} nor {root / 'list.txt'}; "
            f"give a folder with {reader.layout}"
        )
    return split


GOT10K_VAL = DatasetReader(
    name="got10k_val",
    title="GOT-10k val",
    read=read_got10k_val,
    layout="val/{list.txt, GOT-10k_Val_<N>/{00000001.jpg…, groundtruth.txt, absence.label, cover.label}}",
    source="http://got-10k.aitestunion.com/downloads",
    subfolder="got10k",
    also=("GOT-10k", "got-10k", "GOT10k"),
)

GOT10K_TEST = DatasetReader(
    name="got10k_test",
    title="GOT-10k test",
    read=read_got10k_test,
    layout="test/{list.txt, GOT-10k_Test_<N>/{00000001.jpg…, groundtruth.txt}}",
    source="http://got-10k.aitestunion.com/downloads",
    subfolder="got10k",
    also=("GOT-10k", "got-10k", "GOT10k"),
)
