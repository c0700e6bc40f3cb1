"""The contract double is as strict as the real bindings, and our code uses nothing that they do not have."""

from __future__ import annotations

import ast
import contextlib
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_contract
import numpy as np
import pytest
from fake_cuda import FakeGpu, Misuse
from fake_tensorrt import FakeTensorRT, Segfault
from gpu_contract import cuda_contract, overloads, tensorrt_contract
from shared_folder import SHARED

import sttrack_deploy.engines

pytest_plugins = ["gpu_double"]

ENGINES = Path(sttrack_deploy.engines.__file__).parent
# Objects of TensorRT by the names our code gives them: what is called on them must be a member of their class.
CLASSES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "parser": "OnnxParser",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "_context": "IExecutionContext",
    "_contexts": "IExecutionContext",
    "runtime": "Runtime",
    "settings": "IRuntimeConfig",
    "_cache": "IRuntimeCache",
}

# Used only where the flavor is portable.
RTX_ONLY = {
    "ComputeCapability",
    "CudaGraphStrategy",
    "DynamicShapesKernelSpecializationStrategy",
    "EngineInvalidityDiagnostics",
    "EngineValidity",
    "is_stream_capturable",
    "num_compute_capabilities",
    "set_compute_capability",
    "set_execution_context_allocation_strategy",
    "cuda_graph_strategy",
    "dynamic_shapes_kernel_specialization_strategy",
    "create_runtime_config",
    "create_runtime_cache",
    "set_runtime_cache",
    "get_engine_validity",
    "engine_header_size",
}


def uses(path: Path) -> set[tuple[str, ...]]:
    """Chains of attributes in a file, as ``("trt", "BuilderFlag", "TF32")``; a subscript is passed over."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        chain: list[str] = []
        while isinstance(node, ast.Attribute | ast.Subscript):
            if isinstance(node, ast.Attribute):
                chain.insert(0, node.attr)
            node = node.value
        if isinstance(node, ast.Name) and chain:
            found.add((node.id, *chain))
    return found


def used_members(name: str) -> set[tuple[str, ...]]:
    """What follows ``name`` in the chains of our TensorRT code."""
    chains: set[tuple[str, ...]] = set()
    for path in (ENGINES / "tensorrt").glob("*.py"):
        chains |= {c[c.index(name) + 1 :] for c in uses(path) if name in c[:-1]}
    return chains


@pytest.mark.parametrize("major", ["10", "11", "rtx"])
def test_every_name_of_tensorrt_that_we_use_exists(major: str) -> None:
    contract = tensorrt_contract(major)
    names = used_members("trt")
    assert len(names) > 15
    for first, *rest in names:
        if major != "rtx" and first in RTX_ONLY:
            continue
        if first in contract["__functions__"] or first in contract["__constants__"]:
            continue
        members = contract[first]
        if rest and not rest[0].startswith("__"):
            assert rest[0] in members, f"tensorrt.{first}.{rest[0]} in {major}"
            inner = members[rest[0]]
            if len(rest) > 1 and isinstance(inner, dict):
                assert rest[1] in inner


@pytest.mark.parametrize("major", ["10", "11", "rtx"])
def test_every_member_that_we_call_exists(major: str) -> None:
    contract = tensorrt_contract(major)
    checked = 0
    for variable, owner in CLASSES.items():
        if owner not in contract:
            assert major != "rtx"
            assert owner in ("IRuntimeConfig", "IRuntimeCache")
            continue
        for chain in used_members(variable):
            if variable == "engine" and chain[0] in ("spec", "engine"):
                continue
            if major != "rtx" and chain[0] in RTX_ONLY:
                continue
            assert chain[0] in contract[owner], f"{owner}.{chain[0]} in {major}"
            checked += 1
    assert checked > 25


@pytest.mark.parametrize("major", ["12", "13"])
def test_every_name_of_cuda_that_we_use_exists(major: str) -> None:
    contract = cuda_contract(major)
    names = {chain[1:] for chain in uses(ENGINES / "cuda" / "cuda_python.py") if chain[0] == "runtime"}
    assert len(names) > 20
    for first, *rest in names:
        assert first in contract
        if rest and not rest[0].startswith("__"):
            assert rest[0] in contract[first]


def test_the_live_module_is_what_the_contract_says() -> None:
    """TensorRT for RTX can be imported without a GPU: its classes, members, enums and signatures are the listing's."""
    module = pytest.importorskip("tensorrt_rtx", reason='install it: pip install "sttrack-deploy[rtx]"')
    contract = tensorrt_contract("rtx")
    if module.__version__ != contract["__constants__"]["__version__"]:
        pytest.skip(f"tensorrt_rtx {module.__version__} is not the version of the listing")
    checked = 0
    for path, members in contract.items():
        if path.startswith("__"):
            continue
        live = functools.reduce(getattr, path.split("."), module)
        if members.get("__kind__") == "enum":
            assert {k: int(v) for k, v in live.__members__.items()} == {
                k: v for k, v in members.items() if isinstance(v, int)
            }, path
            continue
        for member, text in members.items():
            if member.startswith("__") or not isinstance(text, str) or member not in vars(live):
                assert isinstance(text, dict) or hasattr(live, member) or member.startswith("__"), (
                    path,
                    member,
                )
                continue
            if text.startswith("(") and not isinstance(vars(live)[member], staticmethod):
                first = overloads(text)[0]
                shown = (vars(live)[member].__doc__ or "").partition("\n")[0]
                for parameter in (p for p in first if p.name.isidentifier()):
                    assert parameter.name in shown or " | " in text, (path, member, shown)
            checked += 1
    assert checked > 500


def test_no_number_of_an_enum_is_written_down() -> None:
    """They moved between 10 and 11, which the double knows."""
    ten, eleven = tensorrt_contract("10"), tensorrt_contract("11")
    assert ten["NetworkDefinitionCreationFlag"]["STRONGLY_TYPED"] == 1
    assert eleven["NetworkDefinitionCreationFlag"]["STRONGLY_TYPED"] == 0
    assert ten["BuilderFlag"]["VERSION_COMPATIBLE"] != eleven["BuilderFlag"]["VERSION_COMPATIBLE"]


def test_the_committed_contract_is_what_the_facts_say() -> None:
    facts = SHARED / "facts" / "tensorrt"
    if not facts.is_dir():
        pytest.skip("the listings of the live modules are not here (facts/ in shared/ beside the checkout)")
    listings = {
        "10": json.loads((facts / "tensorrt_api_10.json").read_text()),
        "11": json.loads((facts / "tensorrt_api_11.4.json").read_text()),
        "rtx": json.loads((facts / "tensorrt_rtx_api_1.7.json").read_text()),
    }
    cuda: dict[str, Any] = {}
    for major in ("12", "13"):  # these were listed by importing cuda-bindings: kept as they are
        known = cuda_contract(major)
        cuda[major] = {
            "version": known["__version__"],
            "functions": {k: v for k, v in known.items() if isinstance(v, str) and k != "__version__"},
            "enums": {k: v for k, v in known.items() if isinstance(v, dict)},
            "constants": {k: v for k, v in known.items() if isinstance(v, int)},
            "device_properties": known["cudaDeviceProp"],
        }
    assert gpu_contract.distil(listings, cuda) == gpu_contract.CONTRACT.read_text()


@pytest.mark.parametrize("major", ["10", "11", "rtx"])
def test_every_signature_can_be_read(major: str) -> None:
    signatures = [
        text
        for members in tensorrt_contract(major).values()
        for text in members.values()
        if isinstance(text, str) and text.startswith("(")
    ]
    assert len(signatures) > 500
    assert all(overloads(text) for text in signatures)


def test_what_tensorrt_11_removed(trt: FakeTensorRT) -> None:
    module: Any = trt.module
    builder = module.Builder(module.Logger())
    config = builder.create_builder_config()
    gone: list[Callable[[], Any]] = [
        lambda: module.BuilderFlag.FP16,
        lambda: module.IInt8EntropyCalibrator2,
        lambda: module.NetworkDefinitionCreationFlag.EXPLICIT_BATCH,
        lambda: builder.platform_has_fast_fp16,
        lambda: setattr(config, "int8_calibrator", None),
    ]
    for use in gone:
        if trt.major == "11":
            with pytest.raises(AttributeError):
                use()
        else:
            with contextlib.suppress(NotImplementedError):  # it is there; the double does not do it
                use()


def test_what_the_bindings_refuse(trt: FakeTensorRT) -> None:
    module: Any = trt.module
    logger = module.Logger(module.Logger.ERROR)
    builder = module.Builder(logger)
    config, network = builder.create_builder_config(), builder.create_network(0)
    with pytest.raises(AttributeError):
        config.max_workspace_size = 1 << 30  # TensorRT 7
    with pytest.raises(AttributeError):
        _ = builder.max_batch_size
    with pytest.raises(AttributeError):
        _ = module.no_such_thing
    with pytest.raises(TypeError):
        config.set_flag(6)
    with pytest.raises(TypeError):
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE)
    with pytest.raises(TypeError):
        config.set_memory_pool_limit(pool=module.MemoryPoolType.WORKSPACE, size=1)
    with pytest.raises(TypeError):
        1 << module.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    with pytest.raises(TypeError):
        _ = module.Dims((1, 2)) == module.Dims((1, 2))
    assert tuple(module.Dims((1, 2))) == (1, 2)
    with pytest.raises(TypeError):
        module.nptype(module.bfloat16)
    assert module.nptype(module.uint8) is np.uint8
    with pytest.raises(TypeError, match="No constructor defined"):
        module.ICudaEngine()
    with pytest.raises(AttributeError):
        network.num_inputs = 3
    with pytest.raises(AttributeError):
        builder.serialize_network = None

    class Forgetful(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

    with pytest.raises(TypeError):
        module.Builder(Forgetful())


def test_where_the_library_ends_the_process(trt: FakeTensorRT) -> None:
    module: Any = trt.module
    runtime = module.Runtime(module.Logger())
    trt.gpu.driver = False
    with pytest.raises(Segfault):
        runtime.deserialize_cuda_engine(b"ftrt")
    with pytest.raises(TypeError, match="factory function returned nullptr"):
        module.Builder(module.Logger())


def test_a_weakly_typed_network_is_not_built(trt: FakeTensorRT) -> None:
    module: Any = trt.module
    network = module.Builder(module.Logger()).create_network(0)
    assert network._own.typed is (trt.major == "11")


class TestCuda:
    """The double of ``cuda.bindings.runtime``."""

    @pytest.fixture
    def gpu(self) -> FakeGpu:
        return FakeGpu()

    @pytest.fixture
    def cuda(self, gpu: FakeGpu) -> Any:
        return gpu.module()

    def test_signatures(self, cuda: Any) -> None:
        with pytest.raises(AttributeError):
            _ = cuda.cudaMallocFast
        with pytest.raises(TypeError):
            cuda.cudaMalloc()
        with pytest.raises(TypeError):
            cuda.cudaMemcpyAsync(1, 2, 3, 1, 0)  # the kind is an enum

    def test_copies_are_done_at_the_synchronization(self, gpu: FakeGpu, cuda: Any) -> None:
        (_, stream), (_, device), (_, host) = (
            cuda.cudaStreamCreateWithFlags(0),
            cuda.cudaMalloc(4),
            cuda.cudaHostAlloc(4, 0),
        )
        there = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        cuda.cudaMemcpyAsync(device, host, 4, there, stream)
        with pytest.raises(Misuse, match="not all of them were ever written"):
            gpu.read(device, 4)
        cuda.cudaStreamSynchronize(stream)
        assert gpu.read(device, 4).tolist() == [0xA5] * 4

    def test_what_is_noticed(self, gpu: FakeGpu, cuda: Any) -> None:
        (_, stream), (_, device), (_, host) = (
            cuda.cudaStreamCreateWithFlags(0),
            cuda.cudaMalloc(4),
            cuda.cudaHostAlloc(8, 0),
        )
        there, back = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice, cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        pageable = np.zeros(8, np.uint8).ctypes.data
        for message, arguments in (
            ("reach past", (device, host, 8, there)),
            ("not page-locked", (host, device, 4, there)),
            ("not page-locked", (device, pageable, 4, there)),
            ("no memory of the device", (host, host, 4, back)),
        ):
            with pytest.raises(Misuse, match=message):
                cuda.cudaMemcpyAsync(*arguments, stream)
        cuda.cudaMemcpyAsync(host, device, 4, back, stream)
        with pytest.raises(Misuse, match="nothing has written"):
            cuda.cudaStreamSynchronize(stream)
        cuda.cudaMemcpyAsync(device, host, 4, there, stream)
        with pytest.raises(Misuse, match="freed while work is waiting"):
            cuda.cudaFree(device)

    def test_a_capture_records_and_replays(self, gpu: FakeGpu, cuda: Any) -> None:
        (_, stream), (_, device), (_, host) = (
            cuda.cudaStreamCreateWithFlags(0),
            cuda.cudaMalloc(4),
            cuda.cudaHostAlloc(4, 0),
        )
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        cuda.cudaStreamBeginCapture(stream, mode)
        cuda.cudaMemcpyAsync(device, host, 4, cuda.cudaMemcpyKind.cudaMemcpyHostToDevice, stream)
        error, graph = cuda.cudaStreamEndCapture(stream)
        assert error == cuda.cudaError_t.cudaSuccess
        cuda.cudaStreamSynchronize(stream)
        with pytest.raises(Misuse):
            gpu.read(device, 4)  # it was recorded, not done
        _, executable = cuda.cudaGraphInstantiate(graph, 0)
        cuda.cudaGraphLaunch(executable, stream)
        cuda.cudaStreamSynchronize(stream)
        assert gpu.read(device, 4).tolist() == [0xA5] * 4

    def test_a_synchronization_spoils_a_capture(self, cuda: Any) -> None:
        _, stream = cuda.cudaStreamCreateWithFlags(0)
        cuda.cudaStreamBeginCapture(stream, cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        (error,) = cuda.cudaStreamSynchronize(stream)
        assert error == cuda.cudaError_t.cudaErrorStreamCaptureUnsupported
        assert cuda.cudaStreamEndCapture(stream) == (cuda.cudaError_t.cudaErrorStreamCaptureInvalidated, None)
