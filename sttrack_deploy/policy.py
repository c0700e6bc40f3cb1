"""The tracking policy: what the runtime does with the confidence, and what a user changes of it.

The defaults are here; what they do is in ``runtime/target.py``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

from sttrack_deploy.records import Within

__all__ = ["NO_CHANGES", "PolicyChanges", "TrackingPolicy"]


Share = Annotated[float, Within(0, 1)]


@dataclass(frozen=True, slots=True)
class TrackingPolicy:
    """What the runtime does with the confidence; every field can be overridden by the user.

    Attributes:
        lost_below: a frame whose confidence is lower counts as lost.
        found_above: a lost target is found again at this confidence.
        recovery: while held, keep the last good box as the center and grow the search region.
        hold_below: with recovery, a box of less confidence is not followed, and what is held is followed again as far
            above this as ``found_above`` is above ``lost_below``. ``None``: ``lost_below``, so that a target is held
            just while it is lost; more counts as ``lost_below``. Less: LOST is said early, while the tracker still
            follows.
        growth: factor by which the search region's side grows with each held frame.
        max_growth: the growth starts over at 1 beyond this.
        lead: share of the recent motion by which the search region goes ahead of the last box; 0: not.
        jump_penalty: how much confidence falls with a jump beyond the recent motion; 0: not.
        change_penalty: the same for a sudden change of size and aspect.
        size_smoothing: share of a change of size that is held back at confidence 1, more at less; 0: none is.
        box_correction: share of the difference between the network's box on the first frame and the box that was
            given there which is undone in the boxes that are reported; 0: none, and no look at the first frame.
        reliable_above: while held, the search region is as for the usual size on frames of at least this confidence
            where the last box is smaller; 0: as for the last box.
        frame_after: after so many held frames, every second search is at another place of the whole frame; 0: never.
    """

    lost_below: Share = 0.25
    found_above: Share = 0.35
    recovery: bool = False
    hold_below: Share | None = None
    growth: Annotated[float, Within(1, 10)] = 1.1
    max_growth: Annotated[float, Within(1, 100)] = 2.0
    lead: Share = 0.0
    jump_penalty: Annotated[float, Within(0, 1000)] = 0.0
    change_penalty: Annotated[float, Within(0, 1000)] = 0.0
    size_smoothing: Annotated[float, Within(0, 0.99)] = 0.0
    box_correction: Share = 0.0
    reliable_above: Share = 0.0
    frame_after: Annotated[int, Within(0, 1_000_000)] = 0

    @property
    def held(self) -> tuple[float, float]:
        """With recovery: the confidence under which a box is not followed, and from which it is again."""
        if self.hold_below is None:
            return self.lost_below, self.found_above
        below = min(self.hold_below, self.lost_below)
        return below, round(self.found_above - (self.lost_below - below), 6)

    def override(self, changes: PolicyChanges) -> TrackingPolicy:
        """A copy with what the user chose.

        A lost target is believed again a little above ``lost_below``, so that the answer does not flicker.
        """
        chosen: dict[str, Any] = changes.options()
        if changes.lost_below is not None:
            chosen["found_above"] = min(
                1.0, round(changes.lost_below + self.found_above - self.lost_below, 6)
            )
        return dataclasses.replace(self, **chosen)


@dataclass(frozen=True, slots=True)
class PolicyChanges:
    """What the user chose of a :class:`TrackingPolicy`; ``None`` keeps what the bundle says."""

    lost_below: float | None = None
    recovery: bool | None = None
    hold_below: float | None = None
    max_growth: float | None = None
    lead: float | None = None
    jump_penalty: float | None = None
    change_penalty: float | None = None
    size_smoothing: float | None = None
    box_correction: float | None = None
    reliable_above: float | None = None
    frame_after: int | None = None

    def options(self) -> dict[str, float | bool]:
        """What was chosen, by the policy's names."""
        return {
            spec.name: value
            for spec in dataclasses.fields(self)
            if (value := getattr(self, spec.name)) is not None
        }


NO_CHANGES = PolicyChanges()
