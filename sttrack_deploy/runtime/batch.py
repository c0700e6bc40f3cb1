"""Targets of one stream in one batch, though they start, end and are corrected on their own."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import Bundle, TrackingPolicy
from sttrack_deploy.engines.base import Arrays, Engine, EngineState, Prediction
from sttrack_deploy.geometry import Box
from sttrack_deploy.runtime.multi_tracker import MultiTracker, StepTimings
from sttrack_deploy.runtime.target import Target, TrackResult

__all__ = ["Batch", "SharedEngine"]

Image = npt.NDArray[np.uint8]


class SharedEngine:
    """One engine for several threads, one call at a time: back ends keep buffers between calls."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self.name = engine.name

    def initial_state(self, template: Any, mask: Any) -> EngineState:
        with self._lock:
            return self._engine.initial_state(template, mask)

    def step(self, search: Any, mask: Any, state: EngineState) -> tuple[Prediction, EngineState]:
        with self._lock:
            return self._engine.step(search, mask, state)

    def export_state(self, state: EngineState) -> Arrays:
        with self._lock:
            return self._engine.export_state(state)

    def import_state(self, arrays: Arrays) -> EngineState:
        with self._lock:
            return self._engine.import_state(arrays)

    def describe(self) -> dict[str, str]:
        return self._engine.describe()


class _Group:
    """Targets that are tracked by one tracker, in the order of its results."""

    __slots__ = ("keys", "shape", "tracker")

    def __init__(self, keys: Sequence[int], tracker: MultiTracker, shape: tuple[int, ...]) -> None:
        self.keys = tuple(keys)
        self.tracker = tracker
        self.shape = shape


class Batch:
    """Runs targets together, in one call of the engine where the bundle's batch is dynamic.

    When the set of targets changes, the batch is taken apart and put together again from the targets'
    states. With a bundle of a fixed batch every target has calls of its own instead. Used by one thread.

    Attributes:
        timings: of the last :meth:`start` or :meth:`update`.
    """

    def __init__(self, bundle: Bundle, engine: Engine, policy: TrackingPolicy) -> None:
        self._bundle = bundle
        self._engine = engine
        self._policy = policy
        self._groups: list[_Group] = []
        self._axes = {
            spec.name: spec.shape.index("batch")
            for spec in bundle.manifest.search.inputs
            if "batch" in spec.shape
        }
        self._together = bundle.manifest.batch == "dynamic"
        self.timings = StepTimings(0.0, 0.0)

    @property
    def keys(self) -> set[int]:
        """Keys of the targets that have a state."""
        return {key for group in self._groups for key in group.keys}

    @property
    def calls(self) -> int:
        """Calls of the engine that a frame takes when all targets are asked for."""
        return len(self._groups)

    def targets(self, keys: Iterable[int]) -> list[Target]:
        """The targets of these keys, in their order."""
        known = {
            key: target
            for group in self._groups
            for key, target in zip(group.keys, group.tracker.targets, strict=True)
        }
        return [known[key] for key in keys]

    def start(self, image: Image, boxes: Mapping[int, Box]) -> None:
        """Start targets, or start them again.

        Args:
            image: BGR uint8 ``(height, width, 3)``.
            boxes: x, y, w, h in pixels by the target's key.

        Raises:
            UsageError: an impossible box; no target changes.
        """
        parts = [dict(boxes)] if self._together else [{key: box} for key, box in boxes.items()]
        groups = []
        crop = inference = 0.0
        for part in parts:
            tracker = MultiTracker(self._bundle, self._engine, self._policy)
            tracker.init(image, list(part.values()))
            crop += tracker.timings.crop
            inference += tracker.timings.inference
            groups.append(_Group(list(part), tracker, image.shape))
        self.drop(boxes)
        self._groups += groups
        self.timings = StepTimings(crop, inference)

    def drop(self, keys: Iterable[int]) -> None:
        """Forget targets."""
        gone = set(keys)
        self._groups = [
            part
            for group in self._groups
            for part in (self._apart(group) if gone & set(group.keys) else [group])
            if not gone & set(part.keys)
        ]

    def update(self, image: Image, keys: Iterable[int]) -> dict[int, TrackResult]:
        """Find these targets in the next frame; the others stay as they are.

        Raises:
            UsageError: the frame has another size than the one that a target started on.
        """
        results: dict[int, TrackResult] = {}
        crop = inference = 0.0
        for group in self._grouped(set(keys)):
            results.update(zip(group.keys, group.tracker.update(image), strict=True))
            crop += group.tracker.timings.crop
            inference += group.tracker.timings.inference
        self.timings = StepTimings(crop, inference)
        return results

    def _grouped(self, wanted: set[int]) -> list[_Group]:
        """Groups of exactly these targets, as few as can be."""
        self._groups = [
            part
            for group in self._groups
            for part in (
                self._apart(group) if wanted & set(group.keys) and not set(group.keys) <= wanted else [group]
            )
        ]
        found = [group for group in self._groups if wanted & set(group.keys)]
        if len(found) < 2 or not self._together or len({group.shape for group in found}) > 1:
            return found
        joined = self._join(found)
        self._groups = [group for group in self._groups if group not in found] + [joined]
        return [joined]

    def _apart(self, group: _Group) -> list[_Group]:
        if len(group.keys) == 1:
            return [group]
        (state,) = group.tracker.states
        arrays = self._engine.export_state(state)
        parts = []
        for row, (key, target) in enumerate(zip(group.keys, group.tracker.targets, strict=True)):
            rows = {name: np.take(value, [row], self._axis(name)) for name, value in arrays.items()}
            parts.append(self._group([key], [target], rows, group.shape))
        return parts

    def _join(self, groups: Sequence[_Group]) -> _Group:
        arrays = [self._engine.export_state(group.tracker.states[0]) for group in groups]
        rows = {name: np.concatenate([part[name] for part in arrays], self._axis(name)) for name in arrays[0]}
        keys = [key for group in groups for key in group.keys]
        targets = [target for group in groups for target in group.tracker.targets]
        return self._group(keys, targets, rows, groups[0].shape)

    def _group(
        self,
        keys: Sequence[int],
        targets: Sequence[Target],
        arrays: Arrays,
        shape: tuple[int, ...],
    ) -> _Group:
        tracker = MultiTracker(self._bundle, self._engine, self._policy)
        tracker.resume(targets, [self._engine.import_state(arrays)], shape)
        return _Group(keys, tracker, shape)

    def _axis(self, name: str) -> int:
        (spec,) = (spec for spec in self._bundle.manifest.state if spec.name == name)
        return self._axes[spec.input]
