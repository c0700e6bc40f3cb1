"""Is there a GPU, a driver and a usable TensorRT? Asked before anything of TensorRT is touched."""

from __future__ import annotations

import importlib
import importlib.util
import re
from dataclasses import dataclass
from typing import Any

from sttrack_deploy.engines.cuda.memory import Cuda, Device, open_cuda
from sttrack_deploy.errors import MissingDependencyError, UserError

__all__ = ["INSTALL", "OLDEST", "Platform", "open_platform", "release_of"]

INSTALL = 'pip install "tensorrt>=10.12" "cuda-python>=12.6"'
OLDEST = (10, 12)
"""The first TensorRT whose strongly typed networks take every graph we write, by the same calls as TensorRT 11."""


@dataclass(frozen=True, slots=True)
class Platform:
    """TensorRT and the GPU it runs on.

    Attributes:
        trt: the module ``tensorrt``; it has no annotations, so its objects are ``Any`` in this package.
    """

    trt: Any
    cuda: Cuda
    device: Device

    @property
    def version(self) -> str:
        """Of TensorRT, as ``10.16.1.11``."""
        return str(self.trt.__version__)


def open_platform() -> Platform:
    """Load CUDA, then TensorRT.

    The order matters: without a driver TensorRT logs an error, returns an object, and crashes the process at the
    next call. cuda-python answers with an error code instead.

    Raises:
        MissingDependencyError: TensorRT or a CUDA package is not installed.
        UserError: there is no GPU or driver, or TensorRT is too old or broken.
    """
    if importlib.util.find_spec("tensorrt") is None:
        raise MissingDependencyError("tensorrt", "the engine 'tensorrt'", INSTALL)
    cuda = open_cuda()
    device = cuda.device()
    try:
        trt = importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:  # its libraries may be missing or be for another CUDA
        reason = " ".join(str(error).split())
        raise UserError(f"TensorRT cannot be loaded ({reason}); install it again: {INSTALL}") from error
    if release_of(trt.__version__)[:2] < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise UserError(
            f"TensorRT {trt.__version__} is too old, {oldest} is the oldest that works: {INSTALL}"
        )
    return Platform(trt, cuda, device)


def release_of(version: str) -> tuple[int, ...]:
    """Major, minor and patch number of a version: ``(10, 16, 1)`` of ``10.16.1.11``."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
