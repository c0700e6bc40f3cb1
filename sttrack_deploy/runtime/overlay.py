"""Drawing results on frames: readable on any background and at any frame size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from sttrack_deploy.geometry import Box
from sttrack_deploy.runtime.results import FrameResult

__all__ = ["COLORS", "draw_outline", "draw_result", "draw_results", "draw_truth"]

Image = npt.NDArray[np.uint8]
Color = tuple[int, int, int]

FOUND: Color = (80, 220, 60)  # BGR
LOST: Color = (50, 50, 240)
TRUTH: Color = (255, 200, 60)
WHITE: Color = (255, 255, 255)
SHADE: Color = (20, 20, 20)
COLORS: tuple[Color, ...] = (
    (80, 220, 60),
    (255, 160, 40),
    (40, 200, 255),
    (230, 110, 240),
    (230, 230, 60),
    (60, 140, 255),
    (255, 110, 150),
    (170, 240, 200),
)
"""Several targets', BGR, told apart in color-blind eyes by their numbers; none is the red of a lost one."""
FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True, slots=True)
class _Style:
    """Sizes in pixels, for one frame height."""

    line: int
    text: float
    weight: int
    gap: int

    @classmethod
    def of(cls, image: Image) -> _Style:
        # The shorter side, so that an upright video's text still fits across it.
        size = min(image.shape[:2])
        return cls(
            max(1, round(0.6 + size / 280)),
            max(0.3, size / 780),
            2 if size >= 900 else 1,
            max(2, round(size / 90)),
        )


def draw_result(image: Image, result: FrameResult, fps: float | None = None) -> None:
    """Draw one result into ``image`` (BGR uint8, changed in place).

    The box with its confidence; the frame's number and ``fps`` in a corner; where the target is lost, a
    dashed red box (the best guess), a red border and a banner.
    """
    style = _Style.of(image)
    caption = _Caption.of(image, result, LOST if result.lost else FOUND, style)
    _draw_box(image, result.box, caption.color, style, dashed=result.lost)
    _draw_status(image, result.frame, fps, style, [caption])
    if result.lost:
        _draw_alarm(image, style)
    caption.draw(image, style)


def draw_results(
    image: Image,
    results: Sequence[FrameResult],
    fps: float | None = None,
    numbers: Sequence[int] | None = None,
) -> None:
    """Draw one frame's results into ``image`` (BGR uint8, changed in place).

    One target is drawn by :func:`draw_result`. Several have a color and a number each, from 1; a lost one's
    box is dashed and its label says so; the red border and the banner come when all are lost.

    Args:
        numbers: the targets' numbers, where some of several are not on this frame.
    """
    if len(results) == 1 and numbers is None:
        draw_result(image, results[0], fps)
        return
    if not results:
        return
    style = _Style.of(image)
    numbers = range(1, len(results) + 1) if numbers is None else numbers
    captions = [
        _Caption.of(image, result, COLORS[(number - 1) % len(COLORS)], style, f"{number}: ")
        for number, result in zip(numbers, results, strict=True)
    ]
    for result, caption in zip(results, captions, strict=True):
        _draw_box(image, result.box, caption.color, style, dashed=result.lost)
    _draw_status(image, results[0].frame, fps, style, captions)
    if all(result.lost for result in results):
        _draw_alarm(image, style)
    # Labels last: no box may cross one.
    for caption in captions:
        caption.draw(image, style)


def _draw_status(
    image: Image, frame: int, fps: float | None, style: _Style, captions: Sequence[_Caption]
) -> None:
    """The frame's number in the first corner that no target's label is in; top left where there is none."""
    status = f"frame {frame}" + ("" if fps is None else f"  {fps:.0f} fps")
    width, height = _label_size(status, style)
    right, bottom = image.shape[1] - width - style.gap, image.shape[0] - height - style.gap
    corners = [(style.gap, style.gap), (style.gap, bottom), (right, style.gap), (right, bottom)]
    free = (c for c in corners if not any(one.covers(c, (width, height)) for one in captions))
    _draw_label(image, status, next(free, corners[0]), SHADE, style)


def _draw_alarm(image: Image, style: _Style) -> None:
    """A red border and a banner."""
    height, width = image.shape[:2]
    edge = 2 * style.line
    cv2.rectangle(image, (0, 0), (width - 1, height - 1), LOST, edge)
    banner = _Style(style.line, 1.7 * style.text, style.weight + 1, 2 * style.gap)
    text_width = cv2.getTextSize("LOST", FONT, banner.text, banner.weight)[0][0]
    left = max(0, (width - text_width) // 2 - banner.gap)
    _draw_label(image, "LOST", (left, height), LOST, banner, lift=2 * edge)


@dataclass(frozen=True, slots=True)
class _Caption:
    """A box's label.

    Attributes:
        corner: its first pixel, x and y; size: its width and height.
    """

    text: str
    color: Color
    corner: tuple[int, int]
    size: tuple[int, int]

    @classmethod
    def of(cls, image: Image, result: FrameResult, color: Color, style: _Style, name: str = "") -> _Caption:
        """Outside the box where there is room."""
        x, y, _, h = result.box
        text = f"{name}{'lost ' if result.lost else ''}{result.confidence:.2f}"
        size = _label_size(text, style)
        above = y - size[1] - style.line
        # Above the box, below it where there is no room, inside it where there is neither.
        below_fits = y + h + style.line + size[1] <= image.shape[0]
        top = above if above >= 0 else y + h + style.line if below_fits else max(0.0, y)
        return cls(text, color, _inside(image, (round(x) - style.line // 2, round(top)), size), size)

    def covers(self, corner: tuple[int, int], size: tuple[int, int]) -> bool:
        """Whether it lies on any pixel of that rectangle."""
        return all(
            mine < other + length and other < mine + own
            for mine, own, other, length in zip(self.corner, self.size, corner, size, strict=True)
        )

    def draw(self, image: Image, style: _Style) -> None:
        _draw_label(image, self.text, self.corner, self.color, style)


def draw_outline(image: Image, box: Box, target: int) -> None:
    """Draw a box alone, in the color of the target of that number from 0 (changes ``image``)."""
    _draw_box(image, box, COLORS[target % len(COLORS)], _Style.of(image), dashed=False)


def draw_truth(image: Image, box: Sequence[float]) -> None:
    """Draw a ground-truth box (x, y, w, h in pixels) as labeled corners; nothing for a NaN box."""
    if not np.isfinite(np.asarray(box, np.float64)).all():
        return
    style = _Style.of(image)
    x1, y1, x2, y2 = _corners((box[0], box[1], box[2], box[3]), image)
    length = max(3, min(x2 - x1, y2 - y1) // 4)
    for x, dx in ((x1, length), (x2, -length)):
        for y, dy in ((y1, length), (y2, -length)):
            for ink, width in ((SHADE, style.line + 2), (TRUTH, style.line)):
                cv2.line(image, (x, y), (x + dx, y), ink, width)
                cv2.line(image, (x, y), (x, y + dy), ink, width)
    label_width = _label_size("truth", style)[0]
    _draw_label(image, "truth", (x2 - label_width, y2 + 2 * style.line), TRUTH, style)


def _corners(box: Box, image: Image) -> tuple[int, int, int, int]:
    """First and last pixel of a box, x1 y1 x2 y2, brought near the image: OpenCV's drawing overflows far out."""
    height, width = image.shape[:2]
    x, y, w, h = box
    x1, x2 = (int(np.clip(round(v), -width, 2 * width)) for v in (x, x + w - 1))
    y1, y2 = (int(np.clip(round(v), -height, 2 * height)) for v in (y, y + h - 1))
    return x1, y1, x2, y2


def _draw_box(image: Image, box: Box, color: Color, style: _Style, *, dashed: bool) -> None:
    x1, y1, x2, y2 = _corners(box, image)
    # A dark line on either side keeps it visible on a background of its own color.
    side = style.line // 2 + 1
    for shift in (-side, side):
        cv2.rectangle(image, (x1 + shift, y1 + shift), (x2 - shift, y2 - shift), SHADE, 1)
    if not dashed:
        cv2.rectangle(image, (x1, y1), (x2, y2), color, style.line)
        return
    dash = 4 * style.line + 2
    for x in range(x1, x2, 2 * dash):
        for y in (y1, y2):
            cv2.line(image, (x, y), (min(x + dash, x2), y), color, style.line)
    for y in range(y1, y2, 2 * dash):
        for x in (x1, x2):
            cv2.line(image, (x, y), (x, min(y + dash, y2)), color, style.line)


def _label_size(text: str, style: _Style) -> tuple[int, int]:
    (width, height), baseline = cv2.getTextSize(text, FONT, style.text, style.weight)
    return width + 2 * style.gap, height + baseline + style.gap


def _inside(image: Image, corner: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """``corner``, moved so that a rectangle of that size lies in the image."""
    left, top = (
        max(0, min(place, room - length))
        for place, room, length in zip(corner, (image.shape[1], image.shape[0]), size, strict=True)
    )
    return left, top


def _draw_label(
    image: Image, text: str, corner: tuple[int, int], back: Color, style: _Style, lift: int = 0
) -> None:
    """Text on a filled panel, its top left at ``corner``, moved inside the image, then ``lift`` pixels up."""
    width, height = _label_size(text, style)
    left, top = _inside(image, corner, (width, height + lift))
    image[top : top + height, left : left + width] = back
    ink = SHADE if back in (*COLORS, TRUTH) else WHITE
    baseline = cv2.getTextSize(text, FONT, style.text, style.weight)[1]
    origin = (left + style.gap, top + height - baseline - style.gap // 2)
    cv2.putText(image, text, origin, FONT, style.text, ink, style.weight, cv2.LINE_AA)
