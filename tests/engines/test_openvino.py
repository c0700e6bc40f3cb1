"""The OpenVINO engine: the same boxes as ONNX Runtime, a cache that fixes itself, errors in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from int8_graphs import with_backbone_in_int8
from tiny import TINY, Crop, as_arrays, search_input, template_input

from sttrack_deploy.bundle import Bundle, open_bundle
from sttrack_deploy.engines.base import Engine
from sttrack_deploy.engines.building import (
    VARIABLE,
    BatchRange,
    BuildOptions,
    SilentReport,
    builder_of,
    cache_of,
)
from sttrack_deploy.engines.openvino import build as openvino_build
from sttrack_deploy.engines.openvino.build import compiled_graphs, the_core
from sttrack_deploy.engines.registry import BACKENDS, load_engine
from sttrack_deploy.errors import MissingDependencyError, UserError
from sttrack_deploy.files import sha256_of

Clip = tuple[Crop, list[Crop]]


def clip(batch: int = 1, frames: int = 6, seed: int = 0) -> Clip:
    """Template with its mask, search images with theirs."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    template = as_arrays(template_input(TINY, batch, generator))
    return template, [as_arrays(search_input(TINY, batch, generator)) for _ in range(frames)]


def track(engine: Engine, seen: Clip) -> np.ndarray:
    """Boxes and confidences, float32 ``(frames, batch, 5)``."""
    state = engine.initial_state(*seen[0])
    found = []
    for frame in seen[1]:
        prediction, state = engine.step(*frame, state)
        found.append(np.concatenate([prediction.box, prediction.confidence[:, None]], axis=1))
    return np.stack(found)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def copy(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))


def test_it_gives_the_boxes_of_onnx_runtime_over_time(tiny_bundle: Bundle) -> None:
    seen = clip(frames=9)
    ours, theirs = (track(load_engine(name, tiny_bundle, 1), seen) for name in ("openvino", "onnxruntime"))
    assert np.abs(ours - theirs).max() < 1e-4
    assert np.ptp(theirs, axis=0).max() > 1e-3


@pytest.mark.parametrize("batch", [1, 3])
def test_a_dynamic_batch(tiny_dynamic_bundle: Bundle, batch: int) -> None:
    seen = clip(batch)
    engine = load_engine("openvino", tiny_dynamic_bundle, 1)
    theirs = track(load_engine("onnxruntime", tiny_dynamic_bundle, 1), seen)
    assert theirs.shape == (6, batch, 5)
    assert np.abs(track(engine, seen) - theirs).max() < 1e-4
    track(engine, clip(2))  # another number of targets on the same engine
    assert np.abs(track(engine, seen) - theirs).max() < 1e-4


def test_tracks_of_one_engine_do_not_disturb_each_other(tiny_bundle: Bundle) -> None:
    engine = load_engine("openvino", tiny_bundle, 1)
    first, second = clip(seed=1), clip(seed=2)
    alone = track(engine, first)
    ours, other = engine.initial_state(*first[0]), engine.initial_state(*second[0])
    kept = []
    for mine, theirs in zip(first[1], second[1], strict=True):
        prediction, ours = engine.step(*mine, ours)
        kept.append(prediction)
        _, other = engine.step(*theirs, other)
    # Compared at the end: a prediction must not be a view of memory that later steps write to.
    together = np.stack([np.append(p.box[0], p.confidence[0])[None] for p in kept])
    assert np.array_equal(together, alone)


def test_state_can_be_read_and_given_back(tiny_bundle: Bundle) -> None:
    engine = load_engine("openvino", tiny_bundle, 1)
    seen = clip()
    state = engine.initial_state(*seen[0])
    for frame in seen[1][:3]:
        _, state = engine.step(*frame, state)
    values = engine.export_state(state)
    assert set(values) == {spec.name for spec in tiny_bundle.manifest.state}
    before, _ = engine.step(*seen[1][3], state)
    engine.step(*seen[1][4], state)
    again, _ = engine.step(*seen[1][3], engine.import_state(values))
    assert np.array_equal(before.box, again.box)


def test_compiled_models_are_kept_and_reused(tiny_bundle: Bundle, cache: Path) -> None:
    first, second = (load_engine("openvino", tiny_bundle, threads) for threads in (1, 2))
    assert first.describe()["compiled model"] == "kept"
    assert second.describe()["compiled model"] == "reused"
    assert [e.describe()["threads"] for e in (first, second)] == ["1", "2"]
    folder = cache_of(tiny_bundle) / "openvino-f32-b1"
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "search.blob", "template.blob"]
    assert folder.is_relative_to(cache)
    assert np.array_equal(track(first, clip()), track(second, clip()))


def test_a_cache_that_does_not_fit_is_made_anew(tiny_bundle: Bundle, cache: Path) -> None:
    seen = clip()
    expected = track(load_engine("openvino", tiny_bundle, 1), seen)
    folder = cache_of(tiny_bundle) / "openvino-f32-b1"
    blob, sidecar = folder / "search.blob", folder / "manifest.json"
    original = sidecar.read_text()

    def damage() -> None:
        data = bytearray(blob.read_bytes())
        data[-1000] ^= 0xFF  # a weight: it would load, and compute something else
        blob.write_bytes(data)

    def truncate_with_a_hash_that_fits() -> None:
        blob.write_bytes(blob.read_bytes()[:5000])
        facts = json.loads(original)
        facts["sha256"]["search.blob"] = sha256_of(blob)
        sidecar.write_text(json.dumps(facts))

    for spoil in (
        damage,
        truncate_with_a_hash_that_fits,
        lambda: sidecar.write_text("[]"),
        lambda: sidecar.write_text(original.replace('"openvino": "', '"openvino": "1')),
        lambda: sidecar.write_text(original.replace('"device": "', '"device": "another ')),
    ):
        spoil()
        engine = load_engine("openvino", tiny_bundle, 1)
        assert engine.describe()["compiled model"] == "kept"
        assert np.array_equal(track(engine, seen), expected)
    assert load_engine("openvino", tiny_bundle, 1).describe()["compiled model"] == "reused"


def test_an_engine_cache_that_cannot_be_written(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")  # root may write anywhere, but not into a file
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file" / "cache"))
    engine = load_engine("openvino", tiny_bundle, 1)
    assert engine.describe()["compiled model"] == "could not be kept"
    with pytest.raises(UserError, match="cannot write"):
        builder_of("openvino")(tiny_bundle, BuildOptions(), SilentReport())


@pytest.mark.usefixtures("cache")
def test_build(tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_build, "_capabilities", lambda _: ["FP32", "INT8"])
    build = builder_of("openvino")
    made = build(tiny_bundle, BuildOptions(), SilentReport())
    assert all(path.is_file() for path in made.files)
    assert not made.facts["reused"]
    assert made.facts["precisions"] == "f32"
    assert build(tiny_bundle, BuildOptions(), SilentReport()).facts["reused"]
    assert not build(tiny_bundle, BuildOptions(force=True), SilentReport()).facts["reused"]
    assert load_engine("openvino", tiny_bundle).describe()["compiled model"] == "reused"
    elsewhere = build(tiny_bundle, BuildOptions(out=tmp_path / "out"), SilentReport())
    assert {path.parent for path in elsewhere.files} == {
        cache_of(tiny_bundle, tmp_path / "out") / "openvino-f32-b1"
    }
    # A cache that was named may hold another bundle's.
    facts = replace(tiny_bundle.manifest.search, sha256="0" * 64)
    other = Bundle(tiny_bundle.path, replace(tiny_bundle.manifest, search=facts))
    assert not build(other, BuildOptions(out=tmp_path / "out"), SilentReport()).facts["reused"]


@pytest.mark.usefixtures("cache")
def test_each_number_of_targets_is_kept(tiny_dynamic_bundle: Bundle) -> None:
    options = BuildOptions(batch=BatchRange(1, 2, 4))
    made = builder_of("openvino")(tiny_dynamic_bundle, options, SilentReport())
    assert made.files[0].parent.name == "openvino-f32-b2"
    track(load_engine("openvino", tiny_dynamic_bundle, 1), clip(3, frames=1))
    kept = {path.name for path in cache_of(tiny_dynamic_bundle).iterdir() if "f32" in path.name}
    assert kept == {"openvino-f32-b1", "openvino-f32-b2", "openvino-f32-b3"}


@pytest.mark.usefixtures("cache")
def test_bf16_where_the_cpu_lacks_it(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_build, "_capabilities", lambda _: ["FP32", "INT8"])
    with pytest.raises(UserError, match=r"does not compute in bf16 .*use --engine openvino"):
        load_engine("openvino-bf16", tiny_bundle)


def test_bf16_is_near(tiny_bundle: Bundle) -> None:
    if "BF16" not in the_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bf16")
    ours, theirs = (track(load_engine(n, tiny_bundle, 1), clip()) for n in ("openvino-bf16", "openvino"))
    assert 1e-5 < np.abs(ours - theirs).max() < 0.1


def test_the_engine_runs_an_int8_bundle(
    tiny_dynamic_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As near to FP32 as ONNX Runtime's INT8 is, in the memory (random corners make much of every rounding)."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_dynamic_bundle.path, bundle)
    path = bundle / "search.onnx"
    path.write_bytes(with_backbone_in_int8(path).SerializeToString())
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["search"] |= {"sha256": sha256_of(path)}
    (bundle / "manifest.json").write_text(json.dumps(manifest))

    template, (search, *_) = clip(batch=6, frames=1)
    memories = []
    for opened, name in ((tiny_dynamic_bundle, "onnxruntime"), (bundle, "onnxruntime"), (bundle, "openvino")):
        engine = load_engine(name, opened if isinstance(opened, Bundle) else open_bundle(opened), 1)
        _, state = engine.step(*search, engine.initial_state(*template))
        memories.append(engine.export_state(state)["memory"])
    exact, theirs, ours = memories
    error, due = (np.sqrt(np.mean((memory - exact) ** 2)) for memory in (ours, theirs))
    assert 0.3 * due < error < 3 * due


def test_not_installed(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    for name in ("openvino", "openvino-bf16"):
        with pytest.raises(MissingDependencyError) as caught:
            load_engine(name, tiny_bundle)
        assert str(caught.value) == (
            f"the engine '{name}' needs 'openvino', which is not installed: {BACKENDS['openvino'].install}"
        )
    with pytest.raises(MissingDependencyError, match="pip install"):
        builder_of("openvino")(tiny_bundle, BuildOptions(), SilentReport())


@pytest.mark.usefixtures("cache")
def test_a_graph_it_cannot_read(copy: Path) -> None:
    (copy / "search.onnx").write_bytes(b"not onnx at all")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["search"]["sha256"] = sha256_of(copy / "search.onnx")
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        UserError, match=r"search\.onnx is not an ONNX model, or is damaged .*export"
    ) as caught:
        load_engine("openvino", open_bundle(copy))
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("cache")
def test_a_graph_that_does_not_match_its_manifest(copy: Path) -> None:
    bundle = open_bundle(copy)
    inputs = (replace(bundle.manifest.search.inputs[0], dtype="float32"), *bundle.manifest.search.inputs[1:])
    wrong = replace(bundle.manifest, search=replace(bundle.manifest.search, inputs=inputs))
    with pytest.raises(
        UserError, match=r"'search_image' is uint8 .* in the file, float32 .* in the manifest"
    ):
        compiled_graphs(Bundle(copy, wrong), "f32", 1, 1)


SIGNALLED = """
import gc, os, signal, sys, time
from pathlib import Path
from sttrack_deploy.bundle import open_bundle
from sttrack_deploy.engines.registry import load_engine
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts in the background
engine = load_engine("openvino", open_bundle(Path(sys.argv[1])), 1)
del engine
gc.collect()
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
except KeyboardInterrupt:
    print("told")
"""


def test_ctrl_c_after_an_engine_is_gone(tiny_bundle: Bundle) -> None:
    """OpenVINO's plugin would take the stack of signal handlers with it."""
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(tiny_bundle.path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "told\n"), done.stderr


def test_an_input_whose_conversions_are_optimized_away_keeps_its_name(
    tiny_bundle: Bundle, tmp_path: Path, cache: Path
) -> None:
    """FP16 graphs widen their state, and a probe of parity's bisect narrows it: OpenVINO joins the tensors' names."""
    import onnx

    folder = shutil.copytree(tiny_bundle.path, tmp_path / "converted")
    model = onnx.load(folder / "search.onnx")
    for node in model.graph.node:
        node.input[:] = ["a_wide" if name == "query_in" else name for name in node.input]
    narrow = onnx.helper.make_node("Cast", ["query_in"], ["a_narrow"], to=onnx.TensorProto.FLOAT16)
    wide = onnx.helper.make_node("Cast", ["a_narrow"], ["a_wide"], to=onnx.TensorProto.FLOAT)
    model.graph.node.insert(0, wide)
    model.graph.node.insert(0, narrow)
    onnx.save(model, folder / "search.onnx")
    seen = clip()
    found = track(load_engine("openvino", open_bundle(folder, verify=False), 1), seen)
    np.testing.assert_allclose(found, track(load_engine("openvino", tiny_bundle, 1), seen), atol=1e-2)
