"""Plans that may not be run here: each is refused in one line that names the command that fixes it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_tensorrt import FakeTensorRT, plan_bytes
from gpu_double import install
from recurrent_bundle import crops, write_recurrent_bundle

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.engines.building import BatchRange, BuildOptions, SilentReport, builder_of
from sttrack_deploy.engines.registry import load_engine
from sttrack_deploy.engines.tensorrt.plan_file import UnfitPlanError, plan_folder
from sttrack_deploy.files import sha256_of

pytest_plugins = ["gpu_double"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_recurrent_bundle(tmp_path_factory.mktemp("fixed") / "recurrent")


@pytest.fixture
def folder(trt: FakeTensorRT, bundle: Bundle) -> Path:
    build(bundle)
    return plan_folder(bundle)


def build(bundle: Bundle, **options: Any) -> None:
    builder_of("tensorrt")(bundle, BuildOptions(**options), SilentReport())


def refusal(bundle: Bundle) -> str:
    with pytest.raises(UnfitPlanError) as caught:
        load_engine("tensorrt", bundle)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(f": sttrack-build-engine {bundle.path} --target tensorrt --rebuild")
    return text


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    data = json.loads((folder / "plans.json").read_text())
    change(data)
    (folder / "plans.json").write_text(json.dumps(data))


def forge(folder: Path, data: bytes) -> None:
    """Another search plan, of which the manifest knows."""
    (folder / "search.plan").write_bytes(data)
    edit(folder, lambda m: m["search"].update(sha256=sha256_of(folder / "search.plan")))


def test_none(trt: FakeTensorRT, bundle: Bundle) -> None:
    assert "there are no plans in" in refusal(bundle)


def test_a_file_is_missing(folder: Path, bundle: Bundle) -> None:
    (folder / "template.plan").unlink()
    assert "template.plan is missing" in refusal(bundle)


def test_cut_short(folder: Path, bundle: Bundle) -> None:
    data = (folder / "search.plan").read_bytes()
    (folder / "search.plan").write_bytes(data[:-100])
    assert "altered or cut short" in refusal(bundle)
    (folder / "search.plan").write_bytes(data[:10])
    assert "is not a plan of TensorRT" in refusal(bundle)


def test_not_a_plan(folder: Path, bundle: Bundle) -> None:
    forge(folder, bundle.search_path.read_bytes())
    assert "is not a plan of TensorRT (it starts with b'\\x08" in refusal(bundle)


def test_the_header_is_of_another_version(trt: FakeTensorRT, folder: Path, bundle: Bundle) -> None:
    forge(folder, plan_bytes("9.3.0.1", {}, b""))
    assert f"was made by TensorRT 9.3.0, not {trt.version}" in refusal(bundle)


def test_tensorrt_refuses_it(trt: FakeTensorRT, folder: Path, bundle: Bundle) -> None:
    """The bytes are what was written, and yet it cannot be loaded: None, and the reason in the log."""
    forge(folder, plan_bytes(trt.version, {}, b"no graph"))
    assert "TensorRT refuses" in (text := refusal(bundle))
    assert "Serialization (Error Code 1)" in text


def test_the_plan_is_another_graphs(folder: Path, bundle: Bundle) -> None:
    forge(folder, (folder / "template.plan").read_bytes())
    assert "'box' is absent there, output float32 [1, 4] in the manifest" in refusal(bundle)


def test_another_version(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STTRACK_ENGINES", str(tmp_path))
    install(monkeypatch, "10")
    build(bundle)
    install(monkeypatch, "11")
    assert "are for TensorRT 10.16.1.11, this is 11.4.0.106" in refusal(bundle)


def test_a_later_version_runs_version_compatible_plans(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STTRACK_ENGINES", str(tmp_path))
    install(monkeypatch, "10")
    build(bundle, version_compatible=True)
    install(monkeypatch, "11")
    template, _ = crops(0, 0)
    load_engine("tensorrt", bundle).initial_state(*template)
    build(bundle, version_compatible=True, force=True)
    install(monkeypatch, "10")
    assert "need TensorRT 11.4.0.106 or later, this is 10.16.1.11" in refusal(bundle)


@pytest.mark.parametrize(
    ("compatible", "name", "capability", "fits"),
    [
        (False, b"NVIDIA Imaginary 2000", (8, 9), False),
        (False, b"NVIDIA Imaginary 1000", (9, 0), False),
        (True, b"NVIDIA Imaginary 2000", (9, 0), True),
        (True, b"NVIDIA Imaginary 10", (7, 5), False),
    ],
)
def test_another_gpu(
    trt: FakeTensorRT, bundle: Bundle, compatible: bool, name: bytes, capability: tuple[int, int], fits: bool
) -> None:
    build(bundle, hardware_compatible=compatible)
    trt.gpu.name, trt.gpu.capability = name, capability
    if fits:
        load_engine("tensorrt", bundle)
        return
    text = refusal(bundle)
    assert "are for NVIDIA Imaginary 1000 (compute capability 8.9)" in text
    assert f"this is {name.decode()} ({capability[0]}.{capability[1]})" in text


def test_another_bundle(folder: Path, bundle: Bundle, tmp_path: Path) -> None:
    other = write_recurrent_bundle(tmp_path / "other", gain=0.25)
    shutil.copytree(folder, plan_folder(other))
    assert "were built from another search.onnx than this bundle's" in refusal(other)


def test_another_system(folder: Path, bundle: Bundle) -> None:
    edit(folder, lambda m: m.update(system="Linux aarch64"))
    assert "are for Linux aarch64, this is " in refusal(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema=99), "has schema 99, this version reads 1"),
        (lambda m: m.pop("gpu"), "plans.json cannot be used"),
        (lambda m: m.update(batch=3), "plans.json cannot be used"),
        (lambda m: m.update(search={}), "plans.json cannot be used"),
    ],
)
def test_a_broken_manifest(
    folder: Path, bundle: Bundle, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    edit(folder, change)
    assert message in refusal(bundle)
    (folder / "plans.json").write_text("{")
    assert "plans.json cannot be used" in refusal(bundle)


def test_the_command_asks_for_the_same_batch(trt: FakeTensorRT, tmp_path: Path) -> None:
    bundle = write_recurrent_bundle(tmp_path / "any", batch=None)
    build(bundle, batch=BatchRange(1, 4, 8))
    trt.gpu.capability = (9, 0)
    with pytest.raises(UnfitPlanError, match=r"--target tensorrt --batch 1,4,8 --rebuild$"):
        load_engine("tensorrt", bundle)


def test_rebuilt_on_request(
    trt: FakeTensorRT, folder: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "search.plan").write_bytes(b"")
    monkeypatch.setenv("STTRACK_REBUILD", "1")
    template, frames = crops(0, 1)
    engine = load_engine("tensorrt", bundle)
    prediction, _ = engine.step(*frames[0], engine.initial_state(*template))
    assert prediction.box.shape == (1, 4)
    for event, facts in trt.events:
        assert (event, facts["level"]) == ("build", 3)


def test_rebuilt_with_the_options_it_had(
    trt: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = write_recurrent_bundle(tmp_path / "any", batch=None)
    build(bundle, batch=BatchRange(1, 4, 8), optimization_level=2)
    trt.gpu.capability = (9, 0)
    monkeypatch.setenv("STTRACK_REBUILD", "1")
    load_engine("tensorrt", bundle).initial_state(*crops(0, 0, batch=8)[0])
    assert [facts["level"] for _, facts in trt.events] == [2, 2, 2, 2]
