"""Several tensors in one piece of device memory, so that one copy moves them all."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sttrack_deploy.engines.cuda.memory import Bytes, Cuda, Stream

__all__ = ["ALIGNMENT", "TensorGroup", "when_gone"]

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
