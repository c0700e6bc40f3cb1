"""What the running half of the TensorRT double does. Each gets the object, the double, then the arguments."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from fake_cuda import Misuse
from fake_tensorrt import FakeTensorRT, Segfault, plan_parts
from fake_tensorrt_values import NUMPY, TYPES, WORKSPACE, HostMemory, session_of, shape_of


class Runtime:
    def __init__(self: Any, fake: FakeTensorRT, logger: Any) -> None:
        self._own.logger, self._own.engine_host_code_allowed = logger, False
        if not fake.gpu.driver:  # it says so and goes on; the next call ends the process
            fake.log(logger, "ERROR", "CUDA initialization failure with error: 35")

    def engine_header_size(self: Any, fake: FakeTensorRT) -> int:
        return 64

    def get_engine_validity(self: Any, fake: FakeTensorRT, data: Any) -> tuple[Any, int]:
        """The real one reads the header, which does not hold the targets: they are remembered by ``invalid``."""
        valid, reasons = fake.enums["EngineValidity"], fake.enums["EngineInvalidityDiagnostics"]
        data = bytes(data)
        if len(data) != 64 or data[:4] != b"vtrt":
            return valid["INVALID"], int(reasons["MALFORMED_ENGINE"])
        if ".".join(map(str, data[24:28])) != fake.version:
            return valid["INVALID"], int(reasons["VERSION_MISMATCH"])
        if fake.invalid is None:
            return valid["VALID"], 0
        return valid["INVALID"], sum(int(reasons[name]) for name in fake.invalid)

    def deserialize_cuda_engine(self: Any, fake: FakeTensorRT, data: Any) -> Any:
        if not fake.gpu.driver and fake.rtx:
            fake.log(self._own.logger, "ERROR", "checkMacros.cpp::catchCudaError::250 error 35")
            return None
        if not fake.gpu.driver:
            raise Segfault("Runtime.deserialize_cuda_engine without a driver")
        try:
            version, facts, onnx = plan_parts(bytes(data))
            session = session_of(onnx)
        except Exception as error:
            fake.log(self._own.logger, "ERROR", f"Serialization (Error Code 1): {error}")
            return None
        compatible = "VERSION_COMPATIBLE" in facts["flags"] and self._own.engine_host_code_allowed
        if version != fake.version and not compatible:
            fake.log(self._own.logger, "ERROR", f"expecting library version {fake.version} got {version}")
            return None
        if fake.rtx:
            major, minor = fake.gpu.capability
            if f"SM{major}{minor}" not in facts["targets"]:
                fake.log(self._own.logger, "ERROR", "the engine does not support this compute capability")
                return None
        elif facts["hardware"] == "NONE" and facts["gpu"][1] != list(fake.gpu.capability):
            fake.log(self._own.logger, "ERROR", "the engine was built for another compute capability")
            return None
        return fake.new("ICudaEngine", session=session, facts=facts, logger=self._own.logger, contexts=0)


def _io(engine: Any) -> dict[str, tuple[str, tuple[int, ...], str]]:
    session = engine._own.session
    found = {i.name: ("INPUT", shape_of(i.shape), TYPES[i.type]) for i in session.get_inputs()}
    return found | {o.name: ("OUTPUT", shape_of(o.shape), TYPES[o.type]) for o in session.get_outputs()}


class ICudaEngine:
    def num_io_tensors(self: Any, fake: FakeTensorRT) -> int:
        return len(_io(self))

    def get_tensor_name(self: Any, fake: FakeTensorRT, index: int) -> str:
        return list(_io(self))[index]

    def get_tensor_shape(self: Any, fake: FakeTensorRT, name: str) -> Any:
        return fake.module.Dims(_io(self)[name][1])

    def get_tensor_dtype(self: Any, fake: FakeTensorRT, name: str) -> Any:
        return fake.enums["DataType"][_io(self)[name][2]]

    def get_tensor_mode(self: Any, fake: FakeTensorRT, name: str) -> Any:
        return fake.enums["TensorIOMode"][_io(self)[name][0]]

    def device_memory_size_v2(self: Any, fake: FakeTensorRT) -> int:
        return WORKSPACE

    def create_runtime_config(self: Any, fake: FakeTensorRT) -> Any:
        enums = fake.enums
        return fake.new(
            "IRuntimeConfig",
            allocation=enums["ExecutionContextAllocationStrategy"]["STATIC"],
            cache=None,
            cuda_graph_strategy=enums["CudaGraphStrategy"]["DISABLED"],
            dynamic_shapes_kernel_specialization_strategy=enums["DynamicShapesKernelSpecializationStrategy"][
                "LAZY"
            ],
        )

    def create_execution_context(self: Any, fake: FakeTensorRT, strategy: Any = None) -> Any:
        config: Any = strategy if isinstance(strategy, fake.class_of("IRuntimeConfig")) else None
        kernels: list[str] = []
        if config is not None:
            strategy = config._own.allocation
            cache = config._own.cache
            # What is compiled for a graph's batches goes into the cache; without one it is compiled every time.
            kernels = [] if cache is None else cache._own.kernels
            fake.events.append(("context", {"cache": cache is not None, "config": config}))
        first = self._own.contexts == 0
        self._own.contexts += 1
        return fake.new(
            "IExecutionContext",
            engine=self,
            io=_io(self),
            managed=strategy is fake.enums["ExecutionContextAllocationStrategy"]["USER_MANAGED"],
            memory=0,
            shapes={},
            addresses={},
            active_optimization_profile=0 if first or fake.major != "10" else -1,
            kernels=kernels,
            warm=False,
            captured=False,
        )


def _context_shapes(own: Any) -> dict[str, tuple[int, ...]]:
    """Of all tensors, once the inputs' are known: the batch is the only dynamic axis."""
    batch = next((own.shapes[n][0] for n, (_, s, _) in own.io.items() if -1 in s and n in own.shapes), -1)
    return {name: tuple(batch if v < 0 else v for v in shape) for name, (_, shape, _) in own.io.items()}


class IRuntimeConfig:
    def set_execution_context_allocation_strategy(self: Any, fake: FakeTensorRT, strategy: Any) -> None:
        self._own.allocation = strategy

    def create_runtime_cache(self: Any, fake: FakeTensorRT) -> Any:
        return fake.new("IRuntimeCache", kernels=[], logger=None)

    def set_runtime_cache(self: Any, fake: FakeTensorRT, cache: Any) -> bool:
        self._own.cache = cache
        return True


class IRuntimeCache:
    """Kernels by name behind a line that says what they were compiled for."""

    def serialize(self: Any, fake: FakeTensorRT) -> Any:
        return HostMemory("\n".join([_compiled_for(fake), *self._own.kernels]).encode())

    def deserialize(self: Any, fake: FakeTensorRT, blob: Any) -> bool:
        made_for, *kernels = bytes(blob).decode(errors="replace").split("\n")
        if made_for != _compiled_for(fake):
            return False
        self._own.kernels[:] = kernels
        return True


def _compiled_for(fake: FakeTensorRT) -> str:
    return f"kernels {fake.version} {fake.gpu.capability}"


class IExecutionContext:
    def is_stream_capturable(self: Any, fake: FakeTensorRT, stream: int) -> bool:
        return not fake.fail_capture

    def set_device_memory(self: Any, fake: FakeTensorRT, memory: int, size: int) -> None:
        if size < WORKSPACE or memory % 256:
            raise Misuse(f"{size} bytes at {memory:#x} do not do as the workspace of {WORKSPACE}")
        self._own.memory = memory

    def set_optimization_profile_async(self: Any, fake: FakeTensorRT, index: int, stream: int) -> bool:
        self._own.active_optimization_profile = index
        return True

    def set_input_shape(self: Any, fake: FakeTensorRT, name: str, shape: Any) -> bool:
        own = self._own
        mode, known, _ = own.io.get(name, ("NONE", (), ""))
        row = own.engine._own.facts["profile"].get(name)
        least, _, most = row or (known, known, known)
        wrong = mode != "INPUT" or len(shape) != len(known)
        if wrong or any(not a <= v <= b for a, v, b in zip(least, shape, most, strict=True)):
            fake.log(
                own.engine._own.logger, "ERROR", f"Set dimension {tuple(shape)} for {name} does not satisfy"
            )
            return False
        own.shapes[name] = tuple(shape)
        own.warm = False
        return True

    def get_tensor_shape(self: Any, fake: FakeTensorRT, name: str) -> Any:
        return fake.module.Dims(_context_shapes(self._own)[name])

    def set_tensor_address(self: Any, fake: FakeTensorRT, name: str, memory: int) -> bool:
        own = self._own
        if own.captured:
            raise Misuse("a context that a graph was captured from is changed")
        if memory % 256:
            raise Misuse(f"the address of {name}, {memory:#x}, is not a multiple of 256")
        if not fake.gpu.is_device(memory):
            raise Misuse(f"the address of {name}, {memory:#x}, is not on the device")
        if name not in own.io:
            return False
        own.addresses[name] = memory
        return True

    def execute_async_v3(self: Any, fake: FakeTensorRT, stream: int) -> bool:
        own = self._own
        logger = own.engine._own.logger
        missing = [name for name in own.io if name not in own.addresses]
        inputs = [name for name, (mode, _, _) in own.io.items() if mode == "INPUT"]
        if missing or own.active_optimization_profile < 0 or any(n not in own.shapes for n in inputs):
            fake.log(
                logger, "ERROR", f"neither address nor allocator is set for {missing}, or no profile or shape"
            )
            return False
        if own.managed and not own.memory:
            raise Misuse("a context without device memory is run")
        if fake.fail_run:
            fake.log(logger, "ERROR", fake.fail_run)
            return False
        if fake.gpu.capturing(stream):
            if fake.fail_capture or not own.warm:
                fake.gpu.spoil(stream)
                fake.log(logger, "ERROR", "operation not permitted when stream is capturing")
                return False
            own.captured = True
        own.warm = True
        kernel = f"{own.engine._own.session.get_outputs()[0].name} {sorted(own.shapes.items())}"
        if fake.rtx and kernel not in own.kernels:
            fake.events.append(("compile", kernel))
            own.kernels.append(kernel)
        fake.gpu.enqueue(stream, functools.partial(_run, fake, own, dict(own.addresses)))
        return True


def _run(fake: FakeTensorRT, own: Any, addresses: dict[str, int]) -> None:
    """The computation, when the stream comes to it: with the addresses of when it was enqueued."""
    shapes = _context_shapes(own)
    feeds: dict[str, Any] = {}
    ranges: dict[str, tuple[Any, int, int]] = {}
    for name, (mode, _, kind) in own.io.items():
        size = math.prod(shapes[name]) * np.dtype(NUMPY[kind]).itemsize
        ranges[name] = (mode, addresses[name], addresses[name] + size)
        if mode == "INPUT":
            feeds[name] = fake.gpu.read(addresses[name], size).view(NUMPY[kind]).reshape(shapes[name])
    for name, (mode, start, end) in ranges.items():
        for other, (_, begin, stop) in ranges.items():
            if mode == "OUTPUT" and name != other and start < stop and begin < end:
                raise Misuse(f"the output {name} overlaps {other}")
    fake.gpu.write(own.memory, np.full(WORKSPACE, 0x77, np.uint8))
    outputs = [name for name, (mode, _, _) in own.io.items() if mode == "OUTPUT"]
    for name, value in zip(outputs, own.engine._own.session.run(outputs, feeds), strict=True):
        if name == "box" and fake.distort:
            value = value + np.float32(fake.distort)
        fake.gpu.write(addresses[name], np.ascontiguousarray(value).reshape(-1).view(np.uint8))
