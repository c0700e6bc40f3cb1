"""What the server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STAGES = ("read", "crop", "inference", "publish", "total")
BUCKETS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.033, 0.066, 0.125, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """Counters, gauges and histograms of one server, in a registry of their own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.frames = Counter("sttrack_frames", "Frames tracked, each counted once", registry=registry)
        self.results = Counter(
            "sttrack_results", "Boxes found, one for a target and frame", registry=registry
        )
        self.lost = Counter("sttrack_lost_results", "Those on which the target was lost", registry=registry)
        self.dropped = Counter(
            "sttrack_dropped_frames", "Frames of live sources that came and were not read", registry=registry
        )
        self.refused = Counter(
            "sttrack_refused_requests", "Requests refused, by status", ["status"], registry=registry
        )
        self.tracks_started = Counter("sttrack_tracks_started", "Tracks started", registry=registry)
        seconds = Histogram(
            "sttrack_stage_seconds",
            "Seconds a frame spends in each stage; total is from read, or from its arrival if live, to published",
            ["stage"],
            buckets=BUCKETS,
            registry=registry,
        )
        self.stages = {stage: seconds.labels(stage) for stage in STAGES}

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a gauge that is read when it is asked for."""
        Gauge(name, text, registry=self._registry).set_function(value)

    def page(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)
