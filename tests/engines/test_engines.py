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
from tiny import TINY, search_input, template_input

from sttrack_deploy import open_bundle
from sttrack_deploy.bundle import MANIFEST, Bundle
from sttrack_deploy.engines.onnxruntime_session import session_options
from sttrack_deploy.engines.registry import BACKENDS, Backend, create_engine
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
        create_engine(engine, open_bundle(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_both_engines_agree_over_time(tiny_bundle: Bundle) -> None:
    import torch

    generator = torch.Generator().manual_seed(0)
    template = [t.numpy() for t in template_input(TINY, 1, generator)]
    frames = [[t.numpy() for t in search_input(TINY, 1, generator)] for _ in range(7)]
    boxes = []
    for name in ("onnxruntime", "torch"):
        engine = create_engine(name, tiny_bundle, threads=1)
        state = engine.initial_state(*template)
        predictions = []
        for frame in frames:
            prediction, state = engine.step(*frame, state)
            predictions.append(np.append(prediction.box[0], prediction.confidence[0]))
        boxes.append(np.stack(predictions))
        assert engine.describe()["version"]
    assert np.abs(boxes[0] - boxes[1]).max() < 1e-4
    assert np.ptp(boxes[0], axis=0).max() > 1e-3


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
    create_engine("onnxruntime", open_bundle(copy))  # does not need them
    path.unlink()
    assert "no weights for the torch engine" in failure(copy, "torch")


def test_a_newer_and_an_older_schema(copy: Path) -> None:
    edit(copy, lambda m: m.update(schema=2))
    assert "schema 2; this version reads schema 1: upgrade sttrack-deploy" in failure(copy)
    edit(copy, lambda m: m.update(schema=0))
    assert "export the bundle again" in failure(copy)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("crop"),
        lambda m: m["crop"].pop("stride"),
        lambda m: m.update(state=[{"name": "x"}]),
        lambda m: m.update(surprise=1),
        lambda m: m.update(template=None),
    ],
)
def test_a_manifest_with_wrong_fields(copy: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    edit(copy, change)
    assert "is not a bundle's manifest" in failure(copy)


def test_a_manifest_that_is_not_json(copy: Path) -> None:
    (copy / MANIFEST).write_text("{")
    assert "is not valid JSON" in failure(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m["search"]["inputs"][0].update(shape=[1, 64, 64, 3]),
            "input 'search_image' is uint8 [1, 128",
        ),
        (lambda m: m["search"]["outputs"][0].update(dtype="float16"), "float16 [1, 4] in the manifest"),
        (
            lambda m: m["template"]["inputs"].pop(),
            "input 'template_mask' is bool [1, 4, 4] in the file, absent",
        ),
    ],
)
def test_graphs_that_do_not_match_the_manifest(
    copy: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    edit(copy, change)
    text = failure(copy)
    assert "does not match its manifest" in text
    assert message in text


def test_a_graph_that_is_not_onnx(copy: Path) -> None:
    (copy / "search.onnx").write_bytes(b"not onnx at all")
    edit(copy, lambda m: m["search"].update(sha256=sha256_of(copy / "search.onnx")))
    assert "ONNX Runtime cannot load" in failure(copy)


def test_back_ends_by_name(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="engines are onnxruntime, torch"):
        create_engine("abacus", tiny_bundle)
    missing = Backend("abacus", "x", "no_such_package", ("no-such",), "pip install no-such")
    monkeypatch.setitem(BACKENDS, "abacus", missing)
    with pytest.raises(MissingDependencyError, match="not installed: pip install no-such"):
        create_engine("abacus", tiny_bundle)
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
