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
from tiny import TINY, search_input, template_input

from sttrack_deploy.bundle import MANIFEST, Bundle, open_bundle
from sttrack_deploy.engines.registry import create_engine
from sttrack_deploy.files import sha256_of
from sttrack_deploy.verification.engine_state import given_state, read_state
from sttrack_deploy.verification.error_growth import replay
from sttrack_deploy.verification.parting import find_parting
from sttrack_deploy.verification.probes import intermediates, probe_bundle
from sttrack_deploy.verification.recording import Recorder, Recording

FRAMES = 5
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def recording(tiny_bundle: Bundle) -> Recording:
    """PyTorch on random crops."""
    generator = torch.Generator().manual_seed(1)
    recorder = Recorder(create_engine("torch", tiny_bundle, 1), tiny_bundle, FRAMES)
    state = recorder.initial_state(*(t.numpy() for t in template_input(TINY, 1, generator)))
    for _ in range(FRAMES + 2):
        _, state = recorder.step(*(t.numpy() for t in search_input(TINY, 1, generator)), state)
    assert recorder.recording is not None
    recorder.recording.sequence = "noise"
    return recorder.recording


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


def test_the_recorder_stops_and_states_follow_each_other(recording: Recording) -> None:
    assert len(recording.steps) == FRAMES
    first, second = recording.state_before(0), recording.state_before(1)
    assert not np.array_equal(first["memory"], second["memory"])
    assert np.array_equal(second["memory"], recording.steps[0].changed["memory"])
    assert np.array_equal(first["target_features"], second["target_features"])


@pytest.mark.parametrize("name", ["onnxruntime", "torch"])
def test_the_exported_graph_replays_the_reference(
    name: str, tiny_bundle: Bundle, recording: Recording
) -> None:
    found = replay(create_engine(name, tiny_bundle, 1), tiny_bundle, [recording], TOLERANCE)
    assert found.frames == FRAMES
    assert found.parted is None
    assert found.template_parted is None
    assert found.single_step is (name == "onnxruntime")
    assert len(found.tensors) == 6 + 5
    assert max(t.relative for t in found.tensors) < TOLERANCE
    assert found.growth.box.shape == (FRAMES,)
    assert np.isfinite(found.growth.state).all()


def test_a_state_that_was_given_is_the_one_that_is_read(tiny_bundle: Bundle, recording: Recording) -> None:
    engine = create_engine("onnxruntime", tiny_bundle, 1)
    state = engine.initial_state(recording.template, recording.template_mask)
    wanted = recording.state_before(3)
    given = given_state(engine, tiny_bundle, state, wanted)
    shown = read_state(engine, tiny_bundle, given)
    assert shown is not None
    assert all(np.array_equal(shown[name], wanted[name]) for name in wanted)
    assert read_state(engine, tiny_bundle, object()) is None


@pytest.mark.parametrize(("graph", "step"), [("search", 0), ("template", None)])
def test_the_damaged_tensor_is_named(
    graph: str, step: int | None, tiny_bundle: Bundle, recording: Recording, tmp_path: Path
) -> None:
    bundle, tensor = damaged(tiny_bundle, tmp_path / "damaged", graph)
    found = replay(create_engine("onnxruntime", bundle, 1), bundle, [recording], TOLERANCE)
    if graph == "template":
        assert found.template_parted == "noise"
    else:
        assert found.template_parted is None
        assert found.parted == ("noise", 0)
    parting = find_parting(bundle, "onnxruntime", 1, tiny_bundle, recording, step, TOLERANCE)
    assert parting is not None
    assert parting.first is not None
    assert parting.first.tensor == tensor
    assert parting.graph == graph
    before = parting.steps[: parting.steps.index(parting.first)]
    assert all(s.relative <= TOLERANCE for s in before)


def test_nothing_parts_in_an_undamaged_graph(tiny_bundle: Bundle, recording: Recording) -> None:
    parting = find_parting(tiny_bundle, "onnxruntime", 1, tiny_bundle, recording, 2, TOLERANCE)
    assert parting is not None
    assert parting.first is None
    assert parting.worst is not None
    assert parting.worst.relative == 0.0
    assert find_parting(tiny_bundle, "torch", 1, None, recording, 2, TOLERANCE) is None


@pytest.mark.parametrize("graph", ["search", "template"])
def test_any_engine_hands_out_its_tensors_as_state(
    graph: str, tiny_bundle: Bundle, recording: Recording, tmp_path: Path
) -> None:
    step, state = recording.steps[0], recording.state_before(0)
    carried = {spec.input: state[spec.name] for spec in tiny_bundle.manifest.state}
    feeds = {"search_image": step.search, "search_mask": step.mask, **carried}
    if graph == "template":
        feeds = {"template_image": recording.template, "template_mask": recording.template_mask}
    exposed = intermediates(tiny_bundle.path / f"{graph}.onnx", feeds)
    assert len(exposed.values) > 30
    probed, names = probe_bundle(tiny_bundle, exposed.values, graph, 1, tmp_path)
    engine = create_engine("onnxruntime", probed, 1)
    after = engine.initial_state(recording.template, recording.template_mask)
    if graph == "search":
        _, after = engine.step(step.search, step.mask, after)
    shown = read_state(engine, probed, after)
    assert shown is not None
    for name, tensor in names.items():
        np.testing.assert_allclose(shown[name], exposed.values[tensor], rtol=1e-3, atol=1e-3, err_msg=tensor)
