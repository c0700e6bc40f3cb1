"""What a tracker knows of one target: where it is believed to be, whether it is lost, how far to look."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import CropSpec, TrackingPolicy
from sttrack_deploy.cropping import Crop, search_crop, template_crop
from sttrack_deploy.geometry import Box, box_from_crop, box_from_window, clip_box, context_box
from sttrack_deploy.records import Within
from sttrack_deploy.runtime.priors import (
    STILL,
    Motion,
    damped,
    frame_centers,
    motion_between,
    plausibility,
    remember,
)

__all__ = ["Target", "TargetMemory", "TrackResult"]

Frame = npt.NDArray[np.uint8]

SIZE_MEMORY = 0.1
"""Weight of the newest reliable frame in the usual size: about the last ten count."""


class TrackResult(NamedTuple):
    """One frame's result for one target.

    Attributes:
        box: x, y, w, h in pixels.
        confidence: 0..1, see ``models/head.py``; less where the policy's priors find the box implausible.
        lost: the target is believed not to be there; ``box`` is then only the best guess.
    """

    box: Box
    confidence: float
    lost: bool


@dataclass(frozen=True, slots=True)
class TargetMemory:
    """All that a :class:`Target` carries from frame to frame; attributes of the same names are explained there."""

    box: tuple[
        float, float, Annotated[float, Within(0, open_low=True)], Annotated[float, Within(0, open_low=True)]
    ]
    lost: bool
    growth: Annotated[float, Within(1)]
    usual_size: Annotated[float, Within(0, open_low=True)]
    lost_frames: Annotated[int, Within(0)]
    recent: tuple[Annotated[float, Within(0)], Annotated[float, Within(0)]]


class Target:
    """One target between frames.

    Attributes:
        box: x, y, w, h in pixels where it was last believed to be.
        lost: whether it was lost on the last frame.
        growth: the search region's side over its usual one; over 1 while a lost target is looked for.
        usual_size: ``sqrt(w * h)`` on reliable frames, an exponential average of its logarithm; pixels.
        lost_frames: since it was last believed to be somewhere.
    """

    __slots__ = (
        "_around",
        "_crop",
        "_policy",
        "_recent",
        "_seen",
        "box",
        "growth",
        "lost",
        "lost_frames",
        "usual_size",
    )

    def __init__(self, box: Box, crop: CropSpec, policy: TrackingPolicy) -> None:
        """``box`` is valid for the frames to come (:func:`~sttrack_deploy.geometry.validate_box`)."""
        self.box = box
        self.lost = False
        self.growth = 1.0
        self.usual_size = math.sqrt(box[2] * box[3])
        self.lost_frames = 0
        self._around = box
        self._crop = crop
        self._policy = policy
        self._recent = STILL
        self._seen: Crop | None = None

    def memory(self) -> TargetMemory:
        """What it knows between two frames."""
        recent = self._recent.jump, self._recent.change
        return TargetMemory(self.box, self.lost, self.growth, self.usual_size, self.lost_frames, recent)

    def recall(self, memory: TargetMemory) -> None:
        """Go on from what another one knew."""
        self.box, self.lost, self.growth = memory.box, memory.lost, memory.growth
        self.usual_size, self.lost_frames = memory.usual_size, memory.lost_frames
        self._recent = Motion(*memory.recent)

    def template(self, frame: Frame) -> Crop:
        """The crop to start on."""
        return template_crop(frame, self.box, self._crop)

    def search(self, frame: Frame) -> Crop:
        """The crop to look for it in."""
        self._around = self._region(*frame.shape[:2])
        self._seen = search_crop(frame, self._around, self._crop, self.growth)
        return self._seen

    def settle(self, box: npt.NDArray[np.float32], confidence: float, height: int, width: int) -> TrackResult:
        """Take the network's answer about the last :meth:`search` and decide what to believe.

        Args:
            box: float32 ``(4,)``, x1 y1 x2 y2 over the crop's side.
            confidence: 0..1.
            height, width: of the frame, pixels.
        """
        assert self._seen is not None
        seen, corners = self._seen, box.tolist()
        if self._crop.snapped:
            found = box_from_window(corners, seen.window)
        else:
            found = box_from_crop(corners, self._around, self._crop.search_size, seen.resize_factor)
        result = self._judge(clip_box(found, height, width), confidence, height, width)
        self.believe(result)
        return result

    def believe(self, result: TrackResult) -> None:
        """Carry on from a frame's result, this tracker's own or one that is known from before."""
        policy = self._policy
        self.lost = result.lost
        if self.lost and policy.recovery:
            # Keep looking around the last box that was believed, in a region that grows and starts over: in a wide
            # one a target is too small to be recognized, and it often comes back where it was last seen.
            grown = self.growth * policy.growth
            self.growth = grown if grown <= policy.max_growth else 1.0
            self.lost_frames += 1
            return
        self.box, self.growth, self.lost_frames = result.box, 1.0, 0
        if not self.lost and result.confidence >= policy.reliable_above:
            size = math.sqrt(self.box[2] * self.box[3])
            self.usual_size *= (size / self.usual_size) ** SIZE_MEMORY

    def _judge(self, found: Box, confidence: float, height: int, width: int) -> TrackResult:
        """Hold the box that was found against what targets do."""
        policy = self._policy
        trusted = 1.0
        if policy.jump_penalty > 0 or policy.change_penalty > 0:
            # A target that was away may have moved and changed on each frame that it was not seen.
            frames = 1 + self.lost_frames
            now = Motion(*(value / frames for value in motion_between(self.box, found)))
            if not self._sweeping:
                trusted = plausibility(now, self._recent, policy.jump_penalty, policy.change_penalty)
            if confidence >= policy.lost_below:  # else it is not the target that moved
                self._recent = remember(self._recent, now)
        confidence *= trusted
        # Written so that a confidence that is no number would be lost.
        lost = not confidence >= (policy.found_above if self.lost else policy.lost_below)
        follow = 1.0 - policy.size_smoothing
        rate = follow * confidence if policy.size_smoothing > 0 and self.lost_frames == 0 else 1.0
        if trusted < 1.0 or rate < 1.0:
            found = clip_box(damped(self.box, found, trusted, min(trusted, rate)), height, width)
        return TrackResult(found, confidence, lost)

    @property
    def _sweeping(self) -> bool:
        """Whether the search is somewhere else in the frame."""
        after = self._policy.frame_after
        return 0 < after <= self.lost_frames and (self.lost_frames - after) % 2 == 0

    def _region(self, height: int, width: int) -> Box:
        """The box that the search region lies around: the last one, or a larger or another one while lost."""
        if self.lost_frames == 0:
            return self.box
        x, y, w, h = self.box
        cx, cy = x + 0.5 * w, y + 0.5 * h
        size = math.sqrt(w * h)
        if self._policy.reliable_above > 0 and self.usual_size > size:
            w, h = w * self.usual_size / size, h * self.usual_size / size
            size = self.usual_size
        elif not self._sweeping:
            return self.box
        if self._sweeping:
            measured = context_box((cx, cy, w, h), self._crop.context)[2]
            centers = frame_centers(
                measured * self._crop.search_factor * self.growth, height, width, (cx, cy)
            )
            cx, cy = centers[(self.lost_frames - self._policy.frame_after) // 2 % len(centers)]
        return cx - 0.5 * w, cy - 0.5 * h, w, h
