"""What a tracker knows of one target: where it is believed to be, whether it is lost, how far to look.

:class:`Target` applies the manifest's tracking policy. The functions before it say what is known of targets in general:
they move and change shape little by little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import CropSpec, TrackingPolicy
from sttrack_deploy.cropping import Crop, search_crop, template_crop
from sttrack_deploy.geometry import (
    LARGEST_CORRECTION,
    Box,
    BoxCorrection,
    box_from_crop,
    box_from_window,
    center_shift,
    clip_box,
    context_box,
    corrected,
    correction_between,
)
from sttrack_deploy.records import Within

__all__ = [
    "STILL",
    "UNMOVED",
    "Motion",
    "Target",
    "TargetMemory",
    "TrackResult",
    "Velocity",
    "ahead",
    "damped",
    "frame_centers",
    "motion_between",
    "plausibility",
    "remember",
    "velocity_after",
]


FREE_JUMP, FREE_CHANGE = 0.25, 0.25
"""What a target may do on any frame, however still it was before; in the units of :class:`Motion`."""
SLACK = 2.0
"""What it may do besides, over its recent motion."""
MOTION_MEMORY = 0.2
"""Weight of the newest frame in the recent motion: about the last five frames count."""
STEADY = 0.1
"""Speed that is not led, sizes a frame: about what a box trembles."""
FASTEST = 0.8
"""Most speed along x or y that is led, sizes a frame."""
NEWEST = 0.5
"""Weight of the newest frame in the velocity: the last two or three count."""
TILE_STEP = 0.75
"""Distance of neighboring search regions over their side, where they cover the frame."""


class Motion(NamedTuple):
    """How a box differs from the one before.

    Attributes:
        jump: distance of the centers over ``sqrt(w * h)`` of the earlier box, 0 or more.
        change: ``max(a, 1/a) * max(q, 1/q) - 1``, 0 or more: ``a`` the ratio of the mean sides ``sqrt(w * h)``,
            ``q`` that of the aspects ``w / h`` (Li et al., SiamRPN, CVPR 2018, section 4.3, with other sides).
    """

    jump: float
    change: float


STILL = Motion(0.0, 0.0)


class Velocity(NamedTuple):
    """Recent motion of a box's center in units of ``sqrt(w * h)`` a frame, to the right and down."""

    x: float
    y: float


UNMOVED = Velocity(0.0, 0.0)


def motion_between(before: Box, after: Box) -> Motion:
    """What happened from one box to the other."""
    side = math.sqrt(before[2] * before[3])
    # Logarithms, so that the product of two extreme ratios cannot overflow before the end.
    size = abs(math.log(math.sqrt(after[2] * after[3]) / side))
    aspect = abs(math.log(after[2] / after[3]) - math.log(before[2] / before[3]))
    return Motion(math.hypot(*center_shift(before, after)) / side, math.expm1(min(size + aspect, 50.0)))


def remember(recent: Motion, now: Motion) -> Motion:
    """The recent motion after one more frame: an exponential average."""
    return Motion(*(old + MOTION_MEMORY * (new - old) for old, new in zip(recent, now, strict=True)))


def velocity_after(velocity: Velocity, before: Box, after: Box, frames: int) -> Velocity:
    """The velocity once a box was found ``frames`` frames after the one before; an exponential average."""
    size = math.sqrt(before[2] * before[3]) * frames
    return Velocity(
        *(
            old + NEWEST * (new / size - old)
            for old, new in zip(velocity, center_shift(before, after), strict=True)
        )
    )


def ahead(box: Box, velocity: Velocity, lead: float) -> Box:
    """Where a box is looked for next.

    Args:
        lead: share of the motion that is expected to go on, 0 to 1. What trembles by less than ``STEADY`` stays.
    """
    speed = math.hypot(velocity.x, velocity.y)
    if speed <= STEADY or lead <= 0:
        return box
    x, y, w, h = box
    step = lead * (1.0 - STEADY / speed) * math.sqrt(w * h)
    dx, dy = (step * max(-FASTEST, min(FASTEST, value)) for value in velocity)
    return x + dx, y + dy, w, h


def plausibility(now: Motion, recent: Motion, jump_penalty: float, change_penalty: float) -> float:
    """How believable a motion is after the recent one, 0 to 1; 1 where it is not out of the ordinary.

    Falls as ``exp(-penalty * excess)``, the excess being what goes beyond ``SLACK`` times the recent motion and
    what is free. Never rises with either motion or penalty.
    """
    jump = max(0.0, now.jump - SLACK * recent.jump - FREE_JUMP)
    change = max(0.0, now.change - SLACK * recent.change - FREE_CHANGE)
    return math.exp(-(jump_penalty * jump + change_penalty * change))


def damped(before: Box, found: Box, place: float, size: float) -> Box:
    """Part of the way from one box to the other.

    Args:
        place: share of the way that the center goes, 0 to 1.
        size: share of the way that width and height go, on a logarithmic scale, 0 to 1.

    Returns:
        ``found`` itself where both are 1.
    """
    if place >= 1.0 and size >= 1.0:
        return found
    w, h = (old * (new / old) ** size for old, new in zip(before[2:], found[2:], strict=True))
    cx, cy = (
        (1.0 - place) * (before[i] + 0.5 * before[i + 2]) + place * (found[i] + 0.5 * found[i + 2])
        for i in (0, 1)
    )
    return cx - 0.5 * w, cy - 0.5 * h, w, h


def frame_centers(side: float, height: int, width: int, start: Sequence[float]) -> list[tuple[float, float]]:
    """Centers of square regions that cover a frame together, those near ``start`` first.

    Args:
        side: of a region, pixels, above 0.
        start: x, y in pixels.
    """
    xs, ys = (_places(side, length) for length in (width, height))
    return sorted(
        ((x, y) for y in ys for x in xs), key=lambda c: math.hypot(c[0] - start[0], c[1] - start[1])
    )


def _places(side: float, length: int) -> list[float]:
    count = max(1, math.ceil((length - side) / (TILE_STEP * side)) + 1)
    if count == 1:
        return [0.5 * length]
    return [0.5 * side + index * (length - side) / (count - 1) for index in range(count)]


Frame = npt.NDArray[np.uint8]

SIZE_MEMORY = 0.1
"""Weight of the newest reliable frame in the usual size: about the last ten count."""

_Correction = Annotated[float, Within(-LARGEST_CORRECTION, LARGEST_CORRECTION)]


class TrackResult(NamedTuple):
    """One frame's result for one target.

    Attributes:
        box: x, y, w, h in pixels.
        confidence: 0..1, see ``models/corner_network.py``; less where the policy's penalties find the box implausible.
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
    held_frames: Annotated[int, Within(0)]
    recent: tuple[Annotated[float, Within(0)], Annotated[float, Within(0)]]
    velocity: tuple[float, float]
    correction: tuple[_Correction, _Correction, _Correction, _Correction]


class Target:
    """One target between frames.

    Attributes:
        box: x, y, w, h in pixels where it was last believed to be.
        lost: whether it was lost on the last frame.
        growth: the search region's side over its usual one; over 1 while a target is held and looked for.
        usual_size: ``sqrt(w * h)`` on reliable frames, an exponential average of its logarithm; pixels.
        held_frames: since its box was last followed; 0 without recovery.
        velocity: of its box on the last frames; it dies away while the box is held.
        correction: of the boxes that are reported, by what the network saw on the first frame.
    """

    __slots__ = (
        "_around",
        "_crop",
        "_policy",
        "_recent",
        "_seen",
        "box",
        "correction",
        "growth",
        "held_frames",
        "lost",
        "usual_size",
        "velocity",
    )

    def __init__(self, box: Box, crop: CropSpec, policy: TrackingPolicy) -> None:
        """``box`` is valid for the frames to come (:func:`~sttrack_deploy.geometry.validate_box`)."""
        self.box = box
        self.lost = False
        self.growth = 1.0
        self.usual_size = math.sqrt(box[2] * box[3])
        self.held_frames = 0
        self.velocity = UNMOVED
        self.correction = BoxCorrection()
        self._around = box
        self._crop = crop
        self._policy = policy
        self._recent = STILL
        self._seen: Crop | None = None

    def memory(self) -> TargetMemory:
        """What it knows between two frames."""
        motion = self._recent, self.velocity, self.correction
        return TargetMemory(self.box, self.lost, self.growth, self.usual_size, self.held_frames, *motion)

    def recall(self, memory: TargetMemory) -> None:
        """Go on from what another one knew."""
        self.box, self.lost, self.growth = memory.box, memory.lost, memory.growth
        self.usual_size, self.held_frames = memory.usual_size, memory.held_frames
        self._recent, self.velocity = Motion(*memory.recent), Velocity(*memory.velocity)
        self.correction = BoxCorrection(*memory.correction)

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
        result = self._judge(clip_box(self._found(box), height, width), confidence, height, width)
        self.believe(result)
        if not any(self.correction):
            return result
        # What is reported alone: crops about corrected boxes are not those that the network was trained on.
        return result._replace(box=clip_box(corrected(result.box, self.correction), height, width))

    def learn_correction(self, box: npt.NDArray[np.float32]) -> None:
        """Take the network's answer on the first frame, where the right box is known, to correct reported ones by.

        What belongs to a target is a matter of taste: a shadow, a racket, the legs. The given box says it, and how the
        network sees it differently stays much the same.

        Args:
            box: as of :meth:`settle`, about a :meth:`search` on the frame that the target starts on.
        """
        # As it is: clipped to the least size of a box, it would say nothing of a small target's.
        self.correction = correction_between(self._found(box), self.box, self._policy.box_correction)

    def _found(self, box: npt.NDArray[np.float32]) -> Box:
        """The network's answer in pixels of the frame, as it is."""
        assert self._seen is not None
        seen, corners = self._seen, box.tolist()
        if self._crop.snapped:
            return box_from_window(corners, seen.window)
        return box_from_crop(corners, self._around, self._crop.search_size, seen.resize_factor)

    def believe(self, result: TrackResult) -> None:
        """Carry on from a frame's result, this tracker's own or one that is known from before."""
        policy = self._policy
        self.lost = result.lost
        if self._holds(result):
            # Keep looking around the last box that was believed, in a region that grows and starts over: in a wide
            # one a target is too small to be recognized, and it often comes back where it was last seen.
            grown = self.growth * policy.growth
            self.growth = grown if grown <= policy.max_growth else 1.0
            self.held_frames += 1
            self.velocity = Velocity(0.5 * self.velocity.x, 0.5 * self.velocity.y)
            return
        self.velocity = velocity_after(self.velocity, self.box, result.box, 1 + self.held_frames)
        self.box, self.growth, self.held_frames = result.box, 1.0, 0
        if not self.lost and result.confidence >= policy.reliable_above:
            size = math.sqrt(self.box[2] * self.box[3])
            self.usual_size *= (size / self.usual_size) ** SIZE_MEMORY

    def _holds(self, result: TrackResult) -> bool:
        policy = self._policy
        if not policy.recovery:
            return False
        if policy.hold_below is None:  # another tracker's results say themselves where they were lost
            return result.lost
        below, again = policy.held
        return not result.confidence >= (again if self.held_frames else below)

    def _judge(self, found: Box, confidence: float, height: int, width: int) -> TrackResult:
        """Hold the box that was found against what targets do."""
        policy = self._policy
        trusted = 1.0
        if policy.jump_penalty > 0 or policy.change_penalty > 0:
            # A target that was away may have moved and changed on each frame that it was not seen.
            frames = 1 + self.held_frames
            now = Motion(*(value / frames for value in motion_between(self.box, found)))
            if not self._sweeping:
                trusted = plausibility(now, self._recent, policy.jump_penalty, policy.change_penalty)
            if confidence >= policy.held[0]:  # else it is not the target that moved
                self._recent = remember(self._recent, now)
        confidence *= trusted
        # Written so that a confidence that is no number would be lost.
        lost = not confidence >= (policy.found_above if self.lost else policy.lost_below)
        follow = 1.0 - policy.size_smoothing
        rate = follow * confidence if policy.size_smoothing > 0 and self.held_frames == 0 else 1.0
        if trusted < 1.0 or rate < 1.0:
            found = clip_box(damped(self.box, found, trusted, min(trusted, rate)), height, width)
        return TrackResult(found, confidence, lost)

    @property
    def _sweeping(self) -> bool:
        """Whether the search is somewhere else in the frame."""
        after = self._policy.frame_after
        return 0 < after <= self.held_frames and (self.held_frames - after) % 2 == 0

    def _region(self, height: int, width: int) -> Box:
        """The box that the search region lies around: ahead of the last one, or a larger or another one while held."""
        if self.held_frames == 0:
            return ahead(self.box, self.velocity, self._policy.lead)
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
            cx, cy = centers[(self.held_frames - self._policy.frame_after) // 2 % len(centers)]
        return cx - 0.5 * w, cy - 0.5 * h, w, h
