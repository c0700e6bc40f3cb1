"""What a tracker knows of one target: where it is believed to be, whether it is lost, how far to look."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import CropSpec, TrackingPolicy
from sttrack_deploy.cropping import Crop, search_crop, template_crop
from sttrack_deploy.geometry import Box, box_from_crop, box_from_window, clip_box

__all__ = ["Target", "TrackResult"]

Frame = npt.NDArray[np.uint8]


class TrackResult(NamedTuple):
    """One frame's result for one target.

    Attributes:
        box: x, y, w, h in pixels.
        confidence: 0..1, see ``models/head.py``.
        lost: the target is believed not to be there; ``box`` is then only the best guess.
    """

    box: Box
    confidence: float
    lost: bool


class Target:
    """One target between frames.

    Attributes:
        box: x, y, w, h in pixels where it was last believed to be.
        lost: whether it was lost on the last frame.
        growth: the search region's side over its usual one; over 1 while a lost target is looked for.
    """

    __slots__ = ("_crop", "_policy", "_seen", "box", "growth", "lost")

    def __init__(self, box: Box, crop: CropSpec, policy: TrackingPolicy) -> None:
        """``box`` is valid for the frames to come (:func:`~sttrack_deploy.geometry.validate_box`)."""
        self.box = box
        self.lost = False
        self.growth = 1.0
        self._crop = crop
        self._policy = policy
        self._seen: Crop | None = None

    def template(self, frame: Frame) -> Crop:
        """The crop to start on."""
        return template_crop(frame, self.box, self._crop)

    def search(self, frame: Frame) -> Crop:
        """The crop to look for it in."""
        self._seen = search_crop(frame, self.box, self._crop, self.growth)
        return self._seen

    def settle(self, box: npt.NDArray[np.float32], confidence: float, height: int, width: int) -> TrackResult:
        """Take the network's answer about the last :meth:`search` and decide what to believe.

        Args:
            box: float32 ``(4,)``, x1 y1 x2 y2 over the crop's side.
            confidence: 0..1.
            height, width: of the frame, pixels.
        """
        assert self._seen is not None
        policy, seen, corners = self._policy, self._seen, box.tolist()
        if self._crop.snapped:
            found = box_from_window(corners, seen.window)
        else:
            found = box_from_crop(corners, self.box, self._crop.search_size, seen.resize_factor)
        clipped = clip_box(found, height, width)
        self.lost = confidence < (policy.found_above if self.lost else policy.lost_below)
        if self.lost and policy.recovery:
            # Keep looking around the last box that was believed, in a region that grows.
            self.growth = min(self.growth * policy.growth, policy.max_growth)
        else:
            self.box, self.growth = clipped, 1.0
        return TrackResult(clipped, confidence, self.lost)
