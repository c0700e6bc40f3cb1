"""Annotated videos in memory: ``<name>.mp4`` with ``<name>.txt``, or several ``<name>__trackN.txt``.

Instead of a video there may be a folder ``<name>/`` of images. A line of the text file is ``x,y,w,h`` in pixels
for one frame; ``nan`` there means absent *or lost*, so such frames are never shown (they are no proof of absence).
"""

from __future__ import annotations

import zlib
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.training.clips.real.track_bank import VISIBLE, UnreadableImageError
from sttrack_deploy.models.training.clips.synthetic.image_bank import Split
from sttrack_deploy.sequences.datasets.base import parse_box, read_lines
from sttrack_deploy.video.file_types import VIDEO_SUFFIXES
from sttrack_deploy.video.image_folder import image_files
from sttrack_deploy.video.reader import open_video

__all__ = ["HELD_OUT", "MemoryTracks", "Track", "load_tracks"]

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

HELD_OUT = (
    "mot_pets_s3mf1_track7",
    "mot_tud_campus_track7",
    "segtrackv2_bmx_bike",
    "intel_car_detection__track2",
)
UNRELIABLE = (
    "mot_tud_campus_track2",  # its boxes go on while the person is hidden
    "intel_one_by_one_person__track3",  # in part on a chair that the person moved
)
HELD_OUT_PERCENT = 10  # of the videos, where none of the named tracks is
JPEG_QUALITY = 95


@dataclass(frozen=True, slots=True)
class Track:
    """The annotated frames of one target.

    Attributes:
        name: the text file's stem.
        frames: image files' data (of a video's frames: JPEG), shared between the tracks of one video.
        number: which of the video's frames they are.
        boxes: float64 ``(F, 4)`` x, y, w, h in pixels, all finite.
    """

    name: str
    frames: tuple[UInt8Array, ...]
    number: tuple[int, ...]
    boxes: FloatArray

    @property
    def video(self) -> str:
        """The video's name; tracks of one video share it."""
        return self.name.partition("__track")[0]


class MemoryTracks:
    """A :class:`~sttrack_deploy.models.training.clips.real.track_bank.TrackBank` over tracks in memory."""

    title = "the annotated videos"
    still = False

    def __init__(self, tracks: Sequence[Track]) -> None:
        self.tracks = tuple(tracks)
        self.visible = np.array([len(track.frames) for track in self.tracks], np.int64)
        self.hidden = np.zeros_like(self.visible)
        # Long tracks count for more, but not in proportion: their frames resemble one another.
        self.weights = np.sqrt(self.visible)

    def states(self, track: int) -> UInt8Array:
        return np.full(len(self.tracks[track].frames), VISIBLE, np.uint8)

    def boxes(self, track: int) -> npt.NDArray[np.float32]:
        return self.tracks[track].boxes.astype(np.float32)

    def read(self, track: int, frame: int) -> UInt8Array:
        picture = cv2.imdecode(self.tracks[track].frames[frame], cv2.IMREAD_COLOR)
        if picture is None:
            one = self.tracks[track]
            raise UnreadableImageError(f"frame {one.number[frame] + 1} of {one.name} is damaged")
        return np.asarray(picture, np.uint8)


def load_tracks(
    folders: Sequence[Path],
    split: Split = "train",
    *,
    held_out: Sequence[str] = HELD_OUT,
    excluded: Sequence[str] = UNRELIABLE,
) -> list[Track]:
    """Read the annotated videos of some folders into memory, as JPEG (about 60 KB a frame).

    Args:
        folders: each holds videos, or folders of images, with their ``.txt`` files; others are passed over.
        split: ``'val'`` reads the held-out tracks, ``'train'`` all others.
        held_out: names of tracks. If none of them is there, a tenth of the videos, at least one, is held out,
            chosen by a hash of their names.
        excluded: names of tracks that are in neither split.

    Raises:
        UserError: a folder or all tracks are missing, or a file cannot be read.
    """
    found: dict[Path, list[Path]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"the video folder {folder} does not exist")
        annotations = [text for text in sorted(folder.glob("*.txt")) if text.stem not in excluded]
        for video in sorted(folder.iterdir()):
            if video.name.startswith(".") or not (video.suffix.lower() in VIDEO_SUFFIXES or video.is_dir()):
                continue
            name = video.name if video.is_dir() else video.stem
            if texts := [text for text in annotations if _belongs(text.stem, name)]:
                found[video] = texts
    kept = _held_out(found, held_out)
    tracks: list[Track] = []
    for video, texts in found.items():
        if texts := [text for text in texts if (text in kept) == (split == "val")]:
            tracks += _read_video(video, texts)
    if not tracks:
        where = ", ".join(map(str, folders))
        if len(found) == 1:
            raise UserError(
                f"{where} has one annotated video; training needs two, one of them to hold out, "
                "or held-out clips of something else ([data.held_out] in the recipe)"
            )
        raise UserError(
            f"no annotated video for the split '{split}' in {where}: "
            "each <name>.mp4 needs a <name>.txt with x,y,w,h a line"
        )
    return tracks


def _held_out(found: dict[Path, list[Path]], named: Sequence[str]) -> set[Path]:
    """The texts of the tracks that are held out."""
    chosen = {text for texts in found.values() for text in texts if text.stem in named}
    if chosen or len(found) < 2:
        return chosen
    shuffled = sorted(found, key=lambda video: zlib.crc32(video.name.encode()))
    count = max(1, len(found) * HELD_OUT_PERCENT // 100)
    return {text for video in shuffled[:count] for text in found[video]}


def _belongs(text: str, video: str) -> bool:
    return text == video or text.startswith(f"{video}__track")


def _read_video(video: Path, texts: list[Path]) -> list[Track]:
    """The tracks of one video; only frames that some track has a box in are kept."""
    boxes = {path: _read_boxes(path) for path in texts}
    length = max(len(b) for b in boxes.values())
    with closing(_images(video) if video.is_dir() else _decoded(video)) as pictures:
        stored: dict[int, UInt8Array] = {}
        valid: dict[Path, BoolArray] = {}
        index = -1
        for index, (picture, data) in enumerate(pictures):
            if index == 0:
                size = (float(picture.shape[1]), float(picture.shape[0]))
                valid = {path: _usable(b, size) for path, b in boxes.items()}
            if index >= length:
                break
            if any(index < len(v) and bool(v[index]) for v in valid.values()):
                stored[index] = data if data is not None else _encoded(picture)
    if index < 0:
        raise UserError(f"the video {video} cannot be read")
    if index + 1 < length:
        raise UserError(
            f"{video} has {index + 1} frames but {texts[0]} has {length} lines; they must be one a frame"
        )
    tracks = []
    for path in texts:
        number = [int(i) for i in np.flatnonzero(valid[path])]
        if len(number) >= 2:
            frames = tuple(stored[i] for i in number)
            tracks.append(Track(path.stem, frames, tuple(number), boxes[path][number]))
    return tracks


def _decoded(video: Path) -> Generator[tuple[UInt8Array, None], None, None]:
    with open_video(video) as reader:
        for frame in reader:
            yield frame.image, None


def _images(folder: Path) -> Generator[tuple[UInt8Array, UInt8Array], None, None]:
    for path in image_files(folder):
        data = np.frombuffer(path.read_bytes(), np.uint8)
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
        if picture is None:
            raise UserError(f"cannot read the image {path}: it is damaged")
        yield np.asarray(picture, np.uint8), data


def _encoded(picture: UInt8Array) -> UInt8Array:
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return np.asarray(data, np.uint8)


def _usable(boxes: FloatArray, size: tuple[float, float]) -> BoolArray:
    """Which of the boxes ``(lines, 4)`` show the target: bool ``(lines,)``.

    A target that is just coming into the frame leaves a sliver at its edge, which shows nothing to learn from.
    """
    width, height = size
    known = np.asarray(np.isfinite(boxes).all(1), np.bool_)
    filled = np.where(known[:, None], boxes, 0.0)
    x, y, w, h = filled.T
    touches = (x < 3) | (y < 3) | (x + w > width - 3) | (y + h > height - 3)
    area = w * h
    usual = float(np.median(area[known])) if known.any() else 0.0
    return np.asarray(known & (w > 2) & (h > 2) & ~(touches & (area < 0.6 * usual)), np.bool_)


def _read_boxes(path: Path) -> FloatArray:
    """float64 ``(lines, 4)``; NaN where nothing is known."""
    boxes = [parse_box(line, f"{path}, line {number}") for number, line in enumerate(read_lines(path), 1)]
    if not boxes:
        raise UserError(f"{path} is empty; it needs one x,y,w,h line a frame")
    return np.array(boxes, np.float64)
