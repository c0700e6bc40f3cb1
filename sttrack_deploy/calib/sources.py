"""What is recorded from: annotated videos in a folder, one video with one box, an existing evaluation run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.evaluation.results import find_results, read_run
from sttrack_deploy.files import sha256_of
from sttrack_deploy.geometry import Box
from sttrack_deploy.sequences.datasets.base import parse_box, read_lines
from sttrack_deploy.sequences.sequence import TrackRun, VideoSequence, usable_truth
from sttrack_deploy.video.file_types import VIDEO_SUFFIXES
from sttrack_deploy.video.image_folder import image_files
from sttrack_deploy.video.reader import open_video

__all__ = ["boxes_hash", "evaluated", "one_video", "read_annotated_videos", "source_hash"]

_TARGET = re.compile(r"(?P<video>.+)__track\w+")
"""Texts of a video with several targets: ``<video>__track1.txt``."""


def read_annotated_videos(folder: Path) -> list[VideoSequence]:
    """The targets annotated in a folder, sorted by name; no frame is decoded.

    A target is ``<name>.txt``, or ``<name>__track1.txt`` and so on for several in one video, beside a video
    ``<name>.mp4`` (or another kind) or a folder ``<name>/`` of images. Unlike an evaluation's, a target may be
    absent (``nan,nan,nan,nan``) on the first frames. Texts without a video, and targets that are never there, are
    left aside.

    Raises:
        UserError: not a folder, nothing annotated in it, or a text is malformed.
    """
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {problem}; give a folder that holds <name>.mp4 and <name>.txt")
    videos: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
            videos[path.stem] = path
        elif path.is_dir() and image_files(path):
            videos.setdefault(path.name, path)
    found = []
    for text in sorted(p for p in folder.glob("*.txt") if not p.name.startswith(".")):
        target = _TARGET.fullmatch(text.stem)
        video = videos.get(text.stem) or (videos.get(target["video"]) if target else None)
        if video is None:
            continue
        rows = [parse_box(line, f"{text}, line {n}") for n, line in enumerate(read_lines(text), 1)]
        truth = np.array(rows, np.float64).reshape(-1, 4)
        if usable_truth(truth).any():
            found.append(VideoSequence(text.stem, video, truth))
    if not found:
        raise UserError(
            f"{folder} holds no annotated video: it needs <name>.mp4 and <name>.txt with one x,y,w,h line a frame; "
            "for a video without boxes name the video itself, with --init-box X,Y,W,H"
        )
    return found


def one_video(path: Path, box: Box) -> VideoSequence:
    """A video, or a folder of images, of which only the target's first box is known.

    Counts its frames by decoding it, because containers' own counts are estimates.

    Raises:
        UserError: not there, or without a frame.
    """
    if not path.exists():
        raise UserError(f"there is no video or folder of images {path}")
    frames = len(image_files(path)) if path.is_dir() else _count(path)
    if frames < 2:
        raise UserError(f"{path} has {frames} frame(s) that can be decoded; tracking needs at least 2")
    truth = np.full((frames, 4), np.nan)
    truth[0] = box
    return VideoSequence(path.stem, path, truth, scorable=False)


def evaluated(results: Path, sequences: Sequence[VideoSequence], dataset: str) -> dict[str, TrackRun]:
    """The tracks of an evaluation run (``sttrack-eval --out``, or another tracker's files), by sequence.

    Raises:
        UserError: no results there, or unreadable ones.
        UsageError: the folder holds several trackers.
    """
    found = find_results(results, list(sequences), dataset)
    if len(found) > 1:
        raise UsageError(
            f"{results} holds {len(found)} trackers; name the folder of one: "
            f"{', '.join(str(folder) for folder, _ in found.values())}"
        )
    ((folder, layout),) = found.values()
    return {s.name: read_run(folder, layout, s) for s in sequences if layout.has(folder, s)}


def source_hash(path: Path) -> str:
    """SHA-256 of a video; of a folder, that of a listing of its images' names and hashes."""
    if not path.is_dir():
        return sha256_of(path)
    listing = "".join(f"{sha256_of(image)}  {image.name}\n" for image in image_files(path))
    return hashlib.sha256(listing.encode()).hexdigest()


def boxes_hash(sequence: VideoSequence) -> str:
    """SHA-256 of a sequence's boxes as little-endian float64."""
    return hashlib.sha256(np.ascontiguousarray(sequence.truth, "<f8").tobytes()).hexdigest()


def _count(path: Path) -> int:
    with open_video(path) as reader:
        return reader.count()
