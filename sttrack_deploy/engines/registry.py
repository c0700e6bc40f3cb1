"""Back ends by name, imported only when asked for."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.engines.base import Engine
from sttrack_deploy.errors import MissingDependencyError, UsageError

__all__ = ["BACKENDS", "DEFAULT_BACKEND", "Backend", "create_engine"]


@dataclass(frozen=True, slots=True)
class Backend:
    """A back end's name, the package it needs and how to install it.

    Attributes:
        module: defines ``create(bundle, threads) -> Engine`` and ``devices() -> list[str]``.
        package: the import name it needs.
        distributions: names it may be installed under.
        install: the exact install line.
    """

    name: str
    module: str
    package: str
    distributions: tuple[str, ...]
    install: str

    @property
    def available(self) -> bool:
        return importlib.util.find_spec(self.package) is not None

    @property
    def installed_version(self) -> str | None:
        for name in self.distributions:
            try:
                return version(name)
            except PackageNotFoundError:
                continue
        return None

    def devices(self) -> list[str]:
        """Execution providers or devices, as the back end names them; empty if it is not installed."""
        if not self.available:
            return []
        names: list[str] = importlib.import_module(self.module).devices()
        return names


DEFAULT_BACKEND = "onnxruntime"
BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend(
            "onnxruntime",
            "sttrack_deploy.engines.onnxruntime_engine",
            "onnxruntime",
            ("onnxruntime", "onnxruntime-gpu"),
            "pip install onnxruntime",
        ),
        Backend(
            "torch",
            "sttrack_deploy.engines.torch_engine",
            "torch",
            ("torch",),
            'pip install "torch==2.13.*" safetensors',
        ),
    )
}


def create_engine(name: str, bundle: Bundle, threads: int | None = None) -> Engine:
    """The engine of that name for a bundle.

    Args:
        threads: threads for one inference; ``None`` leaves it to the back end.

    Raises:
        UsageError: there is no back end of that name.
        MissingDependencyError: its package is not installed.
    """
    backend = BACKENDS.get(name)
    if backend is None:
        raise UsageError(f"there is no engine {name!r}; engines are {', '.join(BACKENDS)}")
    if not backend.available:
        raise MissingDependencyError(backend.package, f"the engine '{name}'", backend.install)
    engine: Engine = importlib.import_module(backend.module).create(bundle, threads)
    return engine
