"""STTrack from PyTorch to ONNX to engines to tracked video."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sttrack_deploy.bundle import Bundle, open_bundle
    from sttrack_deploy.evaluation.evaluation import evaluate
    from sttrack_deploy.export.exporter import export_bundle
    from sttrack_deploy.export.precision.convert import convert_bundle
    from sttrack_deploy.runtime.multi_tracker import MultiTracker
    from sttrack_deploy.runtime.track import TrackedFrame, track
    from sttrack_deploy.runtime.tracker import Tracker, TrackResult

__version__ = "0.1.0"
__all__ = [
    "Bundle",
    "MultiTracker",
    "TrackResult",
    "TrackedFrame",
    "Tracker",
    "__version__",
    "convert_bundle",
    "evaluate",
    "export_bundle",
    "open_bundle",
    "track",
]

_HOMES = {
    "Bundle": "bundle",
    "MultiTracker": "runtime.multi_tracker",
    "TrackResult": "runtime.tracker",
    "TrackedFrame": "runtime.track",
    "Tracker": "runtime.tracker",
    "convert_bundle": "export.precision.convert",
    "evaluate": "evaluation.evaluation",
    "export_bundle": "export.exporter",
    "open_bundle": "bundle",
    "track": "runtime.track",
}


def __getattr__(name: str) -> Any:
    # Lazily, so that training and export need not import the runtime, nor the runtime them.
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"sttrack_deploy.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'sttrack_deploy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
