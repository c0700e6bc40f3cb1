"""Where built engines and caches are kept.

They fit one machine and can be built again, so they do not lie in the bundle: a bundle may be read-only, shared,
or inside an installed package.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.files import atomic_directory, cache_home, sha256_of

__all__ = ["SIDECAR", "VARIABLE", "altered", "cache_of", "engine_cache", "fits", "kept_in"]

VARIABLE = "STTRACK_ENGINES"
"""Environment variable that names another folder."""
SIDECAR = "manifest.json"
"""Beside the files of an engine: what they were made by and from, and their hashes."""


def engine_cache() -> Path:
    """The folder named by ``STTRACK_ENGINES``; else ``engines/`` of a checkout; else the user's cache."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "engines").is_dir():
        return checkout / "engines"
    return cache_home() / "sttrack-deploy" / "engines"


def cache_of(bundle: Bundle, root: Path | None = None) -> Path:
    """This bundle's folder in an engine cache, named after what is in it; it may not exist yet.

    The hash is of all its graphs' hashes, so a bundle that was moved finds its engines again and one that was
    exported anew does not find the old ones.

    Args:
        root: the cache; ``None``: the one where engines look.
    """
    m = bundle.manifest
    hashes = "".join(graph.sha256[:6] for graph in m.graphs)
    return (root or engine_cache()) / f"{m.name}-{m.precision['name']}-{hashes}"


@contextlib.contextmanager
def kept_in(folder: Path, facts: Mapping[str, Any]) -> Iterator[Path]:
    """A folder to write an engine's files into; it becomes ``folder``, with the sidecar, when the block ends.

    Args:
        facts: what the files depend on; see :func:`fits`.

    Raises:
        UserError: the folder cannot be written.
    """
    with atomic_directory(folder, shared=True) as partial:
        yield partial
        digests = {path.name: sha256_of(path) for path in sorted(partial.iterdir())}
        text = json.dumps({**facts, "sha256": digests}, indent=1, sort_keys=True)
        (partial / SIDECAR).write_text(text + "\n", encoding="utf-8")


def fits(folder: Path, facts: Mapping[str, Any], names: tuple[str, ...]) -> bool:
    """Whether these files lie there unaltered, and were made under the same facts.

    Whatever is wrong with them, making them again fixes it, so there is no reason to tell.
    """
    try:
        sidecar = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
        digests = {name: str(sidecar["sha256"][name]) for name in names}
        same = {key: sidecar.get(key) for key in facts} == dict(facts)
        return same and altered(folder, digests) is None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def altered(folder: Path, digests: Mapping[str, str]) -> str | None:
    """The first of these files whose SHA-256 is another one; ``None`` if there is none.

    Raises:
        OSError: one of them cannot be read.
    """
    return next((name for name, digest in digests.items() if sha256_of(folder / name) != digest), None)
