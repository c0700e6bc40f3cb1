"""Annotated sequences as training sees them: boxes and states at hand, frames read one by one.

All annotations of a data set are in one file that is mapped into memory. Reading 30,000 annotation texts takes
minutes; mapping what was read takes no time, and the processes of one machine share it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UserError
from sttrack_deploy.files import atomic_path
from sttrack_deploy.sequences.sequence import Numbering

__all__ = [
    "HIDDEN",
    "UNUSABLE",
    "VISIBLE",
    "FrameFiles",
    "IndexedTracks",
    "TrackBank",
    "TrackIndex",
    "UnreadableImageError",
    "cached_index",
    "fingerprint",
    "make_index",
]


UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

MAGIC = b"STTRACKS"
VERSION = 1
ALIGNMENT = 64
READERS = 16  # threads; the time goes into waiting for a disk or a network
ARRAYS = ("names", "labels", "starts", "boxes", "states")


@dataclass(frozen=True, slots=True)
class TrackIndex:
    """``N`` sequences with ``F`` frames together.

    Attributes:
        names: bytes ``(N,)``, as the data set calls them.
        labels: bytes ``(N,)``, UTF-8: the folder of its images, or its image, relative to the set's folder.
        starts: int64 ``(N + 1,)``: the rows of sequence ``i`` are ``starts[i]`` to ``starts[i + 1]``.
        boxes: float32 ``(F, 4)`` x, y, w, h in pixels as published; 0 where none is known.
        states: uint8 ``(F,)``, see :mod:`.tracks`.
        lacking: what is not there, by name: why, and the missing file, if it is one.
    """

    names: npt.NDArray[np.bytes_]
    labels: npt.NDArray[np.bytes_]
    starts: IntArray
    boxes: FloatArray
    states: UInt8Array
    lacking: dict[str, tuple[str, str]]

    def __len__(self) -> int:
        return len(self.labels)

    def label(self, sequence: int) -> str:
        return bytes(self.labels[sequence]).decode()

    def rows(self, sequence: int) -> slice:
        return slice(int(self.starts[sequence]), int(self.starts[sequence + 1]))

    def count(self, state: int) -> IntArray:
        """How many frames of each sequence have a state; int64 ``(N,)``."""
        before = np.concatenate([[0], np.cumsum(self.states == state)])
        return np.asarray(before[self.starts[1:]] - before[self.starts[:-1]], np.int64)


def make_index(
    sequences: Iterable[tuple[str, str, FloatArray, UInt8Array]], lacking: dict[str, tuple[str, str]]
) -> TrackIndex:
    """An index of sequences: name, label, boxes ``(f, 4)``, states ``(f,)``."""
    names, labels, boxes, states = [], [], [], []
    for name, label, box, state in sequences:
        names.append(name.encode())
        labels.append(label.encode())
        boxes.append(box)
        states.append(state)
    starts = np.concatenate([[0], np.cumsum([len(box) for box in boxes])]).astype(np.int64)
    return TrackIndex(
        np.array(names, np.bytes_),
        np.array(labels, np.bytes_),
        starts,
        np.concatenate([np.empty((0, 4), np.float32), *boxes]),
        np.concatenate([np.empty(0, np.uint8), *states]),
        lacking,
    )


def cached_index(cache: Path | None, key: str, build: Callable[[], TrackIndex]) -> TrackIndex:
    """The index in a cache file; if it has another key, or what it lacks has come, built anew and written.

    Args:
        cache: ``None``: always build.
        key: whatever the index depends on.
    """
    if cache is None:
        return build()
    stored = _read(cache, key)
    if stored is not None and not any(path and Path(path).exists() for _, path in stored.lacking.values()):
        return stored
    index = build()
    # A folder that cannot be written costs time at the next start, and nothing else.
    with suppress(UserError):
        _write(cache, key, index)
        return _read(cache, key) or index
    return index


def fingerprint(files: Iterable[Path]) -> str:
    """A hash of the files' names, sizes and times of change; missing ones count as such."""

    def describe(file: Path) -> str:
        try:
            status = file.stat()
        except OSError:
            return f"{file} -"
        return f"{file} {status.st_size} {status.st_mtime_ns}"

    with ThreadPoolExecutor(READERS) as pool:
        text = "\n".join(pool.map(describe, files))
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _write(path: Path, key: str, index: TrackIndex) -> None:
    arrays = {name: np.ascontiguousarray(getattr(index, name)) for name in ARRAYS}
    offset, layout = 0, {}
    for name, array in arrays.items():
        layout[name] = (array.dtype.str, array.shape, offset)
        offset += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    header = json.dumps(
        {"version": VERSION, "key": key, "lacking": index.lacking, "arrays": layout, "size": offset}
    ).encode()
    begin = _begin(len(header))
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(MAGIC + len(header).to_bytes(8, "little") + header)
        for name, array in arrays.items():
            file.seek(begin + layout[name][2])
            file.write(array.tobytes())
        file.truncate(begin + offset)


def _read(path: Path, key: str) -> TrackIndex | None:
    """The index, its arrays mapped; ``None`` where there is none, another, or half of one."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
            length = int.from_bytes(start[8:], "little")
            header: Any = json.loads(file.read(length)) if start[:8] == MAGIC else {}
        begin = _begin(length)
        whole = path.stat().st_size
        if header.get("version") != VERSION or header["key"] != key or whole != begin + header["size"]:
            return None
        arrays = {
            name: _mapped(path, np.dtype(kind), tuple(shape), begin + offset)
            for name, (kind, shape, offset) in header["arrays"].items()
        }
        lacking = {name: (why, file) for name, (why, file) in header["lacking"].items()}
        return TrackIndex(lacking=lacking, **arrays)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _mapped(path: Path, kind: np.dtype[Any], shape: tuple[int, ...], offset: int) -> npt.NDArray[Any]:
    if 0 in shape:  # nothing can be mapped
        return np.empty(shape, kind)
    return np.memmap(path, kind, "r", offset, shape)


def _begin(header: int) -> int:
    """Where the arrays begin, after a header of that many bytes."""
    return -(-(16 + header) // ALIGNMENT) * ALIGNMENT


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
