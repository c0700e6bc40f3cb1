"""Choosing the package for the GPU's memory, and the pycuda adapter on a hand-written stand-in."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeGpu
from fake_tensorrt import FakeTensorRT
from gpu_contract import cuda_contract
from recurrent_bundle import crops, write_recurrent_bundle

from sttrack_deploy.engines.building import BuildOptions, SilentReport, builder_of
from sttrack_deploy.engines.cuda import open_cuda
from sttrack_deploy.engines.cuda.memory import ALIGNMENT, TensorGroup
from sttrack_deploy.engines.registry import load_engine
from sttrack_deploy.errors import MissingDependencyError, UsageError, UserError

pytest_plugins = ["gpu_double"]


class FakePycuda:
    """``pycuda.driver``, as its documentation describes it, over the memory of the CUDA double."""

    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu, self.cuda = gpu, gpu.module()
        self.depth = 0

    def module(self) -> types.ModuleType:
        driver = types.ModuleType("pycuda.driver")
        fake = self
        kinds = self.cuda.cudaMemcpyKind

        class Error(Exception):
            pass

        class Allocation:
            def __init__(self, size: int) -> None:
                assert fake.depth, "no context is current"
                error, address = fake.cuda.cudaMalloc(size)
                if address is None:
                    raise Error(f"cuMemAlloc failed: {error.name}")
                self._address = address

            def __int__(self) -> int:
                return int(self._address)

            def free(self) -> None:
                fake.cuda.cudaFree(self._address)

        class Context:
            def push(self) -> None:
                fake.depth += 1

            def pop(self) -> None:
                fake.depth -= 1

        class Device:
            def __init__(self, number: int) -> None:
                assert number == 0

            @staticmethod
            def count() -> int:
                return fake.gpu.devices

            def retain_primary_context(self) -> Context:
                return Context()

            def name(self) -> str:
                return fake.gpu.name.decode()

            def compute_capability(self) -> tuple[int, int]:
                return fake.gpu.capability

            def total_memory(self) -> int:
                return fake.gpu.memory_limit

        class Stream:
            def __init__(self, flags: int = 0) -> None:
                assert fake.depth, "no context is current"
                _, self._native = fake.cuda.cudaStreamCreateWithFlags(flags)
                self.handle = int(self._native)

            def synchronize(self) -> None:
                fake.cuda.cudaStreamSynchronize(self._native)

        class PagelockedHostAllocation:
            def __init__(self, size: int) -> None:
                assert fake.depth, "no context is current"
                _, self._address = fake.cuda.cudaHostAlloc(size, 0)
                self.__array_interface__ = fake.gpu._host[self._address].__array_interface__

            def free(self) -> None:
                fake.cuda.cudaFreeHost(self._address)

        def pagelocked_empty(shape: int, dtype: Any) -> np.ndarray:
            assert dtype is np.uint8
            return np.asarray(PagelockedHostAllocation(shape))

        def copy(to: int, source: int, size: int, kind: Any, stream: Stream) -> None:
            assert fake.depth, "no context is current"
            fake.cuda.cudaMemcpyAsync(to, source, size, kind, stream._native)

        def init() -> None:
            if not fake.gpu.driver:
                raise Error("cuInit failed: no CUDA-capable device is detected")

        members = {
            "Error": Error,
            "Device": Device,
            "Stream": Stream,
            "init": init,
            "mem_alloc": Allocation,
            "pagelocked_empty": pagelocked_empty,
            "get_version": lambda: (13, 0, 0),
            "get_driver_version": lambda: 13040,
            "memcpy_htod_async": lambda to, memory, stream: copy(
                to, memory.ctypes.data, memory.nbytes, kinds.cudaMemcpyHostToDevice, stream
            ),
            "memcpy_dtoh_async": lambda memory, address, stream: copy(
                memory.ctypes.data, address, memory.nbytes, kinds.cudaMemcpyDeviceToHost, stream
            ),
        }
        for name, value in members.items():
            setattr(driver, name, value)
        return driver


@pytest.fixture
def pycuda(trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePycuda]:
    fake = FakePycuda(trt.gpu)
    package = types.ModuleType("pycuda")
    package.__path__ = []
    package.__spec__ = types.SimpleNamespace(name="pycuda")  # type: ignore[assignment]
    package.driver = fake.module()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", package.driver)
    monkeypatch.delitem(sys.modules, "sttrack_deploy.engines.cuda.pycuda_adapter", raising=False)
    yield fake
    sys.modules.pop("sttrack_deploy.engines.cuda.pycuda_adapter", None)


def test_tracking_with_pycuda(
    trt: FakeTensorRT, pycuda: FakePycuda, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STTRACK_CUDA", "pycuda")
    bundle = write_recurrent_bundle(tmp_path / "bundle")
    builder_of("tensorrt")(bundle, BuildOptions(), SilentReport())
    template, frames = crops(0, 5)
    boxes = []
    for name in ("tensorrt", "onnxruntime"):
        engine = load_engine(name, bundle)
        state = engine.initial_state(*template)
        for frame in frames:
            prediction, state = engine.step(*frame, state)
            boxes.append(prediction.box)
        described = engine.describe()
        if name == "tensorrt":
            assert described["memory"] == "pycuda"
            assert described["cuda graph"].startswith("no (")
    assert np.stack(boxes[:5]) == pytest.approx(np.stack(boxes[5:]), abs=1e-6)
    assert pycuda.depth == 0  # every context that was pushed was popped


def test_pycuda_without_a_driver(
    trt: FakeTensorRT, pycuda: FakePycuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    trt.gpu.driver = False
    with pytest.raises(UserError, match=r"no usable NVIDIA GPU here .cuInit failed"):
        open_cuda()
    trt.gpu.driver = True
    assert open_cuda().name == "pycuda"  # the only one that is installed


def test_asking_for_a_package(trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_cuda().name == "cuda-python"
    monkeypatch.setenv("STTRACK_CUDA", "cupy")
    with pytest.raises(UsageError, match="STTRACK_CUDA is 'cupy'; it can be cuda-python or pycuda"):
        open_cuda()
    monkeypatch.setenv("STTRACK_CUDA", "pycuda")
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(MissingDependencyError, match=r"'pycuda'.*pip install"):
        open_cuda()


def test_the_device(trt: FakeTensorRT) -> None:
    device = open_cuda().device()
    assert (device.name, device.sm, device.driver) == ("NVIDIA Imaginary 1000", "sm_89", "13.4")
    assert "name" in cuda_contract("12")["cudaDeviceProp"]


def test_a_group_of_tensors(trt: FakeTensorRT) -> None:
    cuda = open_cuda()
    stream = cuda.stream()
    group = TensorGroup(
        cuda, {"a": ("float32", (3, 5)), "b": ("bool", (7,)), "c": ("uint8", (300,))}, staged=True
    )
    assert [group.address(name) % ALIGNMENT for name in "abc"] == [0, 0, 0]
    values = {
        "a": np.arange(15, dtype=np.float32).reshape(3, 5),
        "b": np.arange(7) % 2 == 0,
        "c": np.arange(300).astype(np.uint8),
    }
    for name, value in values.items():
        group.view(name)[...] = value
    group.upload(stream)
    read = group.read(stream)
    for name, value in values.items():
        assert read[name].dtype == value.dtype
        assert np.array_equal(read[name], value)
    group.write({name: np.zeros_like(value) for name, value in values.items()}, stream)
    group.download(stream)
    cuda.synchronize(stream)
    assert not any(group.view(name).any() for name in values)
    del group
    assert trt.gpu.held[:2] == (0, 0)
