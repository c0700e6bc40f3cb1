"""The plain folder of annotated videos, the layout this project's own material has."""

from __future__ import annotations

from pathlib import Path

from sttrack_deploy.errors import UserError
from sttrack_deploy.sequences.datasets.base import DatasetReader, read_boxes
from sttrack_deploy.sequences.sequence import VideoSequence
from sttrack_deploy.video.file_types import VIDEO_SUFFIXES
from sttrack_deploy.video.image_folder import image_files

__all__ = ["FOLDER", "read_folder"]


def read_folder(root: Path, partial: bool = False) -> list[VideoSequence]:
    """The sequences of a plain folder, sorted by name.

    A sequence is ``<name>.txt`` beside a video ``<name>.mp4`` (or another kind) or a folder ``<name>/`` of
    images. The text has one line ``x,y,w,h`` a frame, ``nan,nan,nan,nan`` where the target is absent.
    Hidden files, other files, and videos without a text are left aside. No frame is decoded here.

    Args:
        partial: leave texts without a video aside too.

    Raises:
        UserError: the folder or a text's video is missing, there is no sequence, or a text is malformed.
    """
    if not root.is_dir():
        raise UserError(
            f"the data folder {root} {'is not a folder' if root.exists() else 'does not exist'}; "
            "give one that holds <name>.mp4 and <name>.txt with --data DIR"
        )
    sources: dict[str, list[Path]] = {}
    for path in sorted(root.iterdir()):
        if path.name.startswith("."):
            continue
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
            sources.setdefault(path.stem, []).append(path)
        elif path.is_dir() and image_files(path):
            sources.setdefault(path.name, []).append(path)
    sequences = []
    for text in sorted(p for p in root.glob("*.txt") if not p.name.startswith(".")):
        found = sources.get(text.stem, [])
        if partial and not found:
            continue
        if len(found) != 1:
            problem = (
                f"both {found[0].name} and {found[1].name} belong to {text}; keep one"
                if found
                else f"{text} has no video beside it: there is no {text.stem}.mp4 "
                f"(or {', '.join(VIDEO_SUFFIXES[1:])}) and no folder of images {text.stem}/"
            )
            raise UserError(problem)
        sequences.append(VideoSequence(text.stem, found[0], read_boxes(text)))
    if not sequences:
        videos = f"{len(sources)} videos but " if sources else ""
        raise UserError(f"{root} holds no sequence: {videos}no <name>.txt with one x,y,w,h line a frame")
    return sequences


FOLDER = DatasetReader(
    name="folder",
    title="the plain folder",
    read=read_folder,
    layout="<name>.mp4 (or a folder <name>/ of images) and <name>.txt, one x,y,w,h line a frame",
)
