"""Building plans: what is asked of TensorRT, what is written, what is refused."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from fake_tensorrt import FakeTensorRT, plan_parts
from gpu_double import install
from recurrent_bundle import write_recurrent_bundle

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.engines.building import (
    BatchRange,
    BuildOptions,
    BuiltEngine,
    SilentReport,
    builder_of,
    engine_cache,
)
from sttrack_deploy.engines.tensorrt.plan_file import plan_folder
from sttrack_deploy.errors import MissingDependencyError, UsageError, UserError
from sttrack_deploy.files import sha256_of

pytest_plugins = ["gpu_double"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_recurrent_bundle(tmp_path_factory.mktemp("fixed") / "recurrent")


@pytest.fixture(scope="module")
def dynamic_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_recurrent_bundle(tmp_path_factory.mktemp("dynamic") / "recurrent", batch=None)


class Heard(SilentReport):
    """Keeps what a build reports."""

    def __init__(self) -> None:
        self.phases: list[tuple[str, str | None, int]] = []
        self.done: dict[str, int] = {}
        self.finished: list[str] = []
        self.threads: set[int] = set()

    def phase(self, name: str, parent: str | None, steps: int) -> None:
        self.phases.append((name, parent, steps))

    def step(self, name: str, done: int) -> bool:
        self.done[name] = done
        self.threads.add(threading.get_ident())
        return True

    def finish(self, name: str) -> None:
        self.finished.append(name)


def build(bundle: Bundle, report: Any = None, **options: Any) -> BuiltEngine:
    return builder_of("tensorrt")(bundle, BuildOptions(**options), report or SilentReport())


def builds(trt: FakeTensorRT) -> list[dict[str, Any]]:
    return [facts for event, facts in trt.events if event == "build"]


def test_what_is_written(trt: FakeTensorRT, bundle: Bundle) -> None:
    built = build(bundle)
    folder = plan_folder(bundle)
    assert sorted(file.name for file in folder.iterdir()) == ["plans.json", "search.plan", "template.plan"]
    assert set(built.files) == set(folder.iterdir())
    assert built.bytes == sum(file.stat().st_size for file in folder.iterdir())
    recorded = json.loads((folder / "plans.json").read_text())
    for name in ("template", "search"):
        plan, graph = recorded[name], getattr(bundle.manifest, name)
        assert plan["sha256"] == sha256_of(folder / f"{name}.plan")
        assert plan["onnx_sha256"] == graph.sha256
        assert [t["name"] for t in plan["inputs"]] == [t.name for t in graph.inputs]
        assert plan["workspace_bytes"] > 0
    assert recorded["tensorrt"] == trt.version
    assert (recorded["gpu"], recorded["capability"]) == ("NVIDIA Imaginary 1000", [8, 9])
    assert recorded["driver"] == "13.4"
    assert recorded["state"][2] == {
        "name": "memory",
        "initial": "memory",
        "input": "memory_in",
        "output": "memory_out",
    }
    assert recorded["precision"] == {"name": "fp32"}
    assert len(recorded["timing_cache"]) == 64
    # A plan is a plain file: trtexec, DeepStream and Triton read it as it is.
    version, _, onnx = plan_parts((folder / "search.plan").read_bytes())
    assert version == trt.version
    assert onnx == bundle.search_path.read_bytes()


def test_what_tensorrt_is_told(trt: FakeTensorRT, bundle: Bundle) -> None:
    build(bundle)
    for facts in builds(trt):
        assert facts["flags"] == []  # not even TF32, which is TensorRT's default
        assert (facts["pools"], facts["level"], facts["hardware"]) == ({}, 3, "NONE")
    build(
        bundle,
        workspace_mib=512,
        optimization_level=5,
        tf32=True,
        version_compatible=True,
        hardware_compatible=True,
    )
    for facts in builds(trt)[2:]:
        assert facts["flags"] == ["TF32", "VERSION_COMPATIBLE"]
        assert facts["pools"] == {"WORKSPACE": 512 << 20}
        assert (facts["level"], facts["hardware"]) == (5, "AMPERE_PLUS")


def test_a_dynamic_batch(trt: FakeTensorRT, dynamic_bundle: Bundle) -> None:
    build(dynamic_bundle, batch=BatchRange(1, 4, 8))
    template, search = (facts["profile"] for facts in builds(trt))
    assert template["template_mask"] == [[1, 2, 2], [4, 2, 2], [8, 2, 2]]
    assert search["memory_in"] == [[1, 2, 3], [4, 2, 3], [8, 2, 3]]
    assert len(search) == 5
    with pytest.raises(UsageError, match="is not in order"):
        build(dynamic_bundle, batch=BatchRange(4, 2, 8))


def test_a_fixed_batch_takes_no_range(trt: FakeTensorRT, bundle: Bundle) -> None:
    with pytest.raises(UsageError, match=r"takes exactly 1 target\(s\) a call, not 1 to 8"):
        build(bundle, batch=BatchRange(1, 4, 8))


def test_what_fits_is_kept(trt: FakeTensorRT, bundle: Bundle) -> None:
    build(bundle)
    assert build(bundle).facts["reused"]
    assert len(builds(trt)) == 2
    assert not build(bundle, optimization_level=4).facts["reused"]
    assert not build(bundle, optimization_level=4, force=True).facts["reused"]
    (plan_folder(bundle) / "search.plan").write_bytes(b"ftrt")
    assert not build(bundle, optimization_level=4).facts["reused"]
    assert len(builds(trt)) == 8


def test_progress(trt: FakeTensorRT, bundle: Bundle) -> None:
    heard = Heard()
    build(bundle, heard)
    assert sorted(heard.phases) == [
        ("Building Engine", None, 3),
        ("Building Engine", None, 3),
        ("Computing profile costs", "Building Engine", 3),
        ("Computing profile costs", "Building Engine", 3),
    ]
    assert heard.done == {"Building Engine": 3, "Computing profile costs": 3}
    assert len(heard.finished) == 4
    assert len(heard.threads) > 1


def test_a_report_that_breaks_does_not_break_the_build(trt: FakeTensorRT, bundle: Bundle) -> None:
    class Broken(SilentReport):
        def step(self, name: str, done: int) -> bool:
            raise RuntimeError("no terminal")

    assert build(bundle, Broken()).files


def test_interrupted(trt: FakeTensorRT, bundle: Bundle) -> None:
    """Ctrl-C while TensorRT is at work: it is asked to stop, and nothing is left behind."""
    build(bundle)
    before = {file: file.read_bytes() for file in plan_folder(bundle).iterdir()}
    trt.on_step = lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 1 else None
    previous = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        build(bundle, force=True)
    assert len(builds(trt)) == 2  # the third was given up on the way
    assert signal.getsignal(signal.SIGINT) is previous
    assert {file: file.read_bytes() for file in plan_folder(bundle).iterdir()} == before
    assert [path.name for path in plan_folder(bundle).parent.iterdir()] == ["tensorrt"]


def test_the_timing_cache(trt: FakeTensorRT, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    build(bundle)
    (path,) = (engine_cache() / "timing").iterdir()
    assert trt.version in path.name
    assert "Imaginary" in path.name
    first = path.read_bytes()
    build(bundle, force=True)
    assert path.read_bytes().startswith(first)
    assert len(path.read_bytes()) > len(first)
    for other in (b"not a cache", b"timing of another GPU"):
        path.write_bytes(other)
        build(bundle, force=True)
        assert path.read_bytes().startswith(b"timing " + trt.version.encode())
    path.unlink()
    build(bundle, force=True, timing_cache=False)
    assert not path.exists()


def test_a_graph_that_the_parser_refuses(trt: FakeTensorRT, bundle: Bundle) -> None:
    trt.refuse_operator = "ReduceMean"
    with pytest.raises(
        UserError, match=r"parser refuses .*template.onnx: node \d+ \(ReduceMean\): .*and 1 more"
    ):
        build(bundle)
    assert not plan_folder(bundle).exists()


def test_a_build_that_fails(trt: FakeTensorRT, bundle: Bundle) -> None:
    trt.fail_build = "Could not find any implementation for node {ForeignNode}"
    with pytest.raises(UserError, match=r"cannot build .*Could not find any implementation.*--workspace"):
        build(bundle)
    assert not plan_folder(bundle).exists()


def test_an_engine_cache_that_cannot_be_made(trt: FakeTensorRT, bundle: Bundle) -> None:
    engine_cache().write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        build(bundle)


def test_without_a_driver(trt: FakeTensorRT, bundle: Bundle) -> None:
    """The double ends the process where TensorRT would: it is never reached."""
    trt.gpu.driver = False
    with pytest.raises(UserError, match=r"no usable NVIDIA GPU here \(CUDA error 35: .*nvidia-smi") as caught:
        build(bundle)
    assert "\n" not in str(caught.value)
    trt.gpu.driver, trt.gpu.devices = True, 0
    with pytest.raises(UserError, match="the driver lists none"):
        build(bundle)


@pytest.mark.parametrize(("missing", "named"), [("tensorrt", "tensorrt"), ("cuda.bindings", "cuda-python")])
def test_without_a_package(
    trt: FakeTensorRT, bundle: Bundle, missing: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (missing, "pycuda"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=f"needs '{named}', which is not installed: pip install"):
        build(bundle)


def test_a_tensorrt_that_is_too_old(trt: FakeTensorRT, bundle: Bundle) -> None:
    trt.module.__version__ = "10.9.0.34"  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"TensorRT 10.9.0.34 is too old, 10.12 is the oldest"):
        build(bundle)


def test_the_plans_of_one_version_are_rebuilt_for_another(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STTRACK_ENGINES", str(tmp_path))
    old = install(monkeypatch, "10")
    build(bundle)
    new = install(monkeypatch, "11")
    assert not build(bundle).facts["reused"]
    assert (len(builds(old)), len(builds(new))) == (2, 2)
    gc.collect()
