"""CUDA through pycuda, for machines where cuda-python cannot be installed. It has no graphs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np

from sttrack_deploy.engines.cuda.memory import Bytes, CudaError, Device, Graph, Stream, no_gpu
from sttrack_deploy.errors import UserError

try:
    import pycuda.driver as driver
except ImportError as reason:  # pycuda links to the driver's library
    raise no_gpu(" ".join(str(reason).split())) from reason

__all__ = ["PyCuda"]


class PyCuda:
    """Device 0 of those visible.

    It works in the primary context, the one that TensorRT, torch and the CUDA runtime use; ``pycuda.autoinit``
    would make another, in which none of their memory can be reached.

    Raises:
        UserError: there is no driver, or no GPU.
    """

    name = "pycuda"

    def __init__(self) -> None:
        try:
            driver.init()
            count = driver.Device.count()
        except driver.Error as error:
            raise no_gpu(str(error)) from error
        if not count:
            raise no_gpu("the driver lists none")
        self._device = driver.Device(0)
        self._context = self._device.retain_primary_context()
        self._memory: dict[int, object] = {}  # pycuda frees what nobody refers to

    def device(self) -> Device:
        major, minor = self._device.compute_capability()
        number = driver.get_driver_version()
        version = f"{number // 1000}.{number % 1000 // 10}"
        runtime = ".".join(map(str, driver.get_version()))
        return Device(
            self._device.name(), (int(major), int(minor)), self._device.total_memory(), version, runtime
        )

    def alloc(self, size: int) -> int:
        with self._current():
            memory = driver.mem_alloc(size)
        self._memory[int(memory)] = memory
        return int(memory)

    def free(self, address: int) -> None:
        with self._current():
            self._memory.pop(address).free()  # type: ignore[attr-defined]

    def pinned(self, size: int) -> Bytes:
        with self._current():
            memory: Bytes = driver.pagelocked_empty(size, np.uint8)
        return memory

    def free_pinned(self, memory: Bytes) -> None:
        with self._current():
            memory.base.free()  # type: ignore[union-attr]

    def to_device(self, address: int, memory: Bytes, stream: Stream) -> None:
        with self._current():
            driver.memcpy_htod_async(address, memory, stream.native)

    def to_host(self, memory: Bytes, address: int, stream: Stream) -> None:
        with self._current():
            driver.memcpy_dtoh_async(memory, address, stream.native)

    def stream(self) -> Stream:
        with self._current():
            native = driver.Stream(1)  # CU_STREAM_NON_BLOCKING
        return Stream(int(native.handle), native)

    def free_stream(self, stream: Stream) -> None:
        """pycuda destroys a stream with its last reference."""

    def synchronize(self, stream: Stream) -> None:
        with self._current():
            stream.native.synchronize()

    def capture(self, stream: Stream, work: Callable[[], bool]) -> Graph | None:  # noqa: ARG002
        return None

    def launch(self, graph: Graph, stream: Stream) -> None:  # noqa: ARG002
        raise UserError("pycuda has no CUDA graphs; install cuda-python for them")

    def free_graph(self, graph: Graph) -> None:  # noqa: ARG002
        raise UserError("pycuda has no CUDA graphs; install cuda-python for them")

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        """Make the primary context current for one call, and turn pycuda's errors into ours."""
        self._context.push()
        try:
            yield
        except driver.Error as error:
            raise CudaError(f"CUDA failed: {' '.join(str(error).split())}") from error
        finally:
            self._context.pop()
