"""Back ends by name, imported only when asked for."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.engines.base import Engine, ProfiledEngine
from sttrack_deploy.errors import MissingDependencyError, UsageError, UserError

__all__ = ["BACKENDS", "DEFAULT_BACKEND", "Backend", "load_engine"]


@dataclass(frozen=True, slots=True)
class Backend:
    """A back end's name, the package it needs and how to install it.

    Attributes:
        module: defines ``devices() -> list[str]`` and what ``maker`` names.
        package: the import name it needs.
        distributions: names it may be installed under.
        install: the exact install line.
        maker: function of the module, ``(bundle, threads) -> Engine``.
        shared_package: another distribution gives a package of the same name that lacks what this back end
            needs, so that one of ``distributions`` must be installed for it to count as available.
        profiler: name of a ``(bundle, threads) -> ProfiledEngine`` in the module; ``None`` where there is none.
    """

    name: str
    module: str
    package: str
    distributions: tuple[str, ...]
    install: str
    maker: str = "create"
    shared_package: bool = False
    profiler: str | None = None

    @property
    def available(self) -> bool:
        if importlib.util.find_spec(self.package) is None:
            return False
        return not self.shared_package or self.installed_version is not None

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
_GPU_INSTALL = 'pip uninstall -y onnxruntime && pip install "onnxruntime-gpu[cuda,cudnn]"'
_ALL = (
    Backend(
        "onnxruntime",
        "sttrack_deploy.engines.onnxruntime.engine",
        "onnxruntime",
        ("onnxruntime", "onnxruntime-gpu"),
        "pip install onnxruntime",
        profiler="create_profiled",
    ),
    Backend(
        "torch",
        "sttrack_deploy.engines.torch.engine",
        "torch",
        ("torch",),
        'pip install "torch==2.13.*" safetensors',
    ),
    Backend(
        "openvino",
        "sttrack_deploy.engines.openvino.engine",
        "openvino",
        ("openvino",),
        'pip install "openvino>=2024.6"',
        profiler="create_profiled",
    ),
    Backend(
        "openvino-bf16",
        "sttrack_deploy.engines.openvino.engine",
        "openvino",
        ("openvino",),
        'pip install "openvino>=2024.6"',
        maker="create_bf16",
        profiler="create_profiled_bf16",
    ),
    Backend(
        "onnxruntime-cuda",
        "sttrack_deploy.engines.onnxruntime.gpu",
        "onnxruntime",
        ("onnxruntime-gpu",),
        _GPU_INSTALL,
        maker="create_cuda",
        shared_package=True,
    ),
    Backend(
        "onnxruntime-tensorrt",
        "sttrack_deploy.engines.onnxruntime.gpu",
        "onnxruntime",
        ("onnxruntime-gpu",),
        f"{_GPU_INSTALL} tensorrt",
        maker="create_tensorrt",
        shared_package=True,
    ),
    Backend(
        "onnxruntime-web",
        "sttrack_deploy.engines.onnxruntime_web.engine",
        "selenium",
        ("selenium",),
        "apt-get install chromium chromium-driver npm && pip install selenium",
    ),
    Backend(
        "tensorrt",
        "sttrack_deploy.engines.tensorrt.engine",
        "tensorrt",
        ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
        'pip install "tensorrt>=10.12" "cuda-python>=12.6"',
    ),
    Backend(
        "tensorrt-rtx",
        "sttrack_deploy.engines.tensorrt.engine",
        "tensorrt_rtx",
        ("tensorrt-rtx-cu12", "tensorrt-rtx-cu13", "tensorrt-rtx"),
        'pip install "tensorrt-rtx-cu12>=1.7" "cuda-python>=12.6"',
        maker="create_rtx",
    ),
)
BACKENDS: dict[str, Backend] = {backend.name: backend for backend in _ALL}


def load_engine(name: str, bundle: Bundle, threads: int | None = None) -> Engine:
    """The engine of that name for a bundle.

    Args:
        threads: threads for one inference; ``None`` leaves it to the back end.

    Raises:
        UsageError: there is no back end of that name.
        MissingDependencyError: its package is not installed.
        UserError: it cannot compute in the bundle's precision.
    """
    backend = _installed(name)
    make = getattr(importlib.import_module(backend.module), backend.maker)
    engine: Engine = make(bundle.for_engine(name), threads)
    return engine


def load_profiled(name: str, bundle: Bundle, threads: int | None = None) -> ProfiledEngine:
    """The same, with counters.

    Raises:
        UserError: as :func:`load_engine`, and where this engine has none.
    """
    backend = _installed(name)
    if backend.profiler is None:
        known = ", ".join(backend.name for backend in _ALL if backend.profiler)
        raise UserError(f"'{name}' does not say how long its operators take; those that do: {known}")
    make = getattr(importlib.import_module(backend.module), backend.profiler)
    engine: ProfiledEngine = make(bundle.for_engine(name), threads)
    return engine


def _installed(name: str) -> Backend:
    backend = BACKENDS.get(name)
    if backend is None:
        raise UsageError(f"there is no engine {name!r}; engines are {', '.join(BACKENDS)}")
    if not backend.available:
        package = backend.distributions[0] if backend.shared_package else backend.package
        raise MissingDependencyError(package, f"the engine '{name}'", backend.install)
    return backend
