"""Where built engines and caches are kept.

They fit one machine and can be built again, so they do not lie in the bundle: a bundle may be read-only, shared,
or inside an installed package.
"""

from __future__ import annotations

import os
from pathlib import Path

from sttrack_deploy.bundle import Bundle

__all__ = ["VARIABLE", "engines_shelf", "shelf_of"]

VARIABLE = "STTRACK_ENGINES"
"""Environment variable that names another shelf."""


def engines_shelf() -> Path:
    """The folder named by ``STTRACK_ENGINES``; else ``engines/`` of a checkout; else the user's cache."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "engines").is_dir():
        return checkout / "engines"
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "sttrack-deploy" / "engines"


def shelf_of(bundle: Bundle) -> Path:
    """This bundle's folder on the shelf, named after what is in it; it may not exist yet.

    The hash is of both graphs' hashes, so a bundle that was moved finds its engines again and one that was
    exported anew does not find the old ones.
    """
    m = bundle.manifest
    return engines_shelf() / f"{m.name}-{m.precision['name']}-{m.template.sha256[:6]}{m.search.sha256[:6]}"
