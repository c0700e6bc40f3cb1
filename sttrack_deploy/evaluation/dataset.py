"""Annotated sequences to measure on, and the reader of the plain folder of videos."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UserError
from sttrack_deploy.runtime.source import natural_key

__all__ = ["DATASETS", "Sequence", "frames_of", "read_folder", "select"]

FloatArray = npt.NDArray[np.float64]
Frame = npt.NDArray[np.uint8]

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg"})
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True, slots=True)
class Sequence:
    """One annotated sequence.

    Attributes:
        name: unique in its data set; results are filed under it.
        source: a video file, or a folder of images in the order of their names.
        truth: x, y, w, h in pixels, float64 ``(N, 4)``; NaN rows where the target is absent.
        attributes: what is difficult in it, in the data set's own words.
    """

    name: str
    source: Path
    truth: FloatArray
    attributes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.truth)


def select(sequences: list[Sequence], pattern: str | None) -> list[Sequence]:
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


def frames_of(sequence: Sequence) -> Iterator[Frame]:
    """The frames, BGR uint8 ``(height, width, 3)``, decoded one at a time.

    Not by :func:`sttrack_deploy.runtime.source.open_source`: its thread, decoding ahead, would compete with
    the tracker that is being timed.

    Raises:
        UserError: unreadable, or (found at the end) not as many frames as the truth has lines.
    """
    found = 0
    for frame in _images(sequence.source) if sequence.source.is_dir() else _video(sequence.source):
        found += 1
        if found <= len(sequence):
            yield frame
    if found != len(sequence):
        raise UserError(
            f"{sequence.source} has {found} frames, but its ground truth has {len(sequence)} lines; "
            "there must be one line a frame"
        )


def _video(path: Path) -> Iterator[Frame]:
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise UserError(f"cannot open the video {path}; is it complete, and its codec known to OpenCV?")
        while True:
            more, frame = capture.read()
            if not more:
                return
            yield np.asarray(frame, np.uint8)
    finally:
        capture.release()


def _images(folder: Path) -> Iterator[Frame]:
    for path in _image_files(folder):
        frame = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if frame is None:
            raise UserError(f"cannot read the image {path}; is it complete?")
        yield np.asarray(frame, np.uint8)


def _image_files(folder: Path) -> list[Path]:
    files = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not _hidden(p)]
    return sorted(files, key=lambda file: natural_key(file.name))


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")


def read_folder(root: Path) -> list[Sequence]:
    """The sequences of a plain folder, sorted by name.

    A sequence is ``<name>.txt`` beside a video ``<name>.mp4`` (or another kind) or a folder ``<name>/`` of
    images. The text has one line ``x,y,w,h`` a frame, ``nan,nan,nan,nan`` where the target is absent.
    Hidden files, other files, and videos without a text are left aside. No frame is decoded here.

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
        if _hidden(path):
            continue
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
            sources.setdefault(path.stem, []).append(path)
        elif path.is_dir() and _image_files(path):
            sources.setdefault(path.name, []).append(path)
    sequences = []
    for text in sorted(p for p in root.glob("*.txt") if not _hidden(p)):
        found = sources.get(text.stem, [])
        if len(found) != 1:
            problem = (
                f"both {found[0].name} and {found[1].name} belong to {text}; keep one"
                if found
                else f"{text} has no video beside it: there is no {text.stem}.mp4 "
                f"(or {', '.join(sorted(VIDEO_SUFFIXES - {'.mp4'}))}) and no folder of images {text.stem}/"
            )
            raise UserError(problem)
        sequences.append(Sequence(text.stem, found[0], _read_truth(text)))
    if not sequences:
        videos = f"{len(sources)} videos but " if sources else ""
        raise UserError(f"{root} holds no sequence: {videos}no <name>.txt with one x,y,w,h line a frame")
    return sequences


def _read_truth(path: Path) -> FloatArray:
    """The boxes of a text, float64 ``(N, 4)``."""
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if not lines:
        raise UserError(f"{path} is empty; it needs one x,y,w,h line a frame")
    boxes = np.array([_read_line(line, f"{path}, line {n}") for n, line in enumerate(lines, 1)], np.float64)
    if not (boxes[0, 2:] > 0).all():
        raise UserError(f"{path}, line 1: tracking starts on this box, but it is {lines[0]!r}")
    return boxes


def _read_line(line: str, where: str) -> list[float]:
    columns = line.replace(",", " ").split()
    if len(columns) != 4:
        raise UserError(f"{where} has {len(columns)} columns instead of 4 (x,y,w,h): {line!r}")
    try:
        values = [float(column) for column in columns]
    except ValueError:
        raise UserError(f"{where} is not four numbers x,y,w,h: {line!r}") from None
    finite = [math.isfinite(value) for value in values]
    if not (all(finite) or all(math.isnan(value) for value in values)):
        raise UserError(f"{where} must be four finite numbers, or nan,nan,nan,nan where absent: {line!r}")
    return values


DATASETS: dict[str, Callable[[Path], list[Sequence]]] = {"folder": read_folder}
"""Readers by the name that ``--dataset`` takes."""
