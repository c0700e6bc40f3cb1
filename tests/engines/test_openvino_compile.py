"""Compiling where the compiler may crash: quantized graphs in a process of their own, and once more without fusing."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from int8_graphs import with_backbone_in_int8, with_random_state

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.engines.openvino import build as openvino_build
from sttrack_deploy.engines.openvino.build import compiled_blob, the_core
from sttrack_deploy.errors import UserError

MEMORY = "memory_out"
PROPERTIES = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}


@pytest.fixture(scope="module")
def quantized(tiny_dynamic_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny search graph with its backbone in INT8."""
    path = tmp_path_factory.mktemp("quantized") / "search.onnx"
    onnx.save(with_backbone_in_int8(tiny_dynamic_bundle.search_path), path)
    return path


def found_by(blob: bytes, feeds: Mapping[str, Any], name: str) -> np.ndarray:
    request = the_core().import_model(blob, "CPU", PROPERTIES).create_infer_request()
    request.infer(dict(feeds))
    return np.array(request.get_tensor(name).data)


def by_definition(path: Path, feeds: Mapping[str, Any], name: str) -> np.ndarray:
    """In FP32, every Q and DQ as it stands: what any kernel must come near."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run([name], dict(feeds))[0])


@pytest.mark.parametrize("batch", [1, 3])
def test_a_quantized_graph_is_compiled_apart_and_as_near_to_fp32_as_its_definition(
    quantized: Path, tiny_dynamic_bundle: Bundle, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the new memory, not the box: corners of random weights jump between cells at a rounding's difference.

    The bounds leave room for weights of 7 bits (seen: 1.2 and 1.4 times); sums that saturate were 8 to 9 times off.
    """
    ran: list[Any] = []
    run: Callable[..., Any] = subprocess.run

    def counted(*arguments: Any, **options: Any) -> Any:
        ran.append(run(*arguments, **options))
        return ran[-1]

    monkeypatch.setattr(subprocess, "run", counted)
    feeds = with_random_state(quantized, batch)
    found = found_by(compiled_blob(the_core(), quantized, PROPERTIES, batch), feeds, MEMORY)
    assert len(ran) == 1
    exact = by_definition(tiny_dynamic_bundle.search_path, feeds, MEMORY)
    error, due = (
        np.sqrt(np.mean((memory - exact) ** 2)) for memory in (found, by_definition(quantized, feeds, MEMORY))
    )
    assert 0.3 * due < error < 2.5 * due


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
    compile_graph = openvino_build._compiled

    def watched(core: Any, model: Any, properties: Mapping[str, Any]) -> bytes:
        used.append(properties)
        return compile_graph(core, model, properties)

    monkeypatch.setattr(openvino_build, "_compiled", watched)
    feeds = with_random_state(quantized, 1)
    assert np.isfinite(found_by(compiled_blob(the_core(), quantized, PROPERTIES, 1), feeds, "box")).all()
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
