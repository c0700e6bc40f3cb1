"""Puts the doubles of TensorRT and CUDA where Python looks for the packages."""

from __future__ import annotations

import contextlib
import importlib.machinery
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_cuda import FakeGpu
from fake_tensorrt import FakeTensorRT

from sttrack_deploy.engines.building import VARIABLE
from sttrack_deploy.engines.tensorrt import log

__all__ = ["fifteen_frames", "install", "rtx", "short_demo", "trt"]

CUDA_OF = {"10": "12", "11": "13", "rtx": "12"}
"""Version of cuda-python that goes with each TensorRT."""


def install(monkeypatch: pytest.MonkeyPatch, major: str, gpu: FakeGpu | None = None) -> FakeTensorRT:
    """Install both doubles; a second call changes the version, on the same GPU if it is given."""
    fake = FakeTensorRT(major, gpu or FakeGpu(CUDA_OF[major]))
    modules = {
        fake.name: fake.module,
        "cuda": types.ModuleType("cuda"),
        "cuda.bindings": types.ModuleType("cuda.bindings"),
        "cuda.bindings.runtime": fake.gpu.module(),
    }
    for name in ("cuda", "cuda.bindings"):
        modules[name].__path__ = []
    modules["cuda"].bindings = modules["cuda.bindings"]  # type: ignore[attr-defined]
    modules["cuda.bindings"].runtime = modules["cuda.bindings.runtime"]  # type: ignore[attr-defined]
    for name, module in modules.items():
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=hasattr(module, "__path__"))
        monkeypatch.setitem(sys.modules, name, module)
    # The adapter holds the CUDA that it was imported with.
    monkeypatch.delitem(sys.modules, "sttrack_deploy.engines.cuda.cuda_python", raising=False)
    monkeypatch.setattr(log, "_logs", {})
    return fake


@pytest.fixture(scope="session")
def fifteen_frames() -> Iterator[Any]:
    """The beginning of the demo clip, drawn once."""
    from sttrack_deploy.verification.closed_loop import demo_sequence

    with demo_sequence(15) as sequence:
        yield sequence


@pytest.fixture
def short_demo(fifteen_frames: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparisons on the demo clip are over its first fifteen frames."""
    from sttrack_deploy.verification import closed_loop

    monkeypatch.setattr(closed_loop, "demo_sequence", lambda: contextlib.nullcontext(fifteen_frames))


@pytest.fixture(params=["11", "10"])
def trt(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[FakeTensorRT]:
    """Both versions in turn, and an engine cache of their own."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv("STTRACK_CUDA", raising=False)
    monkeypatch.delenv("STTRACK_REBUILD", raising=False)
    yield install(monkeypatch, request.param)
    sys.modules.pop("sttrack_deploy.engines.cuda.cuda_python", None)


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeTensorRT]:
    """TensorRT for RTX on the double: plans are made in this process, where the double is."""
    from sttrack_deploy.engines.tensorrt import plan_build
    from sttrack_deploy.engines.tensorrt.plan_maker import make_plan

    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    for name in ("STTRACK_CUDA", "STTRACK_REBUILD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(plan_build, "make_plan_apart", make_plan)
    yield install(monkeypatch, "rtx")
    sys.modules.pop("sttrack_deploy.engines.cuda.cuda_python", None)
