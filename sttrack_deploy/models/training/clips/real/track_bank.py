"""Annotated sequences as training sees them: boxes and states at hand, frames read one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.training.clips.real.track_index import TrackIndex
from sttrack_deploy.sequences.sequence import Numbering

__all__ = [
    "HIDDEN",
    "UNUSABLE",
    "VISIBLE",
    "FrameFiles",
    "IndexedTracks",
    "TrackBank",
    "UnreadableImageError",
]

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

UNUSABLE, VISIBLE, HIDDEN = 0, 1, 2
"""States of a frame: nothing is known of the target; its box is right; it is flagged as not to be seen."""


class UnreadableImageError(UserError):
    """A frame that is missing or damaged."""


class TrackBank(Protocol):
    """``N`` annotated targets. Reading is safe from several threads."""

    @property
    def title(self) -> str:
        """What they are, for messages."""
        ...

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """``(N,)``: how often each is used, relatively."""
        ...

    @property
    def visible(self) -> IntArray:
        """``(N,)``: how many of its frames show the target."""
        ...

    @property
    def hidden(self) -> IntArray:
        """``(N,)``: how many of its frames are flagged as not showing it."""
        ...

    @property
    def still(self) -> bool:
        """Each is one image."""
        ...

    def states(self, track: int) -> UInt8Array:
        """``(F,)`` of ``UNUSABLE``, ``VISIBLE``, ``HIDDEN``."""
        ...

    def boxes(self, track: int) -> FloatArray:
        """``(F, 4)`` x, y, w, h in pixels; meaningless where not visible."""
        ...

    def read(self, track: int, frame: int) -> UInt8Array:
        """One frame, BGR.

        Raises:
            UnreadableImageError: it cannot be read; the text names it.
        """
        ...


@dataclass(frozen=True, slots=True)
class FrameFiles:
    """Where the frames of an index's sequences lie.

    Attributes:
        root: the labels of the index are relative to it.
        numbering: of the images in a sequence's folder; ``None``: each label is an image.
    """

    root: Path
    numbering: Numbering | None = None

    def path(self, label: str, frame: int) -> Path:
        if self.numbering is None:
            return self.root / label
        return self.root / label / (self.numbering.pattern % (self.numbering.first + frame))


class IndexedTracks:
    """A :class:`TrackBank` over an index, or over some of its sequences; images are read from disk when asked."""

    def __init__(self, title: str, index: TrackIndex, files: FrameFiles, chosen: Sequence[int] | IntArray):
        self.title = title
        self.index = index
        self.files = files
        self.chosen = np.asarray(chosen, np.int64)
        self.still = files.numbering is None
        self.weights = np.ones(len(self.chosen))
        self.visible = index.count(VISIBLE)[self.chosen]
        self.hidden = index.count(HIDDEN)[self.chosen]

    def __len__(self) -> int:
        return len(self.chosen)

    def those(self, tracks: Sequence[int]) -> IndexedTracks:
        """Some of the tracks."""
        return IndexedTracks(self.title, self.index, self.files, self.chosen[np.asarray(tracks, np.int64)])

    def label(self, track: int) -> str:
        """Its folder, or image, relative to the set's own folder."""
        return self.index.label(int(self.chosen[track]))

    def states(self, track: int) -> UInt8Array:
        return self.index.states[self.index.rows(int(self.chosen[track]))]

    def boxes(self, track: int) -> FloatArray:
        return self.index.boxes[self.index.rows(int(self.chosen[track]))]

    def read(self, track: int, frame: int) -> UInt8Array:
        path = self.files.path(self.label(track), frame)
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            problem = "it is damaged" if path.is_file() else "there is no such file"
            raise UnreadableImageError(f"{self.title}: cannot read the image {path}: {problem}")
        return np.asarray(image, np.uint8)
