"""What the building half of the TensorRT double does. Each gets the object, the double, then the arguments."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path
from typing import Any

from fake_tensorrt import FakeTensorRT, Segfault, plan_bytes
from fake_tensorrt_values import TYPES, WORKSPACE, HostMemory, session_of, shape_of

STEPS = 3


class Logger:
    def log(self: Any, fake: FakeTensorRT, severity: Any, msg: str) -> None:
        """The real one writes to the standard error output."""


class Builder:
    def __init__(self: Any, fake: FakeTensorRT, logger: Any) -> None:
        self._own.logger = logger
        if not fake.gpu.driver and not fake.rtx:
            fake.log(logger, "ERROR", "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self: Any, fake: FakeTensorRT, flags: int = 0) -> Any:
        known = fake.enums["NetworkDefinitionCreationFlag"]
        if int(flags) >= 2 << max(map(int, known.values())):
            return None
        typed = fake.major != "10" or bool(int(flags) & 1 << int(known["STRONGLY_TYPED"]))
        return fake.new("INetworkDefinition", typed=typed, session=None, onnx=b"")

    def create_builder_config(self: Any, fake: FakeTensorRT) -> Any:
        level = fake.enums["HardwareCompatibilityLevel"]["NONE"]
        return fake.new(
            "IBuilderConfig",
            logger=self._own.logger,
            flags={"TF32"},
            pools={},
            profiles=[],
            cache=None,
            monitor=lambda: None,
            builder_optimization_level=3,
            hardware_compatibility_level=level,
            capabilities=[],
            profiling_verbosity=None,
        )

    def create_optimization_profile(self: Any, fake: FakeTensorRT) -> Any:
        return fake.new("IOptimizationProfile", shapes={})

    def build_serialized_network(
        self: Any, fake: FakeTensorRT, network: Any, config: Any, kernel_text: Any = None
    ) -> Any:
        own, logger = config._own, self._own.logger
        if not network._own.typed:
            fake.log(logger, "ERROR", "the network is weakly typed: precision would be TensorRT's choice")
            return None
        dynamic = any(-1 in shape for _, shape, _ in _inputs(network))
        if dynamic and not own.profiles:
            fake.log(
                logger, "ERROR", "Network has dynamic inputs, but no optimization profile has been defined."
            )
            return None
        if not _work(fake, own.monitor):
            return None
        if fake.fail_build:
            fake.log(logger, "ERROR", fake.fail_build)
            return None
        facts = {
            "gpu": [fake.gpu.name.decode(), list(fake.gpu.capability)],
            "profile": own.profiles[0] if own.profiles else {},
            "flags": sorted(own.flags),
            "pools": own.pools,
            "level": own.builder_optimization_level,
            "hardware": own.hardware_compatibility_level.name,
            "targets": own.capabilities or ["SM80", "SM86", "SM89", "SM120"],
        }
        fake.events.append(("build", facts))
        if own.cache is not None:
            own.cache._own.data += f"|{len(network._own.onnx)}".encode()
        fake.log(logger, "INFO", f"Total Activation Memory: {WORKSPACE} bytes")
        magic = b"vtrt" if fake.rtx else b"ftrt"
        return HostMemory(plan_bytes(fake.version, facts, network._own.onnx, magic))


def _work(fake: FakeTensorRT, monitor_of: Any) -> bool:
    """Report progress as TensorRT does: from two threads at once. False: it was told to stop."""
    answers = []

    def phase(name: str, parent: str | None) -> None:
        for step in range(STEPS):
            fake.on_step(step)
            monitor = monitor_of()
            if monitor is None:
                return
            if step == 0:
                monitor.phase_start(name, parent, STEPS)
            answer = monitor.step_complete(name, step)
            assert isinstance(answer, bool)
            answers.append(answer)
        monitor.phase_finish(name)

    other = threading.Thread(target=phase, args=("Computing profile costs", "Building Engine"))
    other.start()
    phase("Building Engine", None)
    other.join()
    return all(answers)


class IBuilderConfig:
    def set_memory_pool_limit(self: Any, fake: FakeTensorRT, pool: Any, size: int) -> None:
        self._own.pools[pool.name] = int(size)

    def set_flag(self: Any, fake: FakeTensorRT, flag: Any) -> None:
        self._own.flags.add(flag.name)

    def clear_flag(self: Any, fake: FakeTensorRT, flag: Any) -> None:
        self._own.flags.discard(flag.name)

    def add_optimization_profile(self: Any, fake: FakeTensorRT, profile: Any) -> int:
        shapes = profile._own.shapes
        if any(not least <= best <= most for least, best, most in shapes.values()):
            return -1
        self._own.profiles.append({name: [list(shape) for shape in row] for name, row in shapes.items()})
        return len(self._own.profiles) - 1

    def create_timing_cache(self: Any, fake: FakeTensorRT, data: Any) -> Any:
        data = bytes(data)
        if data and not data.startswith(b"timing "):
            fake.log(self._own.logger, "ERROR", "the timing cache cannot be read")
            if not fake.rtx:
                return None
            data = b""
        here = b"timing " + fake.version.encode() + fake.gpu.name
        return fake.new("ITimingCache", data=data or here, fits=not data or data.startswith(here))

    def set_timing_cache(self: Any, fake: FakeTensorRT, cache: Any, ignore_mismatch: bool) -> bool:
        if not cache._own.fits and not ignore_mismatch:
            return False
        self._own.cache = cache
        return True

    def num_compute_capabilities(self: Any, fake: FakeTensorRT) -> int:
        return len(self._own.capabilities)

    def _set_num_compute_capabilities(self: Any, fake: FakeTensorRT, value: int) -> None:
        self._own.capabilities = ["NONE"] * value

    def set_compute_capability(self: Any, fake: FakeTensorRT, capability: Any, index: int) -> bool:
        if not index < len(self._own.capabilities):
            return False
        self._own.capabilities[index] = capability.name
        return True

    def get_timing_cache(self: Any, fake: FakeTensorRT) -> Any:
        return self._own.cache

    def progress_monitor(self: Any, fake: FakeTensorRT) -> Any:
        return self._own.monitor()

    def _set_progress_monitor(self: Any, fake: FakeTensorRT, value: Any) -> None:
        kept = weakref.ref(value)  # TensorRT does not own it

        def monitor() -> Any:
            if kept() is None:
                raise Segfault("the progress monitor is gone")
            return kept()

        self._own.monitor = monitor


class ITimingCache:
    def serialize(self: Any, fake: FakeTensorRT) -> Any:
        return HostMemory(self._own.data)


class IOptimizationProfile:
    def set_shape(self: Any, fake: FakeTensorRT, name: str, least: Any, best: Any, most: Any) -> None:
        self._own.shapes[name] = (tuple(least), tuple(best), tuple(most))


class OnnxParser:
    def __init__(self: Any, fake: FakeTensorRT, network: Any, logger: Any) -> None:
        self._own.network, self._own.logger, self._own.errors = network, logger, []

    def parse_from_file(self: Any, fake: FakeTensorRT, model: str) -> bool:
        onnx = Path(model).read_bytes()
        if fake.refuse_operator:
            import onnx as package

            for number, node in enumerate(package.load(model).graph.node):
                if node.op_type == fake.refuse_operator:
                    text = f"In node {number} with operator {node.op_type}:\nnot supported"
                    self._own.errors.append((node.name, node.op_type, text, number))
        try:
            self._own.network._own.session = session_of(onnx)
        except Exception as error:
            self._own.errors.append(("", "", f"Failed to parse: {error}", 0))
        self._own.network._own.onnx = onnx
        return not self._own.errors

    def num_errors(self: Any, fake: FakeTensorRT) -> int:
        return len(self._own.errors)

    def get_error(self: Any, fake: FakeTensorRT, index: int) -> Any:
        name, operator, text, number = self._own.errors[index]
        return fake.new("ParserError", name=name, operator=operator, text=text, number=number)


class ParserError:
    def desc(self: Any, fake: FakeTensorRT) -> str:
        return str(self._own.text)

    def node_name(self: Any, fake: FakeTensorRT) -> str:
        return str(self._own.name)

    def node_operator(self: Any, fake: FakeTensorRT) -> str:
        return str(self._own.operator)

    def node(self: Any, fake: FakeTensorRT) -> int:
        return int(self._own.number)


def _inputs(network: Any) -> list[tuple[str, tuple[int, ...], str]]:
    return [(i.name, shape_of(i.shape), TYPES[i.type]) for i in network._own.session.get_inputs()]


class INetworkDefinition:
    def num_inputs(self: Any, fake: FakeTensorRT) -> int:
        return len(_inputs(self))

    def get_input(self: Any, fake: FakeTensorRT, index: int) -> Any:
        return _tensor(fake, *_inputs(self)[index])

    def num_outputs(self: Any, fake: FakeTensorRT) -> int:
        return len(self._own.session.get_outputs())

    def get_output(self: Any, fake: FakeTensorRT, index: int) -> Any:
        port = self._own.session.get_outputs()[index]
        return _tensor(fake, port.name, shape_of(port.shape), TYPES[port.type])


def _tensor(fake: FakeTensorRT, name: str, shape: tuple[int, ...], kind: str) -> Any:
    dims = fake.module.Dims(shape)
    return fake.new("ITensor", name=name, shape=dims, dtype=fake.enums["DataType"][kind])
