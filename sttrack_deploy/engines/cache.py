"""Where built engines and caches are kept.

They fit one machine and can be built again, so they do not lie in the bundle: a bundle may be read-only, shared,
or inside an installed package.
"""

from __future__ import annotations

import os
from pathlib import Path

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.files import cache_home

__all__ = ["VARIABLE", "cache_of", "engine_cache"]

VARIABLE = "STTRACK_ENGINES"
"""Environment variable that names another folder."""


def engine_cache() -> Path:
    """The folder named by ``STTRACK_ENGINES``; else ``engines/`` of a checkout; else the user's cache."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "engines").is_dir():
        return checkout / "engines"
    return cache_home() / "sttrack-deploy" / "engines"


def cache_of(bundle: Bundle) -> Path:
    """This bundle's folder in the engine cache, named after what is in it; it may not exist yet.

    The hash is of all its graphs' hashes, so a bundle that was moved finds its engines again and one that was
    exported anew does not find the old ones.
    """
    m = bundle.manifest
    hashes = "".join(graph.sha256[:6] for graph in m.graphs)
    return engine_cache() / f"{m.name}-{m.precision['name']}-{hashes}"
