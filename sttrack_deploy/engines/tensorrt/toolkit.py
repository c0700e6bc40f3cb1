"""TensorRT and TensorRT for RTX: what differs between the two, and whether one of them and a GPU can be used here."""

from __future__ import annotations

import importlib
import importlib.util
import re
from dataclasses import dataclass
from typing import Any

from sttrack_deploy.engines.cuda import open_cuda
from sttrack_deploy.engines.cuda.memory import Cuda, Device
from sttrack_deploy.errors import MissingDependencyError, UserError, one_line

__all__ = [
    "FLAVORS",
    "RTX",
    "TENSORRT",
    "Flavor",
    "Platform",
    "Toolkit",
    "open_platform",
    "open_toolkit",
    "release_of",
]


@dataclass(frozen=True, slots=True)
class Flavor:
    """One of the two libraries.

    Attributes:
        name: of the target and the engine, and of the folder in the engine cache.
        title: what messages call it.
        module: import name.
        magic: first bytes of a plan.
        oldest: first version whose strongly typed networks take every graph we write, by the same calls.
        install: the exact install line.
        portable: it builds without a GPU, for a list of compute capabilities, on any operating system; the kernels
            are compiled where the plan is run. The other builds on the GPU that it builds for.
        timing_cache: it measures kernels while it builds and can keep the measurements.
    """

    name: str
    title: str
    module: str
    magic: bytes
    oldest: tuple[int, int]
    install: str
    portable: bool
    timing_cache: bool


TENSORRT = Flavor(
    name="tensorrt",
    title="TensorRT",
    module="tensorrt",
    magic=b"ftrt",
    oldest=(10, 12),
    install='pip install "tensorrt>=10.12" "cuda-python>=12.6"',
    portable=False,
    timing_cache=True,
)
RTX = Flavor(
    name="tensorrt-rtx",
    title="TensorRT for RTX",
    module="tensorrt_rtx",
    magic=b"vtrt",
    oldest=(1, 7),
    install='pip install "tensorrt-rtx-cu12>=1.7" "cuda-python>=12.6"',
    portable=True,
    timing_cache=False,
)
FLAVORS = {flavor.name: flavor for flavor in (TENSORRT, RTX)}


@dataclass(frozen=True, slots=True)
class Toolkit:
    """A TensorRT that is installed; enough for building where the flavor is portable.

    Attributes:
        trt: its module; it has no annotations, so its objects are ``Any`` in this package.
    """

    flavor: Flavor
    trt: Any

    @property
    def version(self) -> str:
        """Of TensorRT, as ``10.16.1.11``."""
        return str(self.trt.__version__)


@dataclass(frozen=True, slots=True)
class Platform(Toolkit):
    """TensorRT and the GPU it runs on."""

    cuda: Cuda
    device: Device


def open_toolkit(flavor: Flavor) -> Toolkit:
    """Load a TensorRT, and nothing of CUDA.

    Raises:
        MissingDependencyError: it is not installed.
        UserError: it is too old or broken.
    """
    _check_installed(flavor)
    try:
        trt = importlib.import_module(flavor.module)
    except (ImportError, OSError) as error:  # its libraries may be missing or be for another CUDA
        reason = one_line(error)
        raise UserError(
            f"{flavor.title} cannot be loaded ({reason}); install it again: {flavor.install}"
        ) from error
    if release_of(trt.__version__)[:2] < flavor.oldest:
        oldest = ".".join(map(str, flavor.oldest))
        raise UserError(
            f"{flavor.title} {trt.__version__} is too old, {oldest} is the oldest that works: {flavor.install}"
        )
    return Toolkit(flavor, trt)


def open_platform(flavor: Flavor = TENSORRT) -> Platform:
    """Load CUDA, then TensorRT.

    The order matters: without a driver TensorRT logs an error, returns an object, and crashes the process at the
    next call. cuda-python answers with an error code instead.

    Raises:
        MissingDependencyError: TensorRT or a CUDA package is not installed.
        UserError: there is no GPU or driver, or TensorRT is too old or broken.
    """
    _check_installed(flavor)
    cuda = open_cuda()
    device = cuda.device()
    return Platform(flavor, open_toolkit(flavor).trt, cuda, device)


def _check_installed(flavor: Flavor) -> None:
    if importlib.util.find_spec(flavor.module) is None:
        raise MissingDependencyError(flavor.module, f"the engine '{flavor.name}'", flavor.install)


def release_of(version: str) -> tuple[int, ...]:
    """Major, minor and patch number of a version: ``(10, 16, 1)`` of ``10.16.1.11``."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
