"""Which class computes a configuration."""

from __future__ import annotations

from sttrack_deploy.errors import UsageError
from sttrack_deploy.models.config import ModelConfig
from sttrack_deploy.models.corner_network import STTrack, TrackState
from sttrack_deploy.models.dense_network import DenseState, DenseSTTrack

__all__ = ["Network", "NetworkState", "build_network"]

Network = STTrack | DenseSTTrack
NetworkState = TrackState | DenseState


def build_network(config: ModelConfig) -> Network:
    """A network with random weights.

    Raises:
        UsageError: the configuration names a backbone or a head that do not exist, or not together.
    """
    if config.head not in ("corner", "dense"):
        raise UsageError(f"there is no head {config.head!r}; heads are corner, dense")
    if (config.head == "dense") != (config.backbone == "nanotrack3"):
        raise UsageError(
            f"the backbone nanotrack3 and the head dense go together, not {config.backbone} with {config.head}"
        )
    return DenseSTTrack(config) if config.head == "dense" else STTrack(config)
