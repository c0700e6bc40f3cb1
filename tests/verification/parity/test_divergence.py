"""Replaying the reference's crops, and finding the tensor where a damaged graph parts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from tiny import TINY, as_arrays, search_input, template_input

from sttrack_deploy.bundle import MANIFEST, Bundle, open_bundle
from sttrack_deploy.engines.recording import Recording, RecordingEngine
from sttrack_deploy.engines.registry import load_engine
from sttrack_deploy.files import sha256_of
from sttrack_deploy.verification.parity.divergence import find_divergence, intermediates, probe_bundle
from sttrack_deploy.verification.parity.tensor_errors import replay

FRAMES = 5
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def recording(tiny_bundle: Bundle) -> Recording:
    """PyTorch on random crops."""
    generator = torch.Generator().manual_seed(1)
    recorder = RecordingEngine(load_engine("torch", tiny_bundle, 1))
    state = recorder.initial_state(*(t.numpy() for t in template_input(TINY, 1, generator)))
    assert recorder.start is not None
    recording = Recording("noise", recorder.start)
    for _ in range(FRAMES):
        _, state = recorder.step(*as_arrays(search_input(TINY, 1, generator)), state)
        assert recorder.last is not None
        recording.steps.append(recorder.last)
    return recording


def damaged(bundle: Bundle, folder: Path, graph: str) -> tuple[Bundle, str]:
    """A copy with one weight in the middle of a graph changed, and the tensor that is computed from it first."""
    shutil.copytree(bundle.path, folder)
    path = folder / f"{graph}.onnx"
    model = onnx.load(path)
    weights = {w.name: w for w in model.graph.initializer}
    users = [n for n in model.graph.node if n.op_type in ("Conv", "MatMul") and n.input[1] in weights]
    node = users[len(users) // 2]
    weight = weights[node.input[1]]
    weight.CopyFrom(numpy_helper.from_array(1.2 * numpy_helper.to_array(weight), weight.name))
    onnx.save(model, path)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest[graph]["sha256"] = sha256_of(path)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return open_bundle(folder), node.output[0]


def test_recorded_states_follow_each_other(recording: Recording) -> None:
    first, second = (step.before for step in recording.steps[:2])
    assert all(np.array_equal(first[name], recording.start.state[name]) for name in first)
    assert not np.array_equal(first["memory"], second["memory"])
    assert np.array_equal(second["memory"], recording.steps[0].after["memory"])
    assert np.array_equal(first["target_features"], second["target_features"])


@pytest.mark.parametrize("name", ["onnxruntime", "torch"])
def test_the_exported_graph_replays_the_reference(
    name: str, tiny_bundle: Bundle, recording: Recording
) -> None:
    found = replay(load_engine(name, tiny_bundle, 1), tiny_bundle, [recording], TOLERANCE)
    assert found.frames == FRAMES
    assert found.diverged is None
    assert found.template_diverged is None
    assert len(found.tensors) == 6 + 5
    assert max(t.relative for t in found.tensors) < TOLERANCE
    assert found.growth.box.shape == (FRAMES,)
    assert np.isfinite(found.growth.state).all()


@pytest.mark.parametrize(("graph", "step"), [("search", 0), ("template", None)])
def test_the_damaged_tensor_is_named(
    graph: str, step: int | None, tiny_bundle: Bundle, recording: Recording, tmp_path: Path
) -> None:
    bundle, tensor = damaged(tiny_bundle, tmp_path / "damaged", graph)
    found = replay(load_engine("onnxruntime", bundle, 1), bundle, [recording], TOLERANCE)
    if graph == "template":
        assert found.template_diverged == "noise"
    else:
        assert found.template_diverged is None
        assert found.diverged == ("noise", 0)
    divergence = find_divergence(bundle, "onnxruntime", 1, tiny_bundle, recording, step, TOLERANCE)
    assert divergence is not None
    assert divergence.first is not None
    assert divergence.first.tensor == tensor
    assert divergence.graph == graph
    before = divergence.steps[: divergence.steps.index(divergence.first)]
    assert all(s.relative <= TOLERANCE for s in before)


def test_nothing_parts_in_an_undamaged_graph(tiny_bundle: Bundle, recording: Recording) -> None:
    divergence = find_divergence(tiny_bundle, "onnxruntime", 1, tiny_bundle, recording, 2, TOLERANCE)
    assert divergence is not None
    assert divergence.first is None
    assert divergence.worst is not None
    assert divergence.worst.relative == 0.0
    assert find_divergence(tiny_bundle, "torch", 1, None, recording, 2, TOLERANCE) is None


@pytest.mark.parametrize("graph", ["search", "template"])
def test_any_engine_hands_out_its_tensors_as_state(
    graph: str, tiny_bundle: Bundle, recording: Recording, tmp_path: Path
) -> None:
    step, start = recording.steps[0], recording.start
    feeds = start.inputs() if graph == "template" else step.inputs(tiny_bundle.manifest.state)
    exposed = intermediates(tiny_bundle.path / f"{graph}.onnx", feeds)
    assert len(exposed.values) > 30
    probed, names = probe_bundle(tiny_bundle, exposed.values, graph, 1, tmp_path)
    engine = load_engine("onnxruntime", probed, 1)
    after = engine.initial_state(start.template, start.mask)
    if graph == "search":
        _, after = engine.step(step.search, step.mask, after)
    shown = engine.export_state(after)
    for name, tensor in names.items():
        np.testing.assert_allclose(
            shown[name].ravel(), exposed.values[tensor].ravel(), rtol=1e-3, atol=1e-3, err_msg=tensor
        )
