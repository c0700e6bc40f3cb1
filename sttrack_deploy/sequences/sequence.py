"""One annotated sequence: where its frames are, what is true in them, and how to read them; and a track made in it."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UserError

__all__ = [
    "Numbering",
    "SequenceFailure",
    "TrackRun",
    "VideoSequence",
    "frames_in",
    "frames_of",
    "image_size",
    "select",
    "usable_truth",
]


FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Frame = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Numbering:
    """Images that are named by number, of which a sequence uses a run.

    Attributes:
        pattern: file name with one number in it, as ``%08d.jpg``.
        first: the first frame's number.
    """

    pattern: str
    first: int = 1


@dataclass(frozen=True, slots=True)
class VideoSequence:
    """One annotated sequence.

    Attributes:
        name: unique in its data set; results are filed under it.
        source: a video file, or a folder of images.
        truth: x, y, w, h in pixels as published, float64 ``(N, 4)``, N the number of frames; NaN rows where the
            target is absent or the box is not published. Some data sets have empty boxes there instead.
        numbering: of a folder that names its images by number; ``None``: all its images, in the order of
            their names.
        absent: bool ``(N,)``, where the data set flags the target as out of view; ``None``: it has no such
            flags (the truth may still have NaN rows).
        occluded: bool ``(N,)``, where it flags the target as fully covered; ``None``: no such flags.
        attributes: what is difficult in it, in the data set's own abbreviations.
        dataset: the data set's name in ``DATASETS``; protocols have rules of their own for some.
        scorable: False where only the first box is published (test sets that a server scores).
        filed_as: its name in the result files of a toolkit, by the layout's name, where that is another.
    """

    name: str
    source: Path
    truth: FloatArray
    numbering: Numbering | None = None
    absent: BoolArray | None = None
    occluded: BoolArray | None = None
    attributes: tuple[str, ...] = ()
    dataset: str = "folder"
    scorable: bool = True
    filed_as: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def visible(self) -> BoolArray | None:
        """Neither flagged absent nor flagged occluded, bool ``(N,)``; ``None`` where there are no flags."""
        if self.absent is None and self.occluded is None:
            return None
        hidden = np.zeros(len(self), np.bool_)
        for flags in (self.absent, self.occluded):
            hidden |= False if flags is None else flags
        return ~hidden


def usable_truth(truth: FloatArray) -> BoolArray:
    """Frames whose true box exists and has an area; bool ``(N,)``."""
    return np.asarray((truth[:, 2] > 0) & (truth[:, 3] > 0) & np.isfinite(truth).all(axis=1), np.bool_)


def select(sequences: list[VideoSequence], pattern: str | None) -> list[VideoSequence]:
    """Those whose name matches a glob, or one of several separated by commas.

    Raises:
        UserError: none does.
    """
    if pattern is None:
        return sequences
    globs = [glob.strip() for glob in pattern.split(",")]
    chosen = [s for s in sequences if any(fnmatch.fnmatchcase(s.name, glob) for glob in globs)]
    if not chosen:
        names = ", ".join(s.name for s in sequences[:5]) + (", …" if len(sequences) > 5 else "")
        raise UserError(f"no sequence matches {pattern!r}; there are {len(sequences)}: {names}")
    return chosen


def frames_of(sequence: VideoSequence) -> Iterator[Frame]:
    """The frames, BGR uint8 ``(height, width, 3)``, decoded one at a time.

    Not by :func:`sttrack_deploy.video.source.open_source`: its thread, decoding ahead, would compete with
    the tracker that is being timed.

    Raises:
        UserError: unreadable, or (found at the end) not as many frames as the truth has lines.
    """
    # Here: what only speaks of sequences starts without OpenCV and PyAV.
    from sttrack_deploy.video.image_folder import read_image

    if sequence.numbering is not None:
        for index in range(len(sequence)):
            yield read_image(_numbered(sequence.source, sequence.numbering, index))
        return
    found = 0
    for frame in frames_in(sequence.source):
        found += 1
        if found <= len(sequence):
            yield frame
    if found != len(sequence):
        raise UserError(
            f"{sequence.source} has {found} frames, but its ground truth has {len(sequence)} lines; "
            "there must be one line a frame"
        )


def image_size(sequence: VideoSequence) -> tuple[int, int]:
    """Width and height of the first frame, in pixels; decodes it.

    Raises:
        UserError: it cannot be read.
    """
    for frame in frames_of(sequence):
        return frame.shape[1], frame.shape[0]
    raise UserError(f"{sequence.source} has no frames")


def frames_in(source: Path, *, single: bool = False) -> Iterator[Frame]:
    """Every frame of a video file or a folder of images, BGR uint8, decoded as it is asked for.

    Args:
        single: keep a video's decoder to one thread; with more it works on later frames meanwhile.

    Raises:
        UserError: unreadable.
    """
    from sttrack_deploy.video.image_folder import image_files, read_image
    from sttrack_deploy.video.reader import open_video

    if source.is_dir():
        yield from (read_image(path) for path in image_files(source))
    else:
        with open_video(source, threads=1 if single else 0) as reader:
            for frame in reader:
                yield frame.image


def _numbered(folder: Path, numbering: Numbering, index: int) -> Path:
    return folder / (numbering.pattern % (numbering.first + index))


@dataclass(frozen=True, slots=True)
class TrackRun:
    """One track; frame 0 is the one that the tracker was started on.

    Result files of other trackers hold boxes, and the rest only sometimes.

    Attributes:
        boxes: x, y, w, h in pixels, float64 ``(N, 4)``; the first is the truth that it was given.
        confidences: float64 ``(N,)``, 0..1; the first is 1. ``None``: not known.
        lost: bool ``(N,)``; the first is False. ``None``: not known.
        times: seconds, float64 ``(N,)``: ``init`` for the first frame, ``update`` alone for the others.
            ``None``: not known.
        wall: seconds from opening the video to the last box: decoding, ``init`` and every ``update``; NaN: not
            known.
    """

    name: str
    boxes: FloatArray
    confidences: FloatArray | None = None
    lost: BoolArray | None = None
    times: FloatArray | None = None
    wall: float = float("nan")

    @property
    def fps(self) -> float:
        """Tracked frames (without the first) over the time in ``update``: cropping and inference, no decoding."""
        busy = 0.0 if self.times is None else float(self.times[1:].sum())
        return (len(self.boxes) - 1) / busy if busy > 0 else float("nan")

    @property
    def fps_end_to_end(self) -> float:
        """All frames over the wall time, decoding included."""
        return len(self.boxes) / self.wall if self.wall > 0 else float("nan")


@dataclass(frozen=True, slots=True)
class SequenceFailure:
    """A sequence that could not be run or scored, and why in one line."""

    name: str
    error: str
