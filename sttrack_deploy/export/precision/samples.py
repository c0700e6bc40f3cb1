"""Real inputs of both graphs, state included: from a calibration set, or recorded on the demo clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.calib.calibration_set import open_calibration
from sttrack_deploy.engines.onnxruntime.engine import OnnxRuntimeEngine
from sttrack_deploy.engines.recording import RecordingEngine
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
    engine = RecordingEngine(OnnxRuntimeEngine(bundle))
    tracker = Tracker(bundle, engine)
    tracker.init(demo.frame(0), demo.truth[0])
    assert engine.start is not None
    templates, searches = [_batched(engine.start.inputs(), bundle)], []
    for number, frame in enumerate(demo.frames(range(1, len(demo.truth)))):
        engine.enabled = number % every == 0
        tracker.update(frame.image)
        if engine.enabled and engine.last is not None:
            searches.append(_batched(engine.last.inputs(bundle.manifest.state), bundle))
    facts = {"set": "the demo clip", "samples": len(searches)}
    return Samples(searches.__getitem__, len(searches), templates.__getitem__, len(templates), facts)


def _batched(feeds: Feeds, bundle: Bundle) -> Feeds:
    """Inputs of one target as often as the bundle's batch."""
    return {name: np.repeat(value, bundle.manifest.smallest_batch, axis=0) for name, value in feeds.items()}
