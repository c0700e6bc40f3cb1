"""Tracking one target through frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import Bundle, TrackingPolicy
from sttrack_deploy.engines.base import Engine
from sttrack_deploy.engines.registry import DEFAULT_BACKEND
from sttrack_deploy.errors import UserError
from sttrack_deploy.runtime.multi_tracker import MultiTracker, StepTimings
from sttrack_deploy.runtime.target import TrackResult

__all__ = ["StepTimings", "TrackResult", "Tracker"]

Frame = npt.NDArray[np.uint8]


class Tracker:
    """Tracks one target; :class:`~sttrack_deploy.runtime.multi_tracker.MultiTracker` tracks several.

    >>> tracker = Tracker.from_bundle()                              # doctest: +SKIP
    >>> tracker.init(first_frame, (120, 80, 64, 48))                 # doctest: +SKIP
    >>> box, confidence, lost = tracker.update(next_frame)           # doctest: +SKIP
    """

    def __init__(self, bundle: Bundle, engine: Engine, policy: TrackingPolicy | None = None) -> None:
        self._only = MultiTracker(bundle, engine, policy)

    @classmethod
    def from_bundle(
        cls,
        path: str | Path | None = None,
        engine: str = DEFAULT_BACKEND,
        threads: int | None = None,
        policy: TrackingPolicy | None = None,
    ) -> Tracker:
        """Open a bundle (the shipped one if no path is given) with an engine.

        Raises:
            UserError: the bundle cannot be used, or the engine's package is missing.
        """
        return cls._of(MultiTracker.from_bundle(path, engine, threads, policy))

    @classmethod
    def from_state(
        cls,
        data: bytes,
        bundle: Bundle | str | Path | None = None,
        engine: str | Engine = DEFAULT_BACKEND,
        threads: int | None = None,
        policy: TrackingPolicy | None = None,
    ) -> Tracker:
        """Go on from :meth:`export_state`; see :meth:`.MultiTracker.from_state`.

        >>> Tracker.from_state(Path("track.state").read_bytes(), engine="openvino")    # doctest: +SKIP

        Raises:
            UserError: the bytes are not the state of one target, or not of this bundle.
        """
        several = MultiTracker.from_state(data, bundle, engine, threads, policy)
        if len(several.targets) != 1:
            raise UserError(f"the state is of {len(several.targets)} targets: use MultiTracker.from_state")
        return cls._of(several)

    @classmethod
    def _of(cls, several: MultiTracker) -> Tracker:
        tracker = cls.__new__(cls)
        tracker._only = several
        return tracker

    def export_state(self) -> bytes:
        """Everything that the track carries from frame to frame, 68 kB with `sttrack-nano`; tracking goes on as before.

        Raises:
            UsageError: there is no target yet.
        """
        return self._only.export_state()

    @property
    def bundle(self) -> Bundle:
        return self._only.bundle

    @property
    def engine(self) -> Engine:
        return self._only.engine

    @property
    def policy(self) -> TrackingPolicy:
        return self._only.policy

    @property
    def timings(self) -> StepTimings:
        """Of the last ``init`` or ``update``."""
        return self._only.timings

    @property
    def growth(self) -> float:
        """The search region's side over its usual one; over 1 while a lost target is looked for."""
        return self._only.targets[0].growth if self._only.targets else 1.0

    def init(self, frame: Frame, box: Sequence[float]) -> None:
        """Start on a new target; a track that was running is forgotten.

        Args:
            frame: BGR uint8 ``(height, width, 3)``.
            box: x, y, w, h in pixels; cut to the image where it reaches over.

        Raises:
            UsageError: the frame or the box cannot be used; a track that was running goes on.
        """
        self._only.init(frame, [box])

    def update(self, frame: Frame) -> TrackResult:
        """Find the target in the next frame.

        Raises:
            UsageError: not initialized, not a BGR uint8 frame, or of another size than before.
        """
        return self._only.update(frame)[0]
