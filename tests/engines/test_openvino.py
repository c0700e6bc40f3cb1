"""The OpenVINO engine: the same boxes as ONNX Runtime, a cache that mends itself, errors in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import TINY, search_input, template_input

from sttrack_deploy.bundle import Bundle, open_bundle
from sttrack_deploy.engines import openvino_build
from sttrack_deploy.engines.base import Engine
from sttrack_deploy.engines.building import BatchRange, BuildOptions, SilentReport, builder_of
from sttrack_deploy.engines.openvino_build import compiled_graphs, the_core
from sttrack_deploy.engines.registry import BACKENDS, create_engine
from sttrack_deploy.engines.shelf import VARIABLE, shelf_of
from sttrack_deploy.errors import MissingDependencyError, UserError
from sttrack_deploy.files import sha256_of

Clip = tuple[list[np.ndarray], list[list[np.ndarray]]]


def clip(batch: int = 1, frames: int = 6, seed: int = 0) -> Clip:
    """Template with its mask, search images with theirs."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    template = [t.numpy() for t in template_input(TINY, batch, generator)]
    return template, [[t.numpy() for t in search_input(TINY, batch, generator)] for _ in range(frames)]


def track(engine: Engine, seen: Clip) -> np.ndarray:
    """Boxes and confidences, float32 ``(frames, batch, 5)``."""
    state = engine.initial_state(*seen[0])
    found = []
    for frame in seen[1]:
        prediction, state = engine.step(*frame, state)
        found.append(np.concatenate([prediction.box, prediction.confidence[:, None]], axis=1))
    return np.stack(found)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "shelf"))
    return tmp_path / "shelf"


@pytest.fixture
def copy(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))


def test_it_gives_the_boxes_of_onnx_runtime_over_time(tiny_bundle: Bundle) -> None:
    seen = clip(frames=9)
    ours, theirs = (track(create_engine(name, tiny_bundle, 1), seen) for name in ("openvino", "onnxruntime"))
    assert np.abs(ours - theirs).max() < 1e-4
    assert np.ptp(theirs, axis=0).max() > 1e-3


@pytest.mark.parametrize("batch", [1, 3])
def test_a_dynamic_batch(tiny_dynamic_bundle: Bundle, batch: int) -> None:
    seen = clip(batch)
    engine = create_engine("openvino", tiny_dynamic_bundle, 1)
    theirs = track(create_engine("onnxruntime", tiny_dynamic_bundle, 1), seen)
    assert theirs.shape == (6, batch, 5)
    assert np.abs(track(engine, seen) - theirs).max() < 1e-4
    track(engine, clip(2))  # another number of targets on the same engine
    assert np.abs(track(engine, seen) - theirs).max() < 1e-4


def test_tracks_of_one_engine_do_not_disturb_each_other(tiny_bundle: Bundle) -> None:
    engine = create_engine("openvino", tiny_bundle, 1)
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
    engine = create_engine("openvino", tiny_bundle, 1)
    seen = clip()
    state = engine.initial_state(*seen[0])
    for frame in seen[1][:3]:
        _, state = engine.step(*frame, state)
    values = engine.read_state(state)  # type: ignore[attr-defined]
    assert set(values) == {spec.input for spec in tiny_bundle.manifest.state}
    before, _ = engine.step(*seen[1][3], state)
    engine.step(*seen[1][4], state)
    again, _ = engine.step(*seen[1][3], engine.write_state(values))  # type: ignore[attr-defined]
    assert np.array_equal(before.box, again.box)


def test_compiled_models_are_kept_and_reused(tiny_bundle: Bundle, shelf: Path) -> None:
    first, second = (create_engine("openvino", tiny_bundle, threads) for threads in (1, 2))
    assert first.describe()["compiled model"] == "kept"
    assert second.describe()["compiled model"] == "reused"
    assert [e.describe()["threads"] for e in (first, second)] == ["1", "2"]
    folder = shelf_of(tiny_bundle) / "openvino-f32-b1"
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "search.blob", "template.blob"]
    assert folder.is_relative_to(shelf)
    assert np.array_equal(track(first, clip()), track(second, clip()))


def test_a_cache_that_does_not_fit_is_made_anew(tiny_bundle: Bundle, shelf: Path) -> None:
    seen = clip()
    expected = track(create_engine("openvino", tiny_bundle, 1), seen)
    folder = shelf_of(tiny_bundle) / "openvino-f32-b1"
    blob, sidecar = folder / "search.blob", folder / "manifest.json"
    original = sidecar.read_text()

    def damage() -> None:
        data = bytearray(blob.read_bytes())
        data[-1000] ^= 0xFF  # a weight: it would load, and compute something else
        blob.write_bytes(data)

    def truncate_with_a_hash_that_fits() -> None:
        blob.write_bytes(blob.read_bytes()[:5000])
        facts = json.loads(original)
        facts["sha256"]["search"] = sha256_of(blob)
        sidecar.write_text(json.dumps(facts))

    for spoil in (
        damage,
        truncate_with_a_hash_that_fits,
        lambda: sidecar.write_text("[]"),
        lambda: sidecar.write_text(original.replace('"openvino": "', '"openvino": "1')),
        lambda: sidecar.write_text(original.replace('"device": "', '"device": "another ')),
    ):
        spoil()
        engine = create_engine("openvino", tiny_bundle, 1)
        assert engine.describe()["compiled model"] == "kept"
        assert np.array_equal(track(engine, seen), expected)
    assert create_engine("openvino", tiny_bundle, 1).describe()["compiled model"] == "reused"


def test_a_shelf_that_cannot_be_written(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")  # root may write anywhere, but not into a file
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file" / "shelf"))
    engine = create_engine("openvino", tiny_bundle, 1)
    assert engine.describe()["compiled model"] == "could not be kept"
    with pytest.raises(UserError, match="cannot write"):
        builder_of("openvino")(tiny_bundle, BuildOptions(), SilentReport())


@pytest.mark.usefixtures("shelf")
def test_build(tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_build, "_capabilities", lambda _: ["FP32", "INT8"])
    build = builder_of("openvino")
    made = build(tiny_bundle, BuildOptions(), SilentReport())
    assert all(path.is_file() for path in made.files)
    assert not made.facts["reused"]
    assert made.facts["precisions"] == "f32"
    assert build(tiny_bundle, BuildOptions(), SilentReport()).facts["reused"]
    assert not build(tiny_bundle, BuildOptions(force=True), SilentReport()).facts["reused"]
    assert create_engine("openvino", tiny_bundle).describe()["compiled model"] == "reused"
    elsewhere = build(tiny_bundle, BuildOptions(out=tmp_path / "out"), SilentReport())
    assert {path.parent for path in elsewhere.files} == {tmp_path / "out" / "openvino-f32-b1"}
    # A folder that was named may hold another bundle's.
    facts = replace(tiny_bundle.manifest.search, sha256="0" * 64)
    other = Bundle(tiny_bundle.path, replace(tiny_bundle.manifest, search=facts))
    assert not build(other, BuildOptions(out=tmp_path / "out"), SilentReport()).facts["reused"]


@pytest.mark.usefixtures("shelf")
def test_each_number_of_targets_is_kept(tiny_dynamic_bundle: Bundle) -> None:
    options = BuildOptions(batch=BatchRange(1, 2, 4))
    made = builder_of("openvino")(tiny_dynamic_bundle, options, SilentReport())
    assert made.files[0].parent.name == "openvino-f32-b2"
    track(create_engine("openvino", tiny_dynamic_bundle, 1), clip(3, frames=1))
    kept = {path.name for path in shelf_of(tiny_dynamic_bundle).iterdir() if "f32" in path.name}
    assert kept == {"openvino-f32-b1", "openvino-f32-b2", "openvino-f32-b3"}


@pytest.mark.usefixtures("shelf")
def test_bf16_where_the_cpu_lacks_it(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_build, "_capabilities", lambda _: ["FP32", "INT8"])
    with pytest.raises(UserError, match=r"does not compute in bf16 .*use --engine openvino"):
        create_engine("openvino-bf16", tiny_bundle)


def test_bf16_is_near(tiny_bundle: Bundle) -> None:
    if "BF16" not in the_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bf16")
    ours, theirs = (track(create_engine(n, tiny_bundle, 1), clip()) for n in ("openvino-bf16", "openvino"))
    assert 1e-5 < np.abs(ours - theirs).max() < 0.1


def test_a_quantized_graph_runs_as_it_is(copy: Path) -> None:
    """Explicit Q/DQ around a convolution: the boxes of ONNX Runtime's INT8, which are not those of FP32."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    seen = clip(frames=4)
    exact = create_engine("onnxruntime", open_bundle(copy), 1)
    expected = track(exact, seen)
    state = exact.initial_state(*seen[0])
    feeds = [{"search_image": image, "search_mask": mask, **state} for image, mask in seen[1]]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        rest = iter(feeds)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rest, None)

    path = copy / "search.onnx"
    convolutions = [node.name for node in onnx.load(path).graph.node if node.op_type == "Conv"]
    extra = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    quantize_static(
        str(path), str(path), Reader(), quant_format=QuantFormat.QDQ, op_types_to_quantize=["Conv"],
        nodes_to_quantize=convolutions[1:2],
        per_channel=True, activation_type=QuantType.QInt8, extra_options=extra,
    )  # fmt: skip
    model = onnx.load(path)
    masks = {i.name for i in model.graph.input if i.type.tensor_type.elem_type == onnx.TensorProto.BOOL}
    # OpenVINO 2026.4 refuses a cast from bool in a graph with Q/DQ; the exporter avoids it too.
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] in masks:
            node.op_type = "Where"
            node.input.extend(["one", "zero"])
            del node.attribute[:]
    for name, value in (("one", 1.0), ("zero", 0.0)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(value), name))
    onnx.save(model, path)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["search"]["sha256"] = sha256_of(path)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    ours, theirs = (track(create_engine(n, open_bundle(copy), 1), seen) for n in ("openvino", "onnxruntime"))
    # The first frame: from there on this network's random weights make much of every rounding.
    assert np.abs(theirs[0] - expected[0]).max() > 1e-4
    assert np.abs(ours[0] - theirs[0]).max() < 0.5 * np.abs(theirs[0] - expected[0]).max()


def test_not_installed(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    for name in ("openvino", "openvino-bf16"):
        with pytest.raises(MissingDependencyError) as caught:
            create_engine(name, tiny_bundle)
        assert str(caught.value) == (
            f"the engine '{name}' needs 'openvino', which is not installed: {BACKENDS['openvino'].install}"
        )
    with pytest.raises(MissingDependencyError, match="pip install"):
        builder_of("openvino")(tiny_bundle, BuildOptions(), SilentReport())


@pytest.mark.usefixtures("shelf")
def test_a_graph_it_cannot_read(copy: Path) -> None:
    (copy / "search.onnx").write_bytes(b"not onnx at all")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["search"]["sha256"] = sha256_of(copy / "search.onnx")
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        UserError, match=r"OpenVINO cannot compile .*search\.onnx.*--engine onnxruntime"
    ) as caught:
        create_engine("openvino", open_bundle(copy))
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("shelf")
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
from sttrack_deploy.engines.registry import create_engine
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts in the background
engine = create_engine("openvino", open_bundle(Path(sys.argv[1])), 1)
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
