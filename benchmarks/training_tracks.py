"""Tracks to choose settings on: annotated videos of a training set, held out by where they come from.

A folder holds ``<video>.mp4`` with ``<video>.txt``, or ``<video>__track<N>.txt`` where a video has several targets;
a line ``x,y,w,h`` a frame, ``nan,nan,nan,nan`` where nothing is known. ``MANIFEST.json``, where there is one, says
what repository a video comes from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UserError
from sttrack_deploy.sequences.datasets.base import parse_box, read_lines
from sttrack_deploy.sequences.sequence import frames_in, usable_truth

__all__ = ["TrainingTrack", "held_out", "read_track_text", "read_tracks"]

VIDEO = ".mp4"


@dataclass(frozen=True)
class TrainingTrack:
    """One target of one video, from the first frame on which it is known to the last.

    Attributes:
        repository: where the video comes from; its own name where nothing says.
        first: index in the video of the first row of ``truth``.
        truth: x, y, w, h in pixels, float64 ``(N, 4)``; NaN where nothing is known.
    """

    name: str
    video: Path
    repository: str
    first: int
    truth: npt.NDArray[np.float64]

    def frames(self) -> Iterator[npt.NDArray[np.uint8]]:
        """BGR uint8 ``(height, width, 3)``, one for each row of ``truth``."""
        for index, frame in enumerate(frames_in(self.video, single=True)):
            if index >= self.first + len(self.truth):
                return
            if index >= self.first:
                yield frame


def read_tracks(folders: Sequence[Path], longest: int = 10**9) -> list[TrainingTrack]:
    """Every track with at least ten known frames, sorted by folder and name.

    Args:
        longest: frames after which a track is cut off.

    Raises:
        UserError: a folder holds no track.
    """
    tracks = []
    for folder in folders:
        sources = _repositories(folder)
        found = [track for text in sorted(folder.glob("*.txt")) if (track := _track(text, sources, longest))]
        if not found:
            raise UserError(
                f"{folder} holds no track: no <video>.mp4 with <video>.txt or <video>__track1.txt"
            )
        tracks += found
    return tracks


def read_track_text(path: Path) -> npt.NDArray[np.float64]:
    """The boxes of an annotation text, NaN where nothing is known, the first frame included ``(N, 4)``.

    Raises:
        UserError: unreadable or malformed.
    """
    lines = read_lines(path)
    return np.array([parse_box(line, f"{path}, line {n}") for n, line in enumerate(lines, 1)]).reshape(-1, 4)


def held_out(repository: str, share: float) -> bool:
    """Whether a repository is among those held out; the same ones in every run, and more with a larger share."""
    digest = hashlib.blake2b(repository.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") < share * 2**32


def _track(text: Path, sources: dict[str, str], longest: int) -> TrainingTrack | None:
    stem = text.stem.partition("__track")[0]
    video = text.with_name(stem + VIDEO)
    if not video.is_file():
        return None
    truth = read_track_text(text)
    known = np.flatnonzero(usable_truth(truth))
    if len(known) < 10:
        return None
    first, last = int(known[0]), int(known[-1])
    return TrainingTrack(text.stem, video, sources.get(stem, stem), first, truth[first : last + 1][:longest])


def _repositories(folder: Path) -> dict[str, str]:
    """The repository of each video, as the folder's manifest says."""
    path = folder / "MANIFEST.json"
    if not path.is_file():
        return {}
    document: Any = json.loads(path.read_text(encoding="utf-8"))
    clips = document if isinstance(document, list) else document.get("clips", document.get("items", []))
    return {
        Path(clip.get("video", clip.get("name", ""))).stem: str(clip.get("repository") or clip.get("source"))
        for clip in clips
    }
