"""What the running half of the TensorRT double does. Each gets the object, the double, then the arguments."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from fake_cuda import Misuse
from fake_tensorrt import FakeTensorRT, Segfault, plan_parts
from fake_tensorrt_values import NUMPY, TYPES, session_of, shape_of

WORKSPACE = 3000  # bytes that a context wants; not a multiple of anything


class Runtime:
    def __init__(self: Any, fake: FakeTensorRT, logger: Any) -> None:
        self._own.logger, self._own.engine_host_code_allowed = logger, False
        if not fake.gpu.driver:  # it says so and goes on; the next call ends the process
            fake.log(logger, "ERROR", "CUDA initialization failure with error: 35")

    def deserialize_cuda_engine(self: Any, fake: FakeTensorRT, data: Any) -> Any:
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
        if facts["hardware"] == "NONE" and facts["gpu"][1] != list(fake.gpu.capability):
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
        return fake.module.Dims(_io(self)[name][1])  # type: ignore[attr-defined]

    def get_tensor_dtype(self: Any, fake: FakeTensorRT, name: str) -> Any:
        return fake.enums["DataType"][_io(self)[name][2]]

    def get_tensor_mode(self: Any, fake: FakeTensorRT, name: str) -> Any:
        return fake.enums["TensorIOMode"][_io(self)[name][0]]

    def device_memory_size_v2(self: Any, fake: FakeTensorRT) -> int:
        return WORKSPACE

    def create_execution_context(self: Any, fake: FakeTensorRT, strategy: Any = None) -> Any:
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
            active_optimization_profile=0 if first or fake.major == "11" else -1,
            warm=False,
            captured=False,
        )


def _context_shapes(own: Any) -> dict[str, tuple[int, ...]]:
    """Of all tensors, once the inputs' are known: the batch is the only dynamic axis."""
    batch = next((own.shapes[n][0] for n, (_, s, _) in own.io.items() if -1 in s and n in own.shapes), -1)
    return {name: tuple(batch if v < 0 else v for v in shape) for name, (_, shape, _) in own.io.items()}


class IExecutionContext:
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
        return fake.module.Dims(_context_shapes(self._own)[name])  # type: ignore[attr-defined]

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
        fake.gpu.enqueue(stream, functools.partial(_run, fake, own, dict(own.addresses)))
        return True


def _run(fake: FakeTensorRT, own: Any, addresses: dict[str, int]) -> None:
    """The computation, when the stream comes to it: with the addresses of when it was enqueued."""
    shapes, feeds, ranges = _context_shapes(own), {}, {}
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
