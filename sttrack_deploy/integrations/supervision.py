"""supervision (Roboflow): results as its ``Detections``, and tracks that start from a detector's."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from sttrack_deploy.errors import MissingDependencyError, UsageError
from sttrack_deploy.geometry import Box
from sttrack_deploy.runtime.target import TrackResult

__all__ = ["boxes_of", "to_detections"]


def to_detections(results: Sequence[TrackResult], *, lost: bool = False) -> Any:
    """One frame's results as ``supervision.Detections``.

    Args:
        results: of ``MultiTracker.update``, or ``[result]`` of ``Tracker.update``.
        lost: whether targets that are lost are kept; their boxes are only best guesses.

    Returns:
        ``xyxy`` float32 ``(N, 4)`` in pixels, ``confidence`` ``(N,)``, ``tracker_id`` ``(N,)``: the number of the
        target from 1, in the order of the boxes given to ``init``; ``data["lost"]`` bool ``(N,)``.

    Raises:
        MissingDependencyError: supervision is not installed.
    """
    try:
        supervision = importlib.import_module("supervision")
    except ImportError as error:
        raise MissingDependencyError("supervision", "to_detections", "pip install supervision") from error
    kept = [(number, result) for number, result in enumerate(results, 1) if lost or not result.lost]
    boxes = np.array([result.box for _, result in kept], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return supervision.Detections(
        xyxy=boxes,
        confidence=np.array([result.confidence for _, result in kept], np.float32),
        tracker_id=np.array([number for number, _ in kept], np.int64),
        data={"lost": np.array([result.lost for _, result in kept], np.bool_)},
    )


def boxes_of(detections: Any) -> list[Box]:
    """The boxes ``(x, y, w, h)`` of ``supervision.Detections``, to start tracks on: ``tracker.init(frame, boxes)``.

    Raises:
        UsageError: there is none, or one is not finite.
    """
    corners = np.asarray(detections.xyxy, np.float64).reshape(-1, 4)
    if len(corners) == 0:
        raise UsageError("there is no detection to start a track on")
    if not np.isfinite(corners).all():
        raise UsageError("a detection has a box that is not finite")
    return [(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in corners.tolist()]
