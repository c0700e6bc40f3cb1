"""What the build steps of all engines share: options, what they report, what they hand back, where it is kept.

A build turns a bundle into files that fit this machine. Each target has a function
``build(bundle, options, report) -> BuiltEngine``; :data:`BUILDERS` names it. What is built can be built again, so it
does not lie in the bundle: that may be read-only, shared, or inside an installed package.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.errors import UsageError
from sttrack_deploy.files import atomic_directory, cache_home, sha256_of

__all__ = [
    "BUILDERS",
    "SIDECAR",
    "VARIABLE",
    "BatchRange",
    "BuildOptions",
    "BuildReport",
    "Builder",
    "BuiltEngine",
    "SilentReport",
    "altered",
    "batch_range",
    "builder_of",
    "cache_of",
    "child_environment",
    "engine_cache",
    "fits",
    "folder_of",
    "kept_in",
]


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


@dataclass(frozen=True, slots=True)
class BatchRange:
    """Numbers of targets that an engine takes: the least, the one it is tuned for, the most."""

    least: int
    best: int
    most: int

    @property
    def fixed(self) -> bool:
        return self.least == self.most


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How to build; a target ignores what it has no use for and must not ignore it silently where it matters.

    Attributes:
        out: another engine cache to write into (:func:`folder_of`).
        batch: targets for each call, for bundles whose batch is dynamic; ``None`` for 1.
        threads: CPU threads that a compiled model is to use; ``None`` leaves it to the back end.
        workspace_mib: most scratch memory a kernel may take on the GPU; ``None`` leaves it to the back end.
        optimization_level: 0 (fast build) to 5 (fast engine); ``None`` for the back end's own.
        hardware_compatible: also run on other GPUs of this and later generations; slower.
        version_compatible: also run with later versions of the back end's library; slower.
        tf32: let FP32 products be computed with ten bits of mantissa; faster, and not what the bundle says.
        compute_capabilities: of the GPUs to build for, as ``8.9``, where the target needs none to build; empty for its
            own choice.
        timing_cache: reuse and extend the measurements of earlier builds that lie in the engine cache.
        force: build although what is there fits.
    """

    out: Path | None = None
    batch: BatchRange | None = None
    threads: int | None = None
    workspace_mib: int | None = None
    optimization_level: int | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False
    tf32: bool = False
    compute_capabilities: tuple[str, ...] = ()
    timing_cache: bool = True
    force: bool = False


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """What a build made.

    Attributes:
        files: everything written, the file that is run first.
        facts: what to print and keep: versions, device, seconds, ``"reused": True`` if nothing had to be built.
    """

    files: tuple[Path, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(file.stat().st_size for file in self.files)


class BuildReport(Protocol):
    """Where a build says what it is doing; may be called from any thread."""

    def phase(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins; it has ``steps`` steps and belongs to the phase ``parent``, if any."""
        ...

    def step(self, name: str, done: int) -> bool:
        """``done`` steps of the phase are finished. False asks the build to stop."""
        ...

    def finish(self, name: str) -> None:
        """The phase is over."""
        ...

    def note(self, text: str) -> None:
        """A line for the user, such as a warning of the back end."""
        ...


class SilentReport:
    """A report that nobody reads."""

    def phase(self, name: str, parent: str | None, steps: int) -> None:
        pass

    def step(self, name: str, done: int) -> bool:  # noqa: ARG002
        return True

    def finish(self, name: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class Builder(Protocol):
    """The function that builds for a target."""

    def __call__(self, bundle: Bundle, options: BuildOptions, report: BuildReport) -> BuiltEngine: ...


BUILDERS: dict[str, str] = {
    "tensorrt": "sttrack_deploy.engines.tensorrt.plan_build:build",
    "tensorrt-rtx": "sttrack_deploy.engines.tensorrt.plan_build:build_rtx",
    "openvino": "sttrack_deploy.engines.openvino.build:build",
    "onnxruntime": "sttrack_deploy.engines.onnxruntime.engine:build",
}
"""Module and function of each target; what is not in the base install is imported when it is called."""


def builder_of(target: str) -> Builder:
    """The function that builds for a target.

    Raises:
        UsageError: there is no such target.
    """
    if target not in BUILDERS:
        raise UsageError(f"there is no target {target!r}; targets are {', '.join(BUILDERS)}")
    module, _, function = BUILDERS[target].partition(":")
    build: Builder = getattr(importlib.import_module(module), function)
    return build


def child_environment() -> dict[str, str]:
    """This process's environment for one that builds apart, so that it finds the same packages."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}


def folder_of(bundle: Bundle, options: BuildOptions) -> Path:
    """Where a build writes: the bundle's folder in the engine cache, or in the one asked for."""
    return cache_of(bundle, options.out)


def batch_range(bundle: Bundle, asked: BatchRange | None) -> BatchRange:
    """The batch to build for.

    Raises:
        UsageError: a range was asked for that the bundle does not allow, or that is not in order.
    """
    fixed = bundle.manifest.batch
    if isinstance(fixed, int):
        if asked is not None and asked != BatchRange(fixed, fixed, fixed):
            raise UsageError(
                f"the bundle {bundle.path} takes exactly {fixed} target(s) a call, not {asked.least} to {asked.most}; "
                "leave --batch out, or export it again with --batch dynamic"
            )
        return BatchRange(fixed, fixed, fixed)
    if asked is None:
        return BatchRange(1, 1, 1)
    if not 1 <= asked.least <= asked.best <= asked.most:
        raise UsageError(
            f"a batch of {asked.least} to {asked.most}, best {asked.best}, is not in order; "
            "say MIN,BEST,MAX, such as 1,1,8"
        )
    return asked
