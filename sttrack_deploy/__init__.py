"""STTrack from PyTorch to ONNX to engines to tracked video."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sttrack_deploy.bundle import Bundle, open_bundle
    from sttrack_deploy.runtime.tracker import Tracker, TrackResult

__version__ = "0.1.0"
__all__ = ["Bundle", "TrackResult", "Tracker", "__version__", "open_bundle"]

_HOMES = {
    "Bundle": "sttrack_deploy.bundle",
    "open_bundle": "sttrack_deploy.bundle",
    "Tracker": "sttrack_deploy.runtime.tracker",
    "TrackResult": "sttrack_deploy.runtime.tracker",
}


def __getattr__(name: str) -> Any:
    # Lazily, so that training and export need not import the runtime, nor the runtime them.
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'sttrack_deploy' has no attribute {name!r}")
