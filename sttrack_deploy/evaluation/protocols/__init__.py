"""Tracking accuracy by named protocols.

The same results score differently under different toolkits, so a number is only printed with the name of
the protocol that made it.
"""

from __future__ import annotations

from sttrack_deploy.evaluation.protocols.base import Protocol
from sttrack_deploy.evaluation.protocols.got10k import GOT10K
from sttrack_deploy.evaluation.protocols.official import OFFICIAL
from sttrack_deploy.evaluation.protocols.pytracking import PYTRACKING
from sttrack_deploy.evaluation.protocols.trackingnet import TRACKINGNET

__all__ = ["DEFAULT_PROTOCOL", "PROTOCOLS"]

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol for protocol in (PYTRACKING, OFFICIAL, GOT10K, TRACKINGNET)
}
DEFAULT_PROTOCOL = PYTRACKING
