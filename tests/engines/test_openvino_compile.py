"""Compiling where the compiler may crash: quantized graphs in a process of their own, and once more without fusing."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from tiny import TINY, search_input

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.engines import openvino_compile
from sttrack_deploy.engines.openvino_build import the_core
from sttrack_deploy.engines.openvino_compile import compiled_blob
from sttrack_deploy.errors import UserError
from sttrack_deploy.export.precision.int8 import activations, quantize
from sttrack_deploy.export.precision.layers import quantizable_layers
from sttrack_deploy.export.precision.ranges import measure_ranges

PROPERTIES = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}


@pytest.fixture(scope="module")
def quantized(tiny_dynamic_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny search graph with its backbone in INT8."""
    model = onnx.load(tiny_dynamic_bundle.search_path)
    nodes = [layer.node for layer in quantizable_layers(model) if layer.group.startswith("backbone")]
    path = tmp_path_factory.mktemp("quantized") / "search.onnx"
    needed = activations(model, nodes)
    seen = measure_ranges(model, [feeds_of(tiny_dynamic_bundle.search_path, 3)], needed, threads=1)
    limits = {name: seen[name].threshold("minmax") for name in needed}
    onnx.save(quantize(model, limits, nodes, "portable"), path)
    return path


def feeds_of(path: Path, batch: int) -> dict[str, np.ndarray]:
    import torch

    image, mask = (t.numpy() for t in search_input(TINY, batch, torch.Generator().manual_seed(3)))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = {"search_image": image, "search_mask": mask}
    draws = np.random.default_rng(5)
    for port in session.get_inputs():
        if port.name not in feeds:
            shape = [batch if isinstance(axis, str) else axis for axis in port.shape]
            boolean = port.type == "tensor(bool)"
            feeds[port.name] = (
                np.zeros(shape, bool) if boolean else draws.normal(size=shape).astype(np.float32)
            )
    return feeds


def boxes(blob: bytes, feeds: Mapping[str, Any]) -> np.ndarray:
    request = the_core().import_model(blob, "CPU", PROPERTIES).create_infer_request()
    request.infer(dict(feeds))
    return np.array(request.get_tensor("box").data)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_quantized_graph_is_compiled_apart_and_gives_the_boxes_of_onnx_runtime(
    quantized: Path, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: ran.append(run(*a, **k)) or ran[-1])
    feeds = feeds_of(quantized, batch)
    found = boxes(compiled_blob(the_core(), quantized, PROPERTIES, batch), feeds)
    assert len(ran) == 1
    session = onnxruntime.InferenceSession(quantized, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(found, session.run(["box"], feeds)[0], atol=0.05)


@pytest.mark.parametrize("end", ["crash", "no process"])
def test_where_that_dies_it_is_compiled_without_fusing(
    quantized: Path, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        if end == "no process":
            raise OSError("no more processes")
        return subprocess.CompletedProcess(command, -11)

    monkeypatch.setattr(subprocess, "run", dies)
    used: list[Mapping[str, Any]] = []
    compile_graph = openvino_compile._compiled

    def watched(core: Any, model: Any, properties: Mapping[str, Any]) -> bytes:
        used.append(properties)
        return compile_graph(core, model, properties)

    monkeypatch.setattr(openvino_compile, "_compiled", watched)
    feeds = feeds_of(quantized, 1)
    assert np.isfinite(boxes(compiled_blob(the_core(), quantized, PROPERTIES, 1), feeds)).all()
    assert [p.get("SNIPPETS_MODE") for p in used] == ["DISABLE"]


def test_a_float_graph_is_compiled_here(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    assert len(compiled_blob(the_core(), tiny_bundle.search_path, PROPERTIES, 1)) > 1000


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "search.onnx"
    broken.write_bytes(b"not a graph")
    with pytest.raises(UserError, match="OpenVINO cannot compile") as caught:
        compiled_blob(the_core(), broken, PROPERTIES, 1)
    assert "\n" not in str(caught.value)
