"""The little of CUDA that an engine needs: memory, page-locked staging, one stream, graphs.

Device memory is an address. Every copy is asynchronous and ordered by its stream; what a copy reads or writes on the
host must be page-locked and must not be touched before :meth:`Cuda.synchronize`.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UserError

__all__ = ["ALIGNMENT", "Cuda", "CudaError", "Device", "Graph", "Stream", "TensorGroup", "when_gone"]


Bytes = npt.NDArray[np.uint8]


class CudaError(UserError):
    """CUDA refused; the line says which call and why."""


@dataclass(frozen=True, slots=True)
class Device:
    """The GPU in use.

    Attributes:
        capability: compute capability, as ``(8, 9)``.
        bytes: its memory.
        driver: highest CUDA version the driver supports, as ``13.0``.
        runtime: CUDA version of the runtime library, or of the bindings.
    """

    name: str
    capability: tuple[int, int]
    bytes: int
    driver: str
    runtime: str

    @property
    def sm(self) -> str:
        """As in ``sm_89``."""
        return f"sm_{self.capability[0]}{self.capability[1]}"


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream: the handle as an integer, for TensorRT, and the package's own object."""

    handle: int
    native: Any


@dataclass(frozen=True, slots=True)
class Graph:
    """A captured graph, ready to launch."""

    native: Any


class Cuda(Protocol):
    """One GPU. Objects of different packages, or of different GPUs, must not be mixed.

    Every method raises :class:`CudaError` where CUDA refuses.
    """

    name: str

    def device(self) -> Device: ...

    def alloc(self, size: int) -> int:
        """Address of ``size`` bytes on the device, aligned to at least 256."""
        ...

    def free(self, address: int) -> None: ...

    def pinned(self, size: int) -> Bytes:
        """Page-locked host memory, uint8 ``(size,)``; it lives until :meth:`free_pinned`."""
        ...

    def free_pinned(self, memory: Bytes) -> None:
        """``memory`` is what :meth:`pinned` returned, not a view of it."""
        ...

    def to_device(self, address: int, memory: Bytes, stream: Stream) -> None:
        """Copy all of a page-locked array to the device."""
        ...

    def to_host(self, memory: Bytes, address: int, stream: Stream) -> None:
        """Copy from the device until the page-locked array is full."""
        ...

    def stream(self) -> Stream:
        """A new stream that does not wait for the default one."""
        ...

    def free_stream(self, stream: Stream) -> None: ...

    def synchronize(self, stream: Stream) -> None:
        """Wait until the stream has done everything."""
        ...

    def capture(self, stream: Stream, work: Callable[[], bool]) -> Graph | None:
        """Record what ``work`` puts into the stream, without doing it.

        Returns:
            ``None`` where it cannot be recorded (``work`` said False, CUDA refused, or the package has no
            graphs); the stream can be used as before.
        """
        ...

    def launch(self, graph: Graph, stream: Stream) -> None:
        """Do what was recorded."""
        ...

    def free_graph(self, graph: Graph) -> None: ...


def no_gpu(reason: str) -> UserError:
    """The line for a machine without a usable GPU."""
    return UserError(
        f"there is no usable NVIDIA GPU here ({reason}); install or update the NVIDIA driver (nvidia-smi must list "
        "the GPU; in a container, start it with --gpus all), or choose another engine, such as --engine onnxruntime"
    )


ALIGNMENT = 256
"""Bytes: TensorRT wants every input and output to start at a multiple of it."""

Layout = Mapping[str, tuple[str, tuple[int, ...]]]
"""Dtype (NumPy's name) and shape by tensor."""


class TensorGroup:
    """Device memory for some tensors and, if asked for, page-locked memory of the same layout.

    Both are given back when the group is no longer referred to.

    Attributes:
        size: bytes in all.
    """

    def __init__(self, cuda: Cuda, layout: Layout, *, staged: bool = False) -> None:
        self._cuda = cuda
        self._layout = layout
        self._offsets: dict[str, int] = {}
        end = 0
        for name, (dtype, shape) in layout.items():
            self._offsets[name] = end
            end += -(-np.dtype(dtype).itemsize * math.prod(shape) // ALIGNMENT) * ALIGNMENT
        self.size = max(end, ALIGNMENT)
        self._address = cuda.alloc(self.size)
        when_gone(self, cuda.free, self._address)
        self._staging: Bytes | None = None
        if staged:
            self._staging = cuda.pinned(self.size)
            when_gone(self, cuda.free_pinned, self._staging)
            self._staging[:] = 0  # the gaps between tensors are copied as well
            self._views = self._views_of(self._staging)

    def address(self, name: str) -> int:
        """Where a tensor starts on the device."""
        return self._address + self._offsets[name]

    def view(self, name: str) -> npt.NDArray[Any]:
        """The page-locked copy of a tensor of a staged group."""
        return self._views[name]

    def upload(self, stream: Stream) -> None:
        """Enqueue the copy of all staged tensors to the device."""
        assert self._staging is not None
        self._cuda.to_device(self._address, self._staging, stream)

    def download(self, stream: Stream) -> None:
        """Enqueue the copy of all tensors from the device to the staging memory."""
        assert self._staging is not None
        self._cuda.to_host(self._staging, self._address, stream)

    def read(self, stream: Stream) -> dict[str, npt.NDArray[Any]]:
        """Copies of all tensors, for looking into them; waits for the stream."""
        staging = self._cuda.pinned(self.size)
        try:
            self._cuda.to_host(staging, self._address, stream)
            self._cuda.synchronize(stream)
            return {name: view.copy() for name, view in self._views_of(staging).items()}
        finally:
            self._cuda.free_pinned(staging)

    def write(self, values: Mapping[str, npt.NDArray[Any]], stream: Stream) -> None:
        """Put values into all tensors; waits for the stream."""
        staging = self._cuda.pinned(self.size)
        try:
            staging[:] = 0
            for name, view in self._views_of(staging).items():
                view[...] = values[name]
            self._cuda.to_device(self._address, staging, stream)
            self._cuda.synchronize(stream)
        finally:
            self._cuda.free_pinned(staging)

    def _views_of(self, memory: Bytes) -> dict[str, npt.NDArray[Any]]:
        views = {}
        for name, (dtype, shape) in self._layout.items():
            start = self._offsets[name]
            end = start + np.dtype(dtype).itemsize * math.prod(shape)
            views[name] = memory[start:end].view(dtype).reshape(shape)
        return views


def when_gone(owner: object, function: Callable[[Any], None], argument: Any) -> None:
    """Call ``function(argument)`` when nothing refers to ``owner`` any more."""
    finalizer = weakref.finalize(owner, function, argument)
    finalizer.atexit = False  # CUDA may be gone first; the process's memory is given back anyway
