"""What is converted and how: a bundle's graphs, the recorded inputs they are measured on, the gate's reference."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sttrack_deploy.bundle import Bundle, check_replaceable
from sttrack_deploy.calib.calibration_set import open_calibration
from sttrack_deploy.engines.onnxruntime.engine import OnnxRuntimeEngine
from sttrack_deploy.engines.recording import RecordingEngine
from sttrack_deploy.errors import UsageError
from sttrack_deploy.export.precision import PrecisionName
from sttrack_deploy.export.precision.bundle_writer import Graphs, load_graphs
from sttrack_deploy.export.precision.int8 import Layout
from sttrack_deploy.export.precision.measurements import Feeds
from sttrack_deploy.progress import Progress
from sttrack_deploy.runtime.demo import DemoClip
from sttrack_deploy.runtime.tracker import Tracker

__all__ = ["Job", "PrecisionOptions", "Samples", "check_conversion", "open_job"]


@dataclass(frozen=True, slots=True)
class PrecisionOptions:
    """How to convert a bundle.

    Attributes:
        calibration: a recorded set; needed for INT8, the demo clip stands in for FP16.
        layers: ``all``, ``backbone``, ``auto`` (search) or a file with one group a line.
        method: of ``METHODS``, or ``auto``: the one of the least step error.
        template: quantize the chosen groups in the template graph too.
        budget: greatest loss of AUC that the search allows, 0..1.
        step_budget: greatest mean ``1 - IoU`` of single steps from recorded states that the search allows, 0..1.
        gate_data, search_data: folders of annotated videos; none is the demo clip.
        search_window: the search's tracks start again on the true box after so many frames; 0: never.
        force: write a bundle that fails its gate, too.
        threads: of every run.
        real_build: let TensorRT for RTX parse and build what is meant for it, where that is installed.
    """

    precision: PrecisionName
    calibration: Path | None = None
    layers: str = "auto"
    method: str = "auto"
    template: bool = False
    budget: float = 0.004
    step_budget: float = 0.01
    gate_data: tuple[Path, ...] = ()
    search_data: tuple[Path, ...] = ()
    search_window: int = 20
    force: bool = False
    threads: int | None = 1
    real_build: bool = False

    @property
    def quantizes(self) -> bool:
        return self.precision.startswith("int8")

    @property
    def rounds_graphs(self) -> bool:
        """Whether anything changes in the graphs: those of bf16 are FP32's, and the engine rounds."""
        return self.precision != "bf16"

    @property
    def layout(self) -> Layout:
        """Of the Q/DQ pairs in the main graphs; an ``int8`` bundle holds the other one too, see ``int8.py``."""
        return "cpu" if self.precision == "int8" else "portable"


@dataclass(frozen=True, slots=True)
class Samples:
    """Real inputs of both graphs, state included, by number; what is asked for is read then, so that a large set needs
    no memory.

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


@dataclass(frozen=True, slots=True)
class Job:
    """One conversion: everything that is given, and who is told how far it is."""

    source: Bundle
    options: PrecisionOptions
    graphs: Graphs
    samples: Samples
    progress: Progress


def check_conversion(source: Bundle, out: Path, options: PrecisionOptions) -> None:
    """Check what is given, before anything is read or made.

    Raises:
        UsageError: the options contradict each other.
        UserError: something else is in the way.
    """
    if options.quantizes and options.calibration is None:
        raise UsageError(
            f"{options.precision} needs recorded inputs: "
            f"sttrack-calibrate VIDEOS --bundle {shlex.quote(str(source.path))} --out SET, then --calib SET"
        )
    if out.resolve() == source.path.resolve():
        raise UsageError(f"--out {out} is the bundle that is converted; choose another folder")
    check_replaceable(out)


def open_job(source: Bundle, options: PrecisionOptions, progress: Progress) -> Job:
    """Read what is given.

    Raises:
        UserError: the source is not FP32, or the calibration set is not its.
    """
    graphs = load_graphs(source)
    if options.calibration is not None:
        return Job(source, options, graphs, _calibration(options.calibration, source), progress)
    progress.stage("tracking the demo clip for calibration", 0)
    return Job(source, options, graphs, _demo(source), progress)


def _calibration(path: Path, bundle: Bundle) -> Samples:
    found = open_calibration(path, bundle)
    facts = {"set": found.manifest.name, "sha256": found.sha256, "samples": len(found)}
    return Samples(found.search_feeds, len(found), found.template_feeds, found.templates, facts)


def _demo(bundle: Bundle, every: int = 6) -> Samples:
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
