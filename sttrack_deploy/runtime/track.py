"""Tracking a video in one call, for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from sttrack_deploy.engines.registry import DEFAULT_BACKEND
from sttrack_deploy.errors import UsageError
from sttrack_deploy.policy import NO_CHANGES, PolicyChanges
from sttrack_deploy.runtime.multi_tracker import MultiTracker
from sttrack_deploy.runtime.target import TrackResult
from sttrack_deploy.video.source import open_source

__all__ = ["TrackedFrame", "track"]


@dataclass(frozen=True, slots=True, eq=False)
class TrackedFrame:
    """One frame and where the targets are in it.

    Attributes:
        index: of the source, 0 for its first frame.
        time: seconds since the source's first frame.
        image: BGR uint8 ``(height, width, 3)``; yours to draw on.
        results: one for each box that was given, in that order.
    """

    index: int
    time: float
    image: npt.NDArray[np.uint8]
    results: tuple[TrackResult, ...]


def track(
    source: str | Path,
    boxes: Sequence[float] | Sequence[Sequence[float]],
    *,
    bundle: str | Path | None = None,
    engine: str = DEFAULT_BACKEND,
    threads: int | None = None,
    changes: PolicyChanges = NO_CHANGES,
    start: int = 0,
    end: int | None = None,
) -> Iterator[TrackedFrame]:
    """Track targets through a video, frame by frame.

    >>> for frame in track("clip.mp4", (310, 140, 64, 48)):                       # doctest: +SKIP
    ...     print(frame.index, frame.results[0].box, frame.results[0].lost)

    The first frame's results are the boxes that were given. Wrong arguments are errors at once, not when the first
    frame is asked for. Stop whenever you like: the source is closed when the generator is.

    Args:
        source: what ``sttrack-run`` takes: a video, a folder of images, the index of a camera, a URL.
        boxes: x, y, w, h in pixels on the first frame, of one target or of several.
        bundle: folder of a bundle; ``None`` for the shipped one.
        engine: back end, see ``sttrack-doctor``; threads: CPU threads of it, ``None`` for all.
        changes: of the bundle's tracking policy.
        start, end: frames of the source, from 0; ``end`` is the first that is not tracked.

    Raises:
        UsageError: no box, or one that is malformed or outside the image.
        UserError: source, bundle or engine cannot be used.
    """
    wanted = _boxes(boxes)
    tracker = MultiTracker.from_bundle(bundle, engine, threads)
    policy = tracker.bundle.manifest.tracking.override(changes)
    return _track(MultiTracker(tracker.bundle, tracker.engine, policy), str(source), wanted, start, end)


def _boxes(boxes: Sequence[float] | Sequence[Sequence[float]]) -> list[Sequence[float]]:
    """One box is a list of one."""
    given = list(boxes)
    if given and not isinstance(given[0], Sequence | np.ndarray):
        given = [cast("Sequence[float]", given)]
    found = cast("list[Sequence[float]]", given)
    if not found or any(len(box) != 4 for box in found):
        raise UsageError(f"boxes are (x, y, w, h) of one target or a list of such, not {boxes!r}")
    return found


def _track(
    tracker: MultiTracker, source: str, boxes: list[Sequence[float]], start: int, end: int | None
) -> Iterator[TrackedFrame]:
    with open_source(source, start, end) as frames:
        for index, frame in enumerate(frames):
            if index == 0:
                tracker.init(frame.image, boxes)
                results = [TrackResult(target.box, 1.0, False) for target in tracker.targets]
            else:
                results = tracker.update(frame.image)
            yield TrackedFrame(frame.index, frame.time, frame.image, tuple(results))
