"""Graphs optimized beforehand: used where they fit, left aside where not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import TINY, as_arrays, search_input, template_input

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.engines.building import VARIABLE, BuildOptions, SilentReport, builder_of, cache_of
from sttrack_deploy.engines.onnxruntime import engine as onnxruntime_engine
from sttrack_deploy.engines.onnxruntime.engine import optimized_graphs
from sttrack_deploy.engines.registry import load_engine
from sttrack_deploy.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))


def boxes(bundle: Bundle) -> np.ndarray:
    import torch

    generator = torch.Generator().manual_seed(0)
    engine = load_engine("onnxruntime", bundle, 1)
    state = engine.initial_state(*(t.numpy() for t in template_input(TINY, 1, generator)))
    found = []
    for _ in range(4):
        prediction, state = engine.step(*as_arrays(search_input(TINY, 1, generator)), state)
        found.append(prediction.box[0])
    return np.stack(found)


def test_the_engine_uses_what_was_built(tiny_bundle: Bundle) -> None:
    expected = boxes(tiny_bundle)
    assert optimized_graphs(tiny_bundle) is None
    assert "graphs" not in load_engine("onnxruntime", tiny_bundle).describe()
    build = builder_of("onnxruntime")
    made = build(tiny_bundle, BuildOptions(), SilentReport())
    assert [path.name for path in made.files] == ["template.onnx", "search.onnx", "manifest.json"]
    assert not made.facts["reused"]
    assert build(tiny_bundle, BuildOptions(), SilentReport()).facts["reused"]
    assert not build(tiny_bundle, BuildOptions(force=True), SilentReport()).facts["reused"]
    assert load_engine("onnxruntime", tiny_bundle).describe()["graphs"] == "optimized beforehand"
    assert np.abs(boxes(tiny_bundle) - expected).max() < 1e-5


def test_another_cache_keeps_what_is_in_it_and_is_used(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "thesis.txt").write_text("years of work")
    made = builder_of("onnxruntime")(tiny_bundle, BuildOptions(out=tmp_path), SilentReport())
    assert (tmp_path / "onnxruntime" / "thesis.txt").exists()
    monkeypatch.setenv("STTRACK_ENGINES", str(tmp_path))
    graphs = optimized_graphs(tiny_bundle)
    assert graphs is not None
    assert set(graphs) < set(made.files)


def test_what_does_not_fit_is_left_aside(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    builder_of("onnxruntime")(tiny_bundle, BuildOptions(), SilentReport())
    assert optimized_graphs(tiny_bundle) is not None
    with monkeypatch.context() as patch:  # weights laid out for another CPU would be read wrongly
        patch.setattr(onnxruntime_engine, "_cpu", lambda: "another")
        assert optimized_graphs(tiny_bundle) is None
    assert optimized_graphs(tiny_bundle) is not None
    folder = cache_of(tiny_bundle) / "onnxruntime"
    sidecar = (folder / "manifest.json").read_text()
    for text in ("{", "[]", "{}", "[" * 100_000):
        (folder / "manifest.json").write_text(text)
        assert optimized_graphs(tiny_bundle) is None
    (folder / "manifest.json").write_text(sidecar)
    data = bytearray((folder / "search.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "search.onnx").write_bytes(data)
    assert optimized_graphs(tiny_bundle) is None
    load_engine("onnxruntime", tiny_bundle)


def test_a_folder_that_cannot_be_written(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        builder_of("onnxruntime")(tiny_bundle, BuildOptions(out=tmp_path / "file" / "x"), SilentReport())


ASKED = """
import onnxruntime
asked = []
onnxruntime.disable_telemetry_events = lambda: asked.append(True)
import sttrack_deploy.engines.onnxruntime.engine
print(len(asked))
"""


def test_nothing_is_reported_to_the_runtimes_maker() -> None:
    done = subprocess.run([sys.executable, "-c", ASKED], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
