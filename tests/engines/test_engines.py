"""Bundles that cannot be used, and back ends that are not there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import TINY, as_arrays, search_input, template_input

from sttrack_deploy import open_bundle
from sttrack_deploy.bundle import MANIFEST, Bundle
from sttrack_deploy.engines.onnxruntime.engine import session_options
from sttrack_deploy.engines.registry import BACKENDS, Backend, load_engine
from sttrack_deploy.errors import MissingDependencyError, UsageError, UserError
from sttrack_deploy.files import sha256_of


@pytest.fixture
def copy(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle that may be broken."""
    return Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    data = json.loads((folder / MANIFEST).read_text())
    change(data)
    (folder / MANIFEST).write_text(json.dumps(data))


def failure(folder: Path, engine: str = "onnxruntime") -> str:
    with pytest.raises(UserError) as caught:
        load_engine(engine, open_bundle(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_both_engines_agree_over_time(tiny_bundle: Bundle) -> None:
    import torch

    generator = torch.Generator().manual_seed(0)
    template = as_arrays(template_input(TINY, 1, generator))
    frames = [as_arrays(search_input(TINY, 1, generator)) for _ in range(7)]
    boxes = []
    for name in ("onnxruntime", "torch"):
        engine = load_engine(name, tiny_bundle, threads=1)
        state = engine.initial_state(*template)
        predictions = []
        for frame in frames:
            prediction, state = engine.step(*frame, state)
            predictions.append(np.append(prediction.box[0], prediction.confidence[0]))
        boxes.append(np.stack(predictions))
        assert engine.describe()["version"]
    assert np.abs(boxes[0] - boxes[1]).max() < 1e-4
    assert np.ptp(boxes[0], axis=0).max() > 1e-3


def test_a_track_moves_between_engines(tiny_bundle: Bundle) -> None:
    import torch

    generator = torch.Generator().manual_seed(3)
    template = as_arrays(template_input(TINY, 1, generator))
    frames = [as_arrays(search_input(TINY, 1, generator)) for _ in range(4)]
    names = [name for name in ("onnxruntime", "torch", "openvino") if BACKENDS[name].available]
    engines = [load_engine(name, tiny_bundle, threads=1) for name in names]
    stays = engines[0].initial_state(*template)
    arrays = engines[0].export_state(stays)
    for number, frame in enumerate(frames):
        expected, stays = engines[0].step(*frame, stays)
        moving = engines[(number + 1) % len(engines)]
        found, state = moving.step(*frame, moving.import_state(arrays))
        arrays = moving.export_state(state)
        assert np.abs(found.box - expected.box).max() < 1e-4
    assert not np.array_equal(
        arrays["memory"], engines[0].export_state(engines[0].initial_state(*template))["memory"]
    )


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_state_of_another_model_is_refused(name: str, tiny_bundle: Bundle) -> None:
    if not BACKENDS[name].available:
        pytest.skip(f"{name} is not installed")
    engine = load_engine(name, tiny_bundle, threads=1)
    size = tiny_bundle.manifest.crop.template_size
    cells = size // tiny_bundle.manifest.crop.stride
    state = engine.initial_state(
        np.zeros((1, size, size, 3), np.uint8), np.zeros((1, cells, cells), np.bool_)
    )
    arrays = engine.export_state(state)
    with pytest.raises(UsageError, match="exported from another model"):
        engine.import_state({key: value for key, value in arrays.items() if key != "memory"})
    with pytest.raises(UsageError, match="the state's memory is float64"):
        engine.import_state({**arrays, "memory": arrays["memory"].astype(np.float64)})
    with pytest.raises(UsageError, match=r"of one batch, not of \[1, 2\] targets"):
        engine.import_state({**arrays, "memory": np.repeat(arrays["memory"], 2, axis=0)})
    arrays["memory"][:] = 7  # a copy: the engine's own is not changed
    assert not np.array_equal(engine.export_state(state)["memory"], arrays["memory"])


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    assert "is not a folder" in failure(tmp_path / "none")
    assert "has no manifest.json" in failure(tmp_path)


@pytest.mark.parametrize("name", ["template.onnx", "search.onnx"])
def test_missing_and_altered_graphs(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    assert f"{name} was altered" in failure(copy)
    (copy / name).unlink()
    assert f"lacks {name}" in failure(copy)


def test_weights_missing_or_altered(copy: Path) -> None:
    path = copy / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert "was altered" in failure(copy, "torch")
    load_engine("onnxruntime", open_bundle(copy))  # does not need them
    path.unlink()
    assert "no weights for the torch engine" in failure(copy, "torch")


def test_a_newer_and_an_older_schema(copy: Path) -> None:
    edit(copy, lambda m: m.update(schema=2))
    assert "schema 2; this version reads schema 1; upgrade sttrack-deploy" in failure(copy)
    edit(copy, lambda m: m.update(schema=0))
    assert "export the bundle again" in failure(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("crop"), "manifest.json lacks crop"),
        (lambda m: m["crop"].pop("stride"), "crop lacks stride"),
        (lambda m: m.update(state=[{"name": "x"}]), "state lacks initial, input, output"),
        (lambda m: m.update(surprise=1), "unknown keys ['surprise']"),
        (lambda m: m.update(template=None), "template must be a table, not None"),
    ],
)
def test_a_manifest_with_wrong_fields(
    copy: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    edit(copy, change)
    text = failure(copy)
    assert message in text
    assert "export the bundle again" in text


def test_a_manifest_that_is_not_json(copy: Path) -> None:
    (copy / MANIFEST).write_text("{")
    assert "is not valid JSON" in failure(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m["search"]["inputs"][0].update(shape=[1, 64, 64, 3]),
            "search.inputs: 'search_image' must be uint8 [1, 128",
        ),
        (
            lambda m: m["search"]["outputs"][0].update(dtype="float16"),
            "search.outputs: 'box' must be float32 [1, 4]",
        ),
        (
            lambda m: m["template"]["inputs"].pop(),
            "template.inputs: 'template_mask' must be bool [1, 4, 4]",
        ),
    ],
)
def test_graphs_that_do_not_match_the_manifest(
    copy: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    edit(copy, change)
    text = failure(copy)
    assert message in text


def test_a_graph_that_is_not_onnx(copy: Path) -> None:
    (copy / "search.onnx").write_bytes(b"not onnx at all")
    edit(copy, lambda m: m["search"].update(sha256=sha256_of(copy / "search.onnx")))
    assert "is not an ONNX model" in failure(copy)


def test_back_ends_by_name(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="engines are onnxruntime, torch"):
        load_engine("abacus", tiny_bundle)
    missing = Backend("abacus", "x", "no_such_package", ("no-such",), "pip install no-such")
    monkeypatch.setitem(BACKENDS, "abacus", missing)
    with pytest.raises(MissingDependencyError, match="not installed: pip install no-such"):
        load_engine("abacus", tiny_bundle)
    assert missing.installed_version is None
    assert missing.devices() == []
    assert BACKENDS["onnxruntime"].available
    assert "CPUExecutionProvider" in BACKENDS["onnxruntime"].devices()
    assert "cpu" in BACKENDS["torch"].devices()


@pytest.mark.parametrize(("precision", "kept"), [("fp32", False), ("int8", False), ("int8-fp16", True)])
def test_onnx_runtime_leaves_quantization_with_fp16_scales_as_it_is(
    tiny_bundle: Bundle, precision: str, kept: bool
) -> None:
    bundle = replace(tiny_bundle, manifest=replace(tiny_bundle.manifest, precision={"name": precision}))
    options = session_options(1, bundle)
    if kept:
        assert options.get_session_config_entry("session.disable_quant_qdq") == "1"
    else:
        with pytest.raises(RuntimeError, match="disable_quant_qdq"):
            options.get_session_config_entry("session.disable_quant_qdq")
