"""What is known of targets in general, held against the network's answer: they move and change shape little by little.

Pure functions of boxes ``(x, y, w, h)`` in pixels with finite values and sides above 0; ``Target`` applies them
as the manifest's ``TrackingPolicy`` says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from sttrack_deploy.geometry import Box

__all__ = ["STILL", "Motion", "damped", "frame_centers", "motion_between", "plausibility", "remember"]

FREE_JUMP, FREE_CHANGE = 0.25, 0.25
"""What a target may do on any frame, however still it was before; in the units of :class:`Motion`."""
SLACK = 2.0
"""What it may do besides, over its recent motion."""
MEMORY = 0.2
"""Weight of the newest frame in the recent motion: about the last five frames count."""
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


def motion_between(before: Box, after: Box) -> Motion:
    """What happened from one box to the other."""
    side = math.sqrt(before[2] * before[3])
    dx = after[0] + 0.5 * after[2] - before[0] - 0.5 * before[2]
    dy = after[1] + 0.5 * after[3] - before[1] - 0.5 * before[3]
    # Logarithms, so that the product of two extreme ratios cannot overflow before the end.
    size = abs(math.log(math.sqrt(after[2] * after[3]) / side))
    aspect = abs(math.log(after[2] / after[3]) - math.log(before[2] / before[3]))
    return Motion(math.hypot(dx, dy) / side, math.expm1(min(size + aspect, 50.0)))


def remember(recent: Motion, now: Motion) -> Motion:
    """The recent motion after one more frame: an exponential average."""
    return Motion(*(old + MEMORY * (new - old) for old, new in zip(recent, now, strict=True)))


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
