"""ONNX Runtime's GPU providers, without a GPU.

What runs here: the whole IO-binding flow with real numbers, on the CPU provider in the place of the GPU's; which
providers and options are asked for; every refusal. What cannot: CUDA kernels, TensorRT, copies to a device.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from tiny import TINY, Crop, as_arrays, search_input, template_input

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.engines.building import VARIABLE, cache_of
from sttrack_deploy.engines.onnxruntime import gpu as onnxruntime_gpu
from sttrack_deploy.engines.onnxruntime.engine import CPU
from sttrack_deploy.engines.onnxruntime.gpu import (
    CUDA,
    TENSORRT,
    OnnxRuntimeGpuEngine,
    create_cuda,
    create_tensorrt,
)
from sttrack_deploy.engines.registry import BACKENDS, Backend, load_engine
from sttrack_deploy.errors import MissingDependencyError, UserError

RealSession = onnxruntime.InferenceSession


class GpuSession:
    """A session that says it runs on the first provider asked for, and runs on the CPU."""

    asked: list[Any] = []  # noqa: RUF012
    fails = False

    def __init__(self, path: str, options: Any, providers: list[Any]) -> None:
        GpuSession.asked.append(providers)
        self._inner = RealSession(path, options, providers=[CPU])
        names = [p if isinstance(p, str) else p[0] for p in providers]
        self._providers = [CPU] if GpuSession.fails else names

    def get_providers(self) -> list[str]:
        return self._providers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> type[GpuSession]:
    monkeypatch.setattr(GpuSession, "asked", [])
    monkeypatch.setattr(GpuSession, "fails", False)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", GpuSession)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    return GpuSession


def clip(batch: int, seed: int = 0) -> tuple[Crop, list[Crop]]:
    import torch

    generator = torch.Generator().manual_seed(seed)
    template = as_arrays(template_input(TINY, batch, generator))
    return template, [as_arrays(search_input(TINY, batch, generator)) for _ in range(6)]


def test_io_binding_gives_the_boxes_of_plain_runs(tiny_dynamic_bundle: Bundle) -> None:
    engine = OnnxRuntimeGpuEngine("onnxruntime-cuda", tiny_dynamic_bundle, [CPU], 1, device="cpu")
    plain = load_engine("onnxruntime", tiny_dynamic_bundle, 1)
    template, frames = clip(2)
    other, others = clip(1, seed=9)
    state, theirs, second = engine.initial_state(*template), plain.initial_state(*template), None
    second = engine.initial_state(*other)
    found, expected = [], []
    for frame, distraction in zip(frames, others, strict=True):
        prediction, state = engine.step(*frame, state)
        found.append(prediction)
        _, second = engine.step(*distraction, second)
        reference, theirs = plain.step(*frame, theirs)
        expected.append(reference)
    for ours, reference in zip(found, expected, strict=True):  # at the end: no views of reused memory
        assert ours.box.shape == (2, 4)
        assert np.abs(ours.box - reference.box).max() < 1e-5
        assert np.abs(ours.confidence - reference.confidence).max() < 1e-5
    exported = plain.export_state(theirs)
    for name, value in engine.export_state(state).items():
        assert np.abs(value.astype(np.float32) - exported[name]).max() < 1e-4
    given = engine.import_state(engine.export_state(state))
    before, after = (engine.step(*frames[0], s)[0].box for s in (state, given))
    assert np.array_equal(before, after)


def test_cuda_is_asked_for_exactly(gpu: type[GpuSession], tiny_bundle: Bundle) -> None:
    engine = create_cuda(tiny_bundle, 2)
    assert gpu.asked == [[(CUDA, {"device_id": 0, "use_tf32": 0}), CPU]] * 2
    assert engine.describe()["providers"] == f"{CUDA}, {CPU}"
    assert onnxruntime_gpu.devices() == [TENSORRT, CUDA]


def test_tensorrt_keeps_its_engines_in_the_engine_cache(
    gpu: type[GpuSession], tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    create_tensorrt(tiny_bundle, None)
    (name, options), (cuda, _), cpu = gpu.asked[0]
    assert (name, cuda, cpu) == (TENSORRT, CUDA, CPU)
    folder = Path(options["trt_engine_cache_path"])
    assert folder.is_dir()
    assert folder.parent == cache_of(tiny_bundle)
    assert options["trt_engine_cache_enable"]
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    create_tensorrt(tiny_bundle, None)
    assert gpu.asked[-1][0] == (TENSORRT, {})


def test_a_provider_that_does_not_start(
    gpu: type[GpuSession], tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "fails", True)
    with pytest.raises(
        UserError, match="could not start CUDAExecutionProvider and would run on CPU"
    ) as caught:
        create_cuda(tiny_bundle, None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [create_cuda, create_tensorrt])
def test_a_provider_that_is_not_installed(
    make: Any, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    with pytest.raises(MissingDependencyError) as caught:
        make(tiny_bundle, None)
    assert "onnxruntime-gpu[cuda,cudnn]" in str(caught.value)
    assert "ExecutionProvider" in str(caught.value)


def test_the_cpu_package_does_not_count_as_the_gpu_one(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backend, "installed_version", property(lambda _: None))
    for name in ("onnxruntime-cuda", "onnxruntime-tensorrt"):
        assert not BACKENDS[name].available
        assert BACKENDS[name].devices() == []
        with pytest.raises(
            MissingDependencyError, match=r"needs 'onnxruntime-gpu'.*pip uninstall -y onnxruntime &&"
        ):
            load_engine(name, tiny_bundle)
    assert BACKENDS["onnxruntime"].available
