"""Memory, streams and graphs of an NVIDIA GPU behind one small interface (:mod:`.memory`)."""

from __future__ import annotations

import importlib.util
import os

from sttrack_deploy.engines.cuda.memory import Cuda
from sttrack_deploy.errors import MissingDependencyError, UsageError

__all__ = ["INSTALL", "VARIABLE", "open_cuda"]

VARIABLE = "STTRACK_CUDA"
"""Environment variable that chooses the package: ``cuda-python`` (the default) or ``pycuda``."""


INSTALL = 'pip install "cuda-python>=12.6"'


def open_cuda() -> Cuda:
    """The GPU, through cuda-python, or pycuda where only that is installed or :data:`VARIABLE` asks for it.

    Raises:
        MissingDependencyError: neither is installed.
        UserError: there is no usable GPU or driver.
    """
    asked = os.environ.get(VARIABLE) or None
    if asked not in (None, "cuda-python", "pycuda"):
        raise UsageError(f"{VARIABLE} is {asked!r}; it can be cuda-python or pycuda")
    if asked != "pycuda" and _has("cuda.bindings"):
        from sttrack_deploy.engines.cuda.cuda_python import CudaPython

        return CudaPython()
    if asked != "cuda-python" and _has("pycuda"):
        from sttrack_deploy.engines.cuda.pycuda_adapter import PyCuda

        return PyCuda()
    if asked == "pycuda":
        raise MissingDependencyError("pycuda", "memory on the GPU", 'pip install "pycuda>=2024.1"')
    raise MissingDependencyError("cuda-python", "memory on the GPU", INSTALL)


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False
