"""What a decoded frame shows, and when: the image as it is displayed, and its time."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import cast

import cv2
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from sttrack_deploy.video.frames import Image

__all__ = ["DisplayedImage", "MediaClock", "usable_rate"]

JUMP_SECONDS = 1.0  # a step back of more is a new timeline (spliced recordings), of less a bad time stamp
MAX_ASPECT = 8.0  # a pixel is never this far from a square one but by damage


class DisplayedImage:
    """Turns decoded frames into BGR images as they are displayed.

    The display matrix (rotation by quarter turns, mirroring) and the pixels' aspect ratio are applied:
    the side that gets longer is scaled. Every image has the first one's size; a video that changes its
    size is scaled, and ``resized`` is set.
    """

    def __init__(self, aspect: Fraction | None = None) -> None:
        """``aspect``: a pixel's width over its height, from the container."""
        self.use_aspect(aspect)
        self._scaler = VideoReformatter()
        self._coded: tuple[int, int] | None = None
        self._size = (0, 0)
        self._turn: tuple[bool, bool, bool] = (False, False, False)
        self.resized = False

    def use_aspect(self, aspect: Fraction | None) -> None:
        """Set the pixels' aspect ratio; of use before the first frame only."""
        ratio = float(aspect or 1)
        self._aspect = ratio if 1 / MAX_ASPECT <= ratio <= MAX_ASPECT else 1.0

    def __call__(self, frame: VideoFrame) -> Image:
        """BGR uint8 ``(height, width, 3)`` of a decoded frame."""
        if self._coded is None:
            self._coded = (frame.width, frame.height)
            self._size = _square_pixels(frame.width, frame.height, self._aspect)
            self._turn = _turn(frame)
        elif (frame.width, frame.height) != self._coded:
            self.resized = True
        # The default filter: without scaling these are the values of OpenCV's decoder, bit for bit.
        # One thread: a pool for each frame costs ten times the conversion.
        scaled = self._scaler.reformat(frame, *self._size, format="bgr24", threads=1)
        image = np.asarray(scaled.to_ndarray(), np.uint8)
        transposed, mirrored, flipped = self._turn
        if transposed:
            image = np.asarray(cv2.transpose(image), np.uint8)
        if mirrored or flipped:
            code = -1 if mirrored and flipped else 1 if mirrored else 0
            image = np.asarray(cv2.flip(image, code), np.uint8)
        return image


def _square_pixels(width: int, height: int, aspect: float) -> tuple[int, int]:
    return (round(width * aspect), height) if aspect >= 1 else (width, round(height / aspect))


def _turn(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """Transpose, then mirror left-right, then flip upside down: what the display matrix asks for.

    The matrix maps x, y to a x + c y, b x + d y (ISO 14496-12, 6.2.2; its rows are a b u, c d v, x y w). Angles
    between quarter turns are rounded to one.
    """
    matrix = cast(SideDataContainer, frame.side_data).get(SideDataType.DISPLAYMATRIX)
    if matrix is None:
        return False, False, False
    a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
    if max(abs(a), abs(d)) >= max(abs(b), abs(c)):
        return False, a < 0, d < 0
    return True, c < 0, b < 0


class MediaClock:
    """Gives frames their time: what the container says, on a timeline that starts at 0 and only grows."""

    def __init__(self, start: float, step: float, base: Fraction | None) -> None:
        """Start a timeline.

        Args:
            start: the container's first time, seconds.
            step: seconds to the next frame where none is said.
            base: unit of the time stamps, seconds.
        """
        self._start, self._step, self._base = start, step, float(base or 0)
        self._last: float | None = None

    def time_of(self, frame: VideoFrame) -> float:
        """Seconds; greater than the last one's."""
        stamp, last = frame.pts, self._last
        if stamp is None or not self._base:
            seconds = 0.0 if last is None else last + self._step
        else:
            seconds = stamp * self._base - self._start
        if last is not None and seconds <= last:
            if last - seconds > JUMP_SECONDS:  # recordings in one file, each with a timeline of its own
                self._start -= last + self._step - seconds
                seconds = last + self._step
            else:
                seconds = last + self._step / 100
        self._last = seconds
        return seconds


def usable_rate(rate: Fraction | None) -> float | None:
    """Frames a second, if ``rate`` can be one: containers without a rate give a time base such as 1000 or 90000."""
    return float(rate) if rate is not None and 0.1 <= rate <= 480 else None
