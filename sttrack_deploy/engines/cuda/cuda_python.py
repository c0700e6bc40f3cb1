"""CUDA through NVIDIA's own bindings (cuda-python)."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from cuda.bindings import runtime

from sttrack_deploy.engines.cuda.memory import Bytes, CudaError, Device, Graph, Stream, no_gpu

__all__ = ["CudaPython"]


class CudaPython:
    """The current device (``CUDA_VISIBLE_DEVICES`` chooses) through ``cuda.bindings.runtime``.

    Raises:
        UserError: there is no driver, or no GPU.
    """

    name = "cuda-python"

    def __init__(self) -> None:
        # Nothing else may come before this: TensorRT crashes the process where there is no driver.
        error, count = runtime.cudaGetDeviceCount()
        if error != runtime.cudaError_t.cudaSuccess:
            raise no_gpu(_describe(error))
        if not count:
            raise no_gpu("the driver lists none")

    def device(self) -> Device:
        number = _call(runtime.cudaGetDevice)
        properties = _call(runtime.cudaGetDeviceProperties, number)
        name = properties.name
        return Device(
            name.decode() if isinstance(name, bytes) else str(name),
            (int(properties.major), int(properties.minor)),
            int(properties.totalGlobalMem),
            _version(_call(runtime.cudaDriverGetVersion)),
            _version(_call(runtime.cudaRuntimeGetVersion)),
        )

    def alloc(self, size: int) -> int:
        return int(_call(runtime.cudaMalloc, size))

    def free(self, address: int) -> None:
        _call(runtime.cudaFree, address)

    def pinned(self, size: int) -> Bytes:
        address = int(_call(runtime.cudaHostAlloc, size, runtime.cudaHostAllocDefault))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def free_pinned(self, memory: Bytes) -> None:
        _call(runtime.cudaFreeHost, memory.ctypes.data)

    def to_device(self, address: int, memory: Bytes, stream: Stream) -> None:
        kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        _call(runtime.cudaMemcpyAsync, address, memory.ctypes.data, memory.nbytes, kind, stream.native)

    def to_host(self, memory: Bytes, address: int, stream: Stream) -> None:
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        _call(runtime.cudaMemcpyAsync, memory.ctypes.data, address, memory.nbytes, kind, stream.native)

    def stream(self) -> Stream:
        native = _call(runtime.cudaStreamCreateWithFlags, runtime.cudaStreamNonBlocking)
        return Stream(int(native), native)

    def free_stream(self, stream: Stream) -> None:
        _call(runtime.cudaStreamDestroy, stream.native)

    def synchronize(self, stream: Stream) -> None:
        _call(runtime.cudaStreamSynchronize, stream.native)

    def capture(self, stream: Stream, work: Callable[[], bool]) -> Graph | None:
        # Thread-local: another thread's allocation must not spoil the capture.
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        (error,) = runtime.cudaStreamBeginCapture(stream.native, mode)
        if error != runtime.cudaError_t.cudaSuccess:
            runtime.cudaGetLastError()  # clears it, so that no later call reports it
            return None
        recorded = False
        try:
            with contextlib.suppress(CudaError):  # a call that cannot be captured: do without
                recorded = work()
        finally:
            # Also after a failure: the stream must leave capture mode.
            error, graph = runtime.cudaStreamEndCapture(stream.native)
            ended = error == runtime.cudaError_t.cudaSuccess and bool(int(graph or 0))
            if not recorded or not ended:
                runtime.cudaGetLastError()
                if ended:
                    _call(runtime.cudaGraphDestroy, graph)
        if not recorded or not ended:
            return None
        error, executable = runtime.cudaGraphInstantiate(graph, 0)
        _call(runtime.cudaGraphDestroy, graph)
        if error != runtime.cudaError_t.cudaSuccess:
            runtime.cudaGetLastError()
            return None
        return Graph(executable)

    def launch(self, graph: Graph, stream: Stream) -> None:
        _call(runtime.cudaGraphLaunch, graph.native, stream.native)

    def free_graph(self, graph: Graph) -> None:
        _call(runtime.cudaGraphExecDestroy, graph.native)


def _call(function: Any, *arguments: Any) -> Any:
    """What the function returns beside its error code."""
    error, *values = function(*arguments)
    if error != runtime.cudaError_t.cudaSuccess:
        name = getattr(function, "__name__", "a call")
        hint = ""
        if error == runtime.cudaError_t.cudaErrorMemoryAllocation:
            hint = "; close other programs that use the GPU, or build for a smaller batch"
        raise CudaError(f"CUDA failed in {name}: {_describe(error)}{hint}")
    return values[0] if values else None


def _describe(error: Any) -> str:
    known, text = runtime.cudaGetErrorString(error)
    if known != runtime.cudaError_t.cudaSuccess:
        return f"CUDA error {int(error)}"
    return f"CUDA error {int(error)}: {text.decode() if isinstance(text, bytes) else text}"


def _version(number: int) -> str:
    """13040 is 13.4."""
    return f"{number // 1000}.{number % 1000 // 10}"
