"""Pictures of the frames of a sequence that tell most about how it went wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UserError
from sttrack_deploy.evaluation.comparison import Comparison
from sttrack_deploy.evaluation.confidence import BAD_IOU, GOOD_IOU
from sttrack_deploy.evaluation.scores import SequenceReport
from sttrack_deploy.plotting import tracker_style
from sttrack_deploy.sequences.sequence import Frame, VideoSequence, frames_of

__all__ = ["KeyFrame", "Said", "Strip", "Tile", "find_key_frames", "picture_strip", "stretches"]


BoolArray = npt.NDArray[np.bool_]

STAYS = 5
"""Frames that the IoU stays low for a failure to be one, and not a slip."""
SURE = 0.5
"""Confidence from which on a wrong frame is a confident one."""


@dataclass(frozen=True, slots=True)
class KeyFrame:
    """A frame worth looking at.

    Attributes:
        frame: 0-based.
        reason: why, in a few words.
    """

    frame: int
    reason: str


def find_key_frames(report: SequenceReport, count: int = 5) -> tuple[KeyFrame, ...]:
    """The frames of a run that say most, in order: around the first failure, the longest one, and confident errors.

    Returns:
        ``count`` of them, or all that there are; the first frame, which the tracker was given, only for want
        of others.
    """
    chosen: dict[int, str] = {}
    for frame, reason, apart in _candidates(report, count):
        if len(chosen) == count:
            break
        if all(abs(frame - other) >= apart for other in chosen):
            chosen[frame] = reason
    return tuple(KeyFrame(frame, chosen[frame]) for frame in sorted(chosen))


def stretches(flags: BoolArray) -> list[tuple[int, int]]:
    """Runs of True: their first index, and the first after them."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(np.int8), [0]))))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _candidates(report: SequenceReport, count: int) -> Iterator[tuple[int, str, int]]:
    """Frames with a reason and the least distance to those taken before; the most telling first."""
    frames, tracked = report.frames, np.arange(report.frames) > 0
    present = report.present & tracked
    # Absent frames are neither good nor missed.
    overlap = np.where(present, report.overlap, (BAD_IOU + GOOD_IOU) / 2)
    missed, good = overlap < BAD_IOU, overlap > GOOD_IOU
    good[0] = True
    failures = [run for run in stretches(missed) if run[1] - run[0] >= STAYS] or stretches(missed)
    apart = max(1, frames // 40)  # neighbors look alike in a long sequence
    if failures:
        start = failures[0][0]
        yield start, "fails here", 1
        # Not the very frame before it, which looks the same.
        yield int(np.flatnonzero(good[: max(1, start - 2)])[-1]), "before it fails", 1
    yield from _confident_error(report, missed, tracked & ~present, apart)
    if failures:
        begin, end = max(failures, key=lambda run: run[1] - run[0])
        length = f"{end - begin} frame{'s' if end - begin > 1 else ''}"
        yield (begin + end) // 2, f"longest failure: {length}", apart
        if good[start:].any():
            yield start + int(np.argmax(good[start:])), "good again", apart
    gone = stretches(tracked & ~present)
    if gone:
        begin, end = max(gone, key=lambda run: run[1] - run[0])
        yield (begin + end) // 2, "target absent", apart
    lowest = np.argsort(np.where(present, overlap, np.inf), kind="stable")[: int(present.sum())]
    # The same frames once more in case that the first pass, which keeps them well apart, is not enough.
    for distance in (max(apart, frames // (2 * count)), 1):
        yield from ((frame, "lowest IoU", distance) for frame in lowest.tolist())
    yield from ((frame, "target absent", 1) for frame in np.flatnonzero(tracked & ~present).tolist())
    yield 0, "first frame", 1


def _confident_error(
    report: SequenceReport, missed: BoolArray, absent: BoolArray, apart: int
) -> Iterator[tuple[int, str, int]]:
    """The most confident wrong frame, if a tracker that is sure of itself said it."""
    if report.run.confidences is None:
        return
    wrong = missed | absent
    if report.run.lost is not None:
        wrong &= ~report.run.lost
    confidence = np.where(wrong, np.nan_to_num(report.run.confidences), -1.0)
    frame = int(np.argmax(confidence))
    if confidence[frame] >= SURE:
        yield frame, "sure, but the target is absent" if absent[frame] else "sure, but wrong", apart


FloatArray = npt.NDArray[np.float64]
Color = tuple[int, int, int]
Image = npt.NDArray[np.uint8]

_TRUTH: Color = (70, 220, 60)  # BGR
_BACK: Color = (38, 32, 27)
_TEXT: Color = (236, 232, 228)
_DARK: Color = (20, 20, 20)
_ASPECT = 4 / 3
_FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True, slots=True)
class Said:
    """What one tracker said in one frame.

    Attributes:
        index: of the tracker in the comparison.
        overlap: IoU with the truth; NaN where the target is absent.
        confidence: ``None`` where it is not known.
        outside: the box lies outside the frame, and so cannot be seen.
    """

    index: int
    label: str
    overlap: float
    confidence: float | None
    lost: bool
    outside: bool = False

    def __str__(self) -> str:
        parts = [f"IoU {self.overlap:.2f}" if np.isfinite(self.overlap) else "no target"]
        parts += [] if self.confidence is None else [f"confidence {self.confidence:.2f}"]
        parts += ["lost"] if self.lost else []
        parts += ["box outside"] if self.outside else []
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Tile:
    """One frame's picture, with the boxes drawn into it.

    Attributes:
        picture: BGR uint8 ``(height, width, 3)``.
    """

    key: KeyFrame
    said: tuple[Said, ...]
    picture: Image = field(repr=False)

    @property
    def alt(self) -> str:
        """What the picture shows, in words."""
        said = "; ".join(f"{each.label}: {each}" for each in self.said)
        return f"frame {self.key.frame}, {self.key.reason}. {said}"

    def jpeg(self) -> bytes:
        """The picture alone."""
        return _jpeg(self.picture)


@dataclass(frozen=True, slots=True)
class Strip:
    """Frames of one sequence, in order.

    Attributes:
        focus: the tracker that they were chosen for, by its index in the comparison.
    """

    name: str
    focus: int
    tiles: tuple[Tile, ...]

    @property
    def alt(self) -> str:
        return f"{self.name}: " + " ".join(f"{tile.alt}." for tile in self.tiles)

    def jpeg(self) -> bytes:
        """One picture: the frames side by side, under each what every tracker said."""
        return _jpeg(np.hstack([_captioned(tile) for tile in self.tiles]))


def picture_strip(comparison: Comparison, name: str, *, count: int = 5, width: int = 320) -> Strip:
    """The most telling frames of one sequence, with the truth in green and each tracker's box in its color.

    They are chosen for the tracker with the lowest mean IoU in that sequence. A dashed box was called lost.

    Args:
        count: frames at most.
        width: of each picture in pixels; the height is three quarters of it.

    Raises:
        UserError: the frames cannot be read.
        KeyError: the sequence is not common to all trackers.
    """
    reports = comparison.sequence(name)
    focus = min(range(len(reports)), key=lambda index: _mean_overlap(reports[index]))
    chosen = find_key_frames(reports[focus], count)
    frames = _decoded(reports[0].sequence, [key.frame for key in chosen])
    tiles = []
    for key, frame in zip(chosen, frames, strict=True):
        said = [
            _said(index, label, report, key.frame, frame.shape[:2])
            for index, (label, report) in enumerate(zip(comparison.labels, reports, strict=True))
        ]
        truth = reports[0].sequence.truth[key.frame]
        boxes = [report.run.boxes[key.frame] for report in reports]
        tiles.append(Tile(key, tuple(said), _picture(frame, truth, boxes, said, width)))
    return Strip(name, focus, tuple(tiles))


def _mean_overlap(report: SequenceReport) -> float:
    """Over the frames that have the target; 1, and so never the lowest, where none has."""
    return float(report.overlap[report.present].mean()) if report.present.any() else 1.0


def _said(index: int, label: str, report: SequenceReport, frame: int, size: tuple[int, ...]) -> Said:
    run, (height, width) = report.run, size
    x, y, w, h = run.boxes[frame].tolist()
    return Said(
        index=index,
        label=label,
        overlap=float(report.overlap[frame]),
        confidence=None if run.confidences is None else float(run.confidences[frame]),
        lost=run.lost is not None and bool(run.lost[frame]),
        outside=x >= width or y >= height or x + w <= 0 or y + h <= 0,
    )


def _decoded(sequence: VideoSequence, wanted: list[int]) -> list[Frame]:
    """The frames with these ascending numbers, in one pass that ends with the last of them.

    Raises:
        UserError: they cannot be read, or there are not so many.
    """
    frames: list[Frame] = []
    left = set(wanted)
    with contextlib.closing(cast(Generator[Frame, None, None], frames_of(sequence))) as decoded:
        for index, frame in enumerate(decoded):
            if index in left:
                frames.append(frame)
                left.remove(index)
            if not left:
                break
    if left:
        raise UserError(f"{sequence.source} has no frame {min(left)}, but its ground truth has")
    return frames


def _picture(frame: Frame, truth: FloatArray, boxes: list[FloatArray], said: list[Said], width: int) -> Image:
    """The part of the frame around all boxes, ``width`` wide, with the boxes."""
    height = round(width / _ASPECT)
    known = np.array([box for box in (truth, *boxes) if np.isfinite(box).all()])
    x, y, window = _window(known, frame.shape[1], frame.shape[0])
    scale = width / window
    picture = np.full((height, width, 3), _BACK, np.uint8)
    # The window reaches over the frame's edge only where the frame is narrower or lower than it.
    left, top = max(0, round(x)), max(0, round(y))
    part = frame[top : round(y + window / _ASPECT), left : round(x + window)]
    size = max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    scaled = cv2.resize(part, size, interpolation=method)
    at_x, at_y = max(0, round((left - x) * scale)), max(0, round((top - y) * scale))
    scaled = scaled[: height - at_y, : width - at_x]
    picture[at_y : at_y + scaled.shape[0], at_x : at_x + scaled.shape[1]] = scaled
    moved = np.array([x, y, 0.0, 0.0])
    drawn = [((truth - moved) * scale, _TRUTH, 3, False)] if np.isfinite(truth).all() else []
    for box, each in zip(boxes, said, strict=True):
        drawn.append(((box - moved) * scale, tracker_style(each.index).bgr, 2, each.lost))
    # The dark edges first: those of a box close to the truth would cover it.
    for placed, _, line, dashed in drawn:
        _draw_box(picture, placed, _DARK, line + 2, dashed=dashed)
    for placed, color, line, dashed in drawn:
        _draw_box(picture, placed, color, line, dashed=dashed)
    return picture


def _window(boxes: FloatArray, width: int, height: int) -> tuple[float, float, float]:
    """Left, top and width, in pixels, of the part of a frame to show: the boxes ``(K, 4)`` and what is around.

    Its height follows from the aspect. It lies inside the frame, or covers it where it is larger.
    """
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]) if len(boxes) else np.zeros((2, 2))
    corners = np.clip(corners, 0, [width, height])
    (x1, y1), (x2, y2) = corners.min(axis=0), corners.max(axis=0)
    whole = max(width, height * _ASPECT)
    window = min(whole, max(1.6 * (x2 - x1), 1.6 * (y2 - y1) * _ASPECT, 0.4 * whole))
    x, y = (x1 + x2 - window) / 2, (y1 + y2 - window / _ASPECT) / 2
    return _inside(x, window, width), _inside(y, window / _ASPECT, height), window


def _inside(start: float, length: float, limit: float) -> float:
    """``start`` moved so that the stretch lies within 0 and ``limit``, or in the middle where it is longer."""
    return (limit - length) / 2 if length >= limit else min(max(0.0, start), limit - length)


def _draw_box(picture: Image, box: FloatArray, color: Color, line: int, *, dashed: bool) -> None:
    """A box x, y, w, h in the picture's pixels; parts outside are left out."""
    height, width = picture.shape[:2]
    # OpenCV's drawing overflows far out.
    (x1, y1), (x2, y2) = (
        np.clip(np.round(corner), [-width, -height], [2 * width, 2 * height]).astype(int).tolist()
        for corner in (box[:2], box[:2] + box[2:])
    )
    corners = ((x1, y1), (x2, y1), (x2, y2), (x1, y2))
    for start, end in zip(corners, (*corners[1:], corners[0]), strict=True):
        for a, b in _dashes(start, end) if dashed else [(start, end)]:
            cv2.line(picture, a, b, color, line, cv2.LINE_AA)


def _dashes(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """A line from corner to corner in pieces, with a piece at either end."""
    length = max(abs(end[0] - start[0]), abs(end[1] - start[1]))
    pieces = 2 * (length // 14) + 1
    points = [
        (
            start[0] + (end[0] - start[0]) * step // pieces,
            start[1] + (end[1] - start[1]) * step // pieces,
        )
        for step in range(pieces + 1)
    ]
    return [(points[step], points[step + 1]) for step in range(0, pieces, 2)]


def _captioned(tile: Tile) -> Image:
    """The picture above a line for the frame and one for each tracker, and a margin around."""
    step, margin = 17, 4
    width = tile.picture.shape[1]
    caption = np.full((step * (1 + len(tile.said)) + 8, width, 3), _BACK, np.uint8)
    _write(caption, f"frame {tile.key.frame}: {tile.key.reason}", 2, step)
    for row, each in enumerate(tile.said, 2):
        middle = row * step - 5
        cv2.line(caption, (2, middle), (14, middle), tracker_style(each.index).bgr, 3)
        _write(caption, f"{_cut(each.label, 16)}  {each}", 20, row * step)
    whole = np.vstack([tile.picture, caption])
    return cv2.copyMakeBorder(whole, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=_BACK).astype(
        np.uint8
    )


def _write(image: Image, text: str, left: int, bottom: int) -> None:
    # OpenCV's own font has no other characters, and its width differs between versions.
    plain, size = text.encode("ascii", "replace").decode(), 0.38
    width = cv2.getTextSize(plain, _FONT, size, 1)[0][0]
    size *= min(1.0, (image.shape[1] - left - 2) / max(1, width))
    cv2.putText(image, plain, (left, bottom), _FONT, size, _TEXT, 1, cv2.LINE_AA)


def _cut(label: str, length: int) -> str:
    return label if len(label) <= length else f"{label[: length - 2]}.."


def _jpeg(image: Image) -> bytes:
    # Thin colored lines need their color at full resolution.
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        82,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    done, data = cv2.imencode(".jpg", image, options)
    assert done
    return bytes(data)
