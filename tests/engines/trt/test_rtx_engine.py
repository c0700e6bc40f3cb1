"""The engine ``tensorrt-rtx``: from plans for several GPUs to boxes, on the contract double."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fake_tensorrt import FakeTensorRT
from recurrent_bundle import crops, write_recurrent_bundle

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.engines.base import Engine
from sttrack_deploy.engines.building import BatchRange, BuildOptions, SilentReport, builder_of
from sttrack_deploy.engines.registry import load_engine
from sttrack_deploy.engines.tensorrt.plan_file import UnfitPlanError, plan_folder, read_manifest
from sttrack_deploy.engines.tensorrt.toolkit import RTX
from sttrack_deploy.errors import UsageError

pytest_plugins = ["gpu_double"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_recurrent_bundle(tmp_path_factory.mktemp("fixed") / "recurrent")


def build(bundle: Bundle, **options: Any) -> None:
    builder_of("tensorrt-rtx")(bundle, BuildOptions(**options), SilentReport())


def boxes(engine: Engine, batch: int = 1, frames: int = 6) -> npt.NDArray[Any]:
    template, searches = crops(3, frames, batch)
    state, rows = engine.initial_state(*template), []
    for frame in searches:
        prediction, state = engine.step(*frame, state)
        rows.append(prediction.box)
    return np.stack(rows)


def test_the_boxes_are_those_of_onnx_runtime(rtx: FakeTensorRT, bundle: Bundle) -> None:
    rtx.gpu.driver = False
    build(bundle)  # no driver is needed
    rtx.gpu.driver = True
    engine = load_engine("tensorrt-rtx", bundle)
    assert boxes(engine) == pytest.approx(boxes(load_engine("onnxruntime", bundle, threads=1)), abs=1e-6)
    assert rtx.gpu.calls["cudaGraphLaunch"] == 4  # every step after the first of each direction
    described = engine.describe()
    assert (described["engine"], described["kernels"]) == ("tensorrt-rtx", "compiled")
    recorded = read_manifest(plan_folder(bundle, RTX), "")
    assert (recorded.library, recorded.gpu, recorded.system) == ("tensorrt-rtx", "", "any")
    assert recorded.targets == ["8.0", "8.6", "8.9", "12.0"]
    assert recorded.search.workspace_bytes == 3000
    for event, facts in rtx.events:
        if event == "build":
            assert facts["flags"] == ["REQUIRE_USER_ALLOCATION"]
        elif event == "context":
            own = facts["config"]._own
            assert facts["cache"]
            assert own.allocation.name == "USER_MANAGED"
            assert own.cuda_graph_strategy.name == "DISABLED"
            assert own.dynamic_shapes_kernel_specialization_strategy.name == "EAGER"


def test_kernels_are_compiled_at_the_first_start_only(rtx: FakeTensorRT, bundle: Bundle) -> None:
    build(bundle)
    boxes(load_engine("tensorrt-rtx", bundle))
    compiled = [what for event, what in rtx.events if event == "compile"]
    assert len(compiled) == 2  # one for each graph, not one for each context
    again = load_engine("tensorrt-rtx", bundle)
    boxes(again)
    assert len([what for event, what in rtx.events if event == "compile"]) == 2
    assert again.describe()["kernels"] == "reused"
    (cache,) = plan_folder(bundle, RTX).glob("kernels-*.cache")
    cache.write_bytes(b"damaged")
    anew = load_engine("tensorrt-rtx", bundle)
    boxes(anew)
    assert anew.describe()["kernels"] == "compiled"
    assert cache.read_bytes() != b"damaged"


def test_a_stream_that_cannot_be_captured(rtx: FakeTensorRT, bundle: Bundle) -> None:
    build(bundle)
    rtx.fail_capture = True
    engine = load_engine("tensorrt-rtx", bundle)
    assert boxes(engine) == pytest.approx(boxes(load_engine("onnxruntime", bundle, threads=1)), abs=1e-6)
    assert "cudaStreamBeginCapture" not in rtx.gpu.calls
    assert engine.describe()["cuda graph"].startswith("no (")


def test_a_dynamic_batch(rtx: FakeTensorRT, tmp_path: Any) -> None:
    bundle = write_recurrent_bundle(tmp_path / "any", batch=None)
    build(bundle, batch=BatchRange(1, 2, 4))
    engine = load_engine("tensorrt-rtx", bundle)
    reference = load_engine("onnxruntime", bundle, threads=1)
    for batch in (3, 1):
        assert boxes(engine, batch) == pytest.approx(boxes(reference, batch), abs=1e-6)
    with pytest.raises(UsageError, match="--target tensorrt-rtx --batch 1,1,5"):
        engine.initial_state(*crops(3, 0, 5)[0])


@pytest.mark.parametrize(
    ("reasons", "message"),
    [
        (
            ("UNSUPPORTED_CC",),
            "cannot run on this GPU, NVIDIA Imaginary 1000, which has compute capability 9.0",
        ),
        (("OLD_CUDA_DRIVER",), "needs a newer driver than 13.4"),
        (("INSUFFICIENT_GPU_MEMORY",), "needs more memory"),
        ((), "refuses .*template.plan: the engine does not support this compute capability"),
    ],
)
def test_plans_that_do_not_run_here(
    rtx: FakeTensorRT, bundle: Bundle, reasons: tuple[str, ...], message: str
) -> None:
    build(bundle, compute_capabilities=("8.0", "8.9"))
    rtx.gpu.capability, rtx.invalid = (9, 0), reasons
    with pytest.raises(UnfitPlanError, match=message) as caught:
        load_engine("tensorrt-rtx", bundle)
    assert "\n" not in str(caught.value)


def test_plans_of_the_other_library_or_version(rtx: FakeTensorRT, bundle: Bundle) -> None:
    build(bundle)
    folder = plan_folder(bundle, RTX)
    (folder / "search.plan").write_bytes(b"ftrt" + bytes(60))
    with pytest.raises(UnfitPlanError, match="is not a plan of TensorRT for RTX"):
        load_engine("tensorrt-rtx", bundle)
    build(bundle, force=True)
    rtx.version = rtx.module.__version__ = "1.8.0.1"  # type: ignore[attr-defined]
    with pytest.raises(
        UnfitPlanError, match=r"are for .*1\.7\.1\.116, this is 1\.8\.0\.1; build them again: .*rtx"
    ):
        load_engine("tensorrt-rtx", bundle)


def test_what_it_does_not_build(rtx: FakeTensorRT, bundle: Bundle) -> None:
    with pytest.raises(UsageError, match=r"builds for the compute capabilities 7\.5, 8\.0.*, not for 9\.0"):
        build(bundle, compute_capabilities=("9.0",))
    with pytest.raises(UsageError, match="only by itself"):
        build(bundle, compute_capabilities=("7.5", "8.9"))
    with pytest.raises(UsageError, match="has no --tf32"):
        build(bundle, tf32=True)
