"""A double of ``cuda.bindings.runtime``: the real names, with a device whose memory is kept in NumPy arrays.

Device addresses are invented, so nothing on the host can read them. Work in a stream is done as late as CUDA allows: at
the synchronization; what reads a result before, or overwrites a source before, computes with the wrong bytes. Misuse
that CUDA would not notice (out of bounds, memory never written, freed while in use) raises :class:`Misuse`.
"""

from __future__ import annotations

import ctypes
import enum
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gpu_contract import bind, cuda_contract

__all__ = ["FakeGpu", "Misuse"]

GARBAGE = 0xA5


class Misuse(BaseException):
    """What would crash a GPU or give wrong numbers in silence. Not an ``Exception``: nothing may catch it."""


@dataclass
class _Memory:
    data: np.ndarray
    written: np.ndarray


@dataclass
class _Stream:
    queue: list[Callable[[], None]] = field(default_factory=list)
    recording: list[Callable[[], None]] | None = None
    spoiled: bool = False


class Handle:
    """``cudaStream_t`` and its like: an object that is its number when asked."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __int__(self) -> int:
        return self._number


class FakeGpu:
    """One GPU and its driver.

    Attributes:
        driver: False: no driver is installed.
        no_capture: CUDA refuses to begin a capture.
        memory_limit: bytes that can be allocated.
        calls: number of calls by name; ``launches`` counts graphs.
    """

    def __init__(self, version: str = "13") -> None:
        self.contract = cuda_contract(version)
        self.driver = True
        self.devices = 1
        self.name = b"NVIDIA Imaginary 1000"
        self.capability = (8, 9)
        self.no_capture = False
        self.memory_limit = 8 << 30
        self.calls: dict[str, int] = {}
        self._device: dict[int, _Memory] = {}
        self._host: dict[int, np.ndarray] = {}
        self._streams: dict[int, _Stream] = {}
        self._graphs: dict[int, list[Callable[[], None]]] = {}
        self._executables: dict[int, list[Callable[[], None]]] = {}
        self._next = 0x7F0000000000
        self._handle = 0x100
        self.enums: dict[str, Any] = {
            name: enum.IntEnum(name, value)
            for name, value in self.contract.items()
            if isinstance(value, dict) and value
        }
        self._errors = self.enums["cudaError_t"]

    # What the TensorRT double uses.

    def read(self, address: int, size: int) -> np.ndarray:
        """Bytes that must all have been written before."""
        memory, start = self._at(address, size)
        if not memory.written[start : start + size].all():
            raise Misuse(f"{size} bytes at {address:#x} are read, but not all of them were ever written")
        return memory.data[start : start + size].copy()

    def write(self, address: int, values: np.ndarray) -> None:
        memory, start = self._at(address, values.nbytes)
        memory.data[start : start + values.nbytes] = values
        memory.written[start : start + values.nbytes] = True

    def is_device(self, address: int) -> bool:
        return any(start <= address < start + len(memory.data) for start, memory in self._device.items())

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        found = self._streams[stream]
        (found.queue if found.recording is None else found.recording).append(work)

    def capturing(self, stream: int) -> bool:
        return self._streams[stream].recording is not None

    def spoil(self, stream: int) -> None:
        """What cannot be captured was tried: the capture is lost."""
        self._streams[stream].spoiled = True

    def drop(self) -> None:
        """Forget what is waiting, after a provoked misuse."""
        for stream in self._streams.values():
            stream.queue.clear()

    @property
    def held(self) -> tuple[int, int, int, int]:
        """Allocations on the device, page-locked ones, streams, executable graphs."""
        return len(self._device), len(self._host), len(self._streams), len(self._executables)

    # The module.

    def module(self) -> types.ModuleType:
        """``cuda.bindings.runtime``."""
        module = types.ModuleType("cuda.bindings.runtime")
        for name, value in self.contract.items():
            if name in self.enums:
                setattr(module, name, self.enums[name])
            elif isinstance(value, int):
                setattr(module, name, value)
            elif isinstance(value, str):
                setattr(module, name, self._function(name, value))
        return module

    def _function(self, name: str, parameters: str) -> Callable[..., Any]:
        text = f"({parameters})"

        def call(*arguments: Any, **named: Any) -> tuple[Any, ...]:
            # The listing has "size_t size" and "kind: cudaMemcpyKind"; what counts here is how many there are.
            bind(name, text, self._accepts, arguments, named)
            self.calls[name] = self.calls.get(name, 0) + 1
            implementation = getattr(self, f"_{name}", None)
            if implementation is None:
                raise NotImplementedError(f"the double of CUDA does not do {name}")
            if not self.driver and name not in (
                "cudaGetErrorString",
                "cudaGetLastError",
                "cudaRuntimeGetVersion",
            ):
                return (self._errors.cudaErrorInsufficientDriver, *([None] * (name not in _NO_VALUE)))
            result: tuple[Any, ...] = implementation(*arguments)
            return result

        call.__name__ = name
        return call

    def _accepts(self, kind: str, value: Any) -> bool:
        if kind in self.enums:  # cuda-python insists on its own enums
            return isinstance(value, self.enums[kind])
        return isinstance(value, int | Handle | np.integer)

    def _ok(self, *values: Any) -> tuple[Any, ...]:
        return (self._errors.cudaSuccess, *values)

    def _cudaGetDeviceCount(self) -> tuple[Any, ...]:
        return self._ok(self.devices)

    def _cudaGetDevice(self) -> tuple[Any, ...]:
        return self._ok(0)

    def _cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        known = self.contract["cudaDeviceProp"]
        major, minor = self.capability
        values = {"name": self.name, "major": major, "minor": minor, "totalGlobalMem": self.memory_limit}
        assert set(values) <= set(known)
        return self._ok(types.SimpleNamespace(**values))

    def _cudaDriverGetVersion(self) -> tuple[Any, ...]:
        return self._ok(13040)

    def _cudaRuntimeGetVersion(self) -> tuple[Any, ...]:
        return self._ok(13000)

    def _cudaGetErrorString(self, error: Any) -> tuple[Any, ...]:
        return self._ok(f"{error.name} in words".encode())

    def _cudaGetLastError(self) -> tuple[Any, ...]:
        return self._ok()

    def _cudaMalloc(self, size: int) -> tuple[Any, ...]:
        for stream in self._streams.values():
            if stream.recording is not None:  # not allowed while a thread captures
                stream.spoiled = True
                return self._errors.cudaErrorStreamCaptureUnsupported, None
        if sum(len(m.data) for m in self._device.values()) + size > self.memory_limit:
            return self._errors.cudaErrorMemoryAllocation, None
        address = self._next
        self._next += -(-size // 512) * 512 + 512
        self._device[address] = _Memory(np.full(size, GARBAGE, np.uint8), np.zeros(size, np.bool_))
        return self._ok(address)

    def _cudaFree(self, address: int) -> tuple[Any, ...]:
        if any(stream.queue for stream in self._streams.values()):
            raise Misuse(f"device memory {address:#x} is freed while work is waiting")
        if self._device.pop(address, None) is None:
            return (self._errors.cudaErrorInvalidValue,)
        return self._ok()

    def _cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        data = np.full(size, GARBAGE, np.uint8)
        self._host[data.ctypes.data] = data
        return self._ok(data.ctypes.data)

    def _cudaFreeHost(self, address: int) -> tuple[Any, ...]:
        if any(stream.queue for stream in self._streams.values()):
            raise Misuse("page-locked memory is freed while work is waiting")
        return (
            self._ok() if self._host.pop(address, None) is not None else (self._errors.cudaErrorInvalidValue,)
        )

    def _cudaMemcpyAsync(self, to: int, source: int, size: int, kind: Any, stream: Handle) -> tuple[Any, ...]:
        kinds = self.enums["cudaMemcpyKind"]
        if kind == kinds.cudaMemcpyHostToDevice:
            host, address = source, to
        elif kind == kinds.cudaMemcpyDeviceToHost:
            host, address = to, source
        else:
            raise NotImplementedError(f"the double of CUDA does not copy {kind!r}")
        self._pinned(host, size)
        self._at(address, size)

        def work() -> None:
            self._pinned(host, size)  # still there?
            memory, start = self._at(address, size)
            bytes_ = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(host))
            if kind == kinds.cudaMemcpyHostToDevice:
                self.write(address, bytes_)
            elif not memory.written[start : start + size].any():
                raise Misuse("memory that nothing has written is copied to the host")
            else:
                bytes_[:] = memory.data[start : start + size]

        self.enqueue(int(stream), work)
        return self._ok()

    def _cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        self._handle += 1
        self._streams[self._handle] = _Stream()
        return self._ok(Handle(self._handle))

    def _cudaStreamDestroy(self, stream: Handle) -> tuple[Any, ...]:
        self._streams.pop(int(stream))
        return self._ok()

    def _cudaStreamSynchronize(self, stream: Handle) -> tuple[Any, ...]:
        found = self._streams[int(stream)]
        if found.recording is not None:
            found.spoiled = True
            return (self._errors.cudaErrorStreamCaptureUnsupported,)
        while found.queue:
            found.queue.pop(0)()
        return self._ok()

    def _cudaStreamBeginCapture(self, stream: Handle, mode: Any) -> tuple[Any, ...]:
        if self.no_capture:
            return (self._errors.cudaErrorStreamCaptureUnsupported,)
        found = self._streams[int(stream)]
        if found.recording is not None:
            return (self._errors.cudaErrorIllegalState,)
        found.recording, found.spoiled = [], False
        return self._ok()

    def _cudaStreamEndCapture(self, stream: Handle) -> tuple[Any, ...]:
        found = self._streams[int(stream)]
        recorded, found.recording = found.recording, None
        if recorded is None:
            return self._errors.cudaErrorIllegalState, None
        if found.spoiled:
            return self._errors.cudaErrorStreamCaptureInvalidated, None
        self._handle += 1
        self._graphs[self._handle] = recorded
        return self._ok(Handle(self._handle))

    def _cudaGraphInstantiate(self, graph: Handle, flags: int) -> tuple[Any, ...]:
        self._handle += 1
        self._executables[self._handle] = list(self._graphs[int(graph)])
        return self._ok(Handle(self._handle))

    def _cudaGraphDestroy(self, graph: Handle) -> tuple[Any, ...]:
        self._graphs.pop(int(graph))
        return self._ok()

    def _cudaGraphLaunch(self, graph: Handle, stream: Handle) -> tuple[Any, ...]:
        self._streams[int(stream)].queue.extend(self._executables[int(graph)])
        return self._ok()

    def _cudaGraphExecDestroy(self, graph: Handle) -> tuple[Any, ...]:
        self._executables.pop(int(graph))
        return self._ok()

    def _at(self, address: int, size: int) -> tuple[_Memory, int]:
        for start, memory in self._device.items():
            if start <= address < start + len(memory.data):
                if address + size > start + len(memory.data):
                    raise Misuse(
                        f"{size} bytes at {address:#x} reach past an allocation of {len(memory.data)}"
                    )
                return memory, address - start
        raise Misuse(f"{address:#x} is no memory of the device (wrong direction, or freed)")

    def _pinned(self, address: int, size: int) -> None:
        for start, data in self._host.items():
            if start <= address and address + size <= start + len(data):
                return
        raise Misuse(f"{size} bytes at {address:#x} are not page-locked host memory")


_NO_VALUE = ("cudaFree", "cudaFreeHost", "cudaStreamSynchronize", "cudaStreamDestroy", "cudaSetDevice")
