"""TrackingNet's test and training splits."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sttrack_deploy.errors import UserError
from sttrack_deploy.sequences.datasets.base import (
    DatasetReader,
    check_ends,
    check_root,
    count_images,
    gather,
    read_boxes,
    require,
    spread_start,
)
from sttrack_deploy.sequences.sequence import Numbering, VideoSequence
from sttrack_deploy.video.image_folder import natural_key

__all__ = ["TRACKINGNET", "TRACKINGNET_TRAIN", "read_trackingnet", "read_trackingnet_train"]

_IMAGES = Numbering("%d.jpg", first=0)
_TRAIN = tuple(f"TRAIN_{number}" for number in range(12))


def read_trackingnet(root: Path, partial: bool = False) -> list[VideoSequence]:
    """The test sequences (511 as published), of which only the first box is; sorted by name.

    Args:
        root: holds ``TEST/``, or is it.
    """
    annotations = _annotations(TRACKINGNET, root, ["TEST"], partial)

    def read_one(name: str) -> VideoSequence:
        path, images = annotations[name], _images(annotations[name])
        truth, scorable = spread_start(read_boxes(path), count_images(images, _IMAGES), path)
        return VideoSequence(
            name, images, truth, numbering=_IMAGES, dataset=TRACKINGNET.name, scorable=scorable
        )

    return gather(TRACKINGNET, root, annotations, read_one, partial)


def read_trackingnet_train(root: Path, partial: bool = False) -> list[VideoSequence]:
    """The training sequences (30,132 as published), every frame annotated; by split, sorted by name.

    Args:
        root: holds ``TRAIN_0/`` to ``TRAIN_11/``, or is one of them.
    """
    annotations = _annotations(TRACKINGNET_TRAIN, root, _TRAIN, partial)

    def read_one(name: str) -> VideoSequence:
        path, images = annotations[name], _images(annotations[name])
        truth = read_boxes(path)
        check_ends(require(images), _IMAGES, len(truth))
        return VideoSequence(name, images, truth, numbering=_IMAGES, dataset=TRACKINGNET_TRAIN.name)

    return gather(TRACKINGNET_TRAIN, root, annotations, read_one, partial)


def _annotations(reader: DatasetReader, root: Path, splits: Iterable[str], partial: bool) -> dict[str, Path]:
    """Annotation texts by sequence.

    Raises:
        UserError: a split is not there.
    """
    check_root(reader, root)
    folders = [root] if (root / "anno").is_dir() else [root / split for split in splits]
    missing = [folder.name for folder in folders if not (folder / "anno").is_dir()]
    if missing and not (partial and len(missing) < len(folders)):
        raise UserError(
            f"{reader.title} at {root} lacks {', '.join(f'{name}/anno' for name in missing)}; "
            f"it must be a folder with {reader.layout}"
        )
    texts = [
        text
        for folder in folders
        for text in sorted(folder.glob("anno/*.txt"), key=lambda path: natural_key(path.name))
        if not text.name.startswith(".")
    ]
    return {text.stem: text for text in texts}


def _images(annotation: Path) -> Path:
    return annotation.parents[1] / "frames" / annotation.stem


TRACKINGNET = DatasetReader(
    name="trackingnet",
    title="TrackingNet test",
    read=read_trackingnet,
    layout="TEST/{frames/<sequence>/0.jpg…, anno/<sequence>.txt}",
    source="https://github.com/SilvioGiancola/TrackingNet-devkit",
    subfolder="trackingnet",
    also=("TrackingNet", "trackingNet"),
)

TRACKINGNET_TRAIN = DatasetReader(
    name="trackingnet_train",
    title="TrackingNet train",
    read=read_trackingnet_train,
    layout="TRAIN_0…TRAIN_11/{frames/<sequence>/0.jpg…, anno/<sequence>.txt}",
    source="https://github.com/SilvioGiancola/TrackingNet-devkit",
    subfolder="trackingnet",
    also=("TrackingNet", "trackingNet"),
)
