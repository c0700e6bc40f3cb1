"""Real inputs of both graphs, state included: from a calibration set, or recorded on the demo clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import (
    SEARCH_IMAGE,
    SEARCH_MASK,
    TEMPLATE_IMAGE,
    TEMPLATE_MASK,
    Bundle,
)
from sttrack_deploy.calib.calibration_set import open_calibration
from sttrack_deploy.engines.base import BoolArray, EngineState, Prediction, UInt8Array
from sttrack_deploy.engines.onnxruntime_engine import OnnxRuntimeEngine
from sttrack_deploy.runtime.demo import DemoClip
from sttrack_deploy.runtime.tracker import Tracker

__all__ = ["Samples", "calibration_samples", "demo_samples"]

Feeds = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Samples:
    """Inputs by number; what is asked for is read then, so that a large set needs no memory.

    Attributes:
        facts: what to record about them: name, hash and number of samples.
    """

    search: Callable[[int], Feeds]
    searches: int
    template: Callable[[int], Feeds]
    templates: int
    facts: Mapping[str, Any]

    def spread(self, count: int) -> Iterator[Feeds]:
        """Up to ``count`` search samples, evenly spread over all."""
        for index in np.unique(np.linspace(0, self.searches - 1, min(count, self.searches)).astype(int)):
            yield self.search(int(index))

    def all_searches(self) -> Iterator[Feeds]:
        return (self.search(index) for index in range(self.searches))

    def all_templates(self) -> Iterator[Feeds]:
        return (self.template(index) for index in range(self.templates))


def calibration_samples(path: Path, bundle: Bundle) -> Samples:
    """
    Raises:
        UserError: there is no such set, or it was recorded with other graphs.
    """
    found = open_calibration(path, bundle)
    facts = {"set": found.manifest.name, "sha256": found.sha256, "samples": len(found)}
    return Samples(found.search_feeds, len(found), found.template_feeds, found.templates, facts)


def demo_samples(bundle: Bundle, every: int = 6) -> Samples:
    """Every so many frames of the demo clip, tracked by the bundle itself."""
    demo = DemoClip()
    engine = _Recorder(OnnxRuntimeEngine(bundle))
    tracker = Tracker(bundle, engine)
    tracker.init(demo.frame(0), demo.truth[0])
    for frame in demo.frames(range(1, len(demo.truth))):
        tracker.update(frame.image)
    searches = engine.searches[::every]
    facts = {"set": "the demo clip", "samples": len(searches)}
    templates = engine.templates
    return Samples(searches.__getitem__, len(searches), templates.__getitem__, len(templates), facts)


class _Recorder:
    """An engine that keeps what it is fed."""

    name = "recorder"

    def __init__(self, engine: OnnxRuntimeEngine) -> None:
        self._engine = engine
        self.searches: list[Feeds] = []
        self.templates: list[Feeds] = []

    def initial_state(self, template: UInt8Array, mask: BoolArray) -> EngineState:
        self.templates.append({TEMPLATE_IMAGE: template.copy(), TEMPLATE_MASK: mask.copy()})
        return self._engine.initial_state(template, mask)

    def step(self, search: UInt8Array, mask: BoolArray, state: EngineState) -> tuple[Prediction, EngineState]:
        feeds = {SEARCH_IMAGE: search, SEARCH_MASK: mask, **state}
        self.searches.append({name: value.copy() for name, value in feeds.items()})
        return self._engine.step(search, mask, state)

    def describe(self) -> dict[str, str]:
        return self._engine.describe()
