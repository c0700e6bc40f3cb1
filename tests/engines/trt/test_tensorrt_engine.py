"""From a bundle to boxes with TensorRT, on the contract double."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fake_cuda import Misuse
from fake_tensorrt import FakeTensorRT
from recurrent_bundle import crops, write_recurrent_bundle

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.engines.base import Engine
from sttrack_deploy.engines.building import BatchRange, BuildOptions, SilentReport, builder_of
from sttrack_deploy.engines.registry import load_engine
from sttrack_deploy.errors import UsageError, UserError

pytest_plugins = ["gpu_double"]

Pair = tuple[npt.NDArray[Any], npt.NDArray[Any]]


class Clip:
    """A template and frames."""

    def __init__(self, seed: int, frames: int = 6, batch: int = 1) -> None:
        template, searches = crops(seed, frames, batch)
        self.template: Pair = template[0], template[1]
        self.frames: list[Pair] = [(image, mask) for image, mask in searches]


def track(engine: Engine, clip: Clip) -> npt.NDArray[Any]:
    """Boxes and confidences, ``(frames, batch, 5)``."""
    state = engine.initial_state(*clip.template)
    rows = []
    for frame in clip.frames:
        prediction, state = engine.step(*frame, state)
        rows.append(np.concatenate([prediction.box, prediction.confidence[:, None]], 1))
    return np.stack(rows)


def build(bundle: Bundle, **options: Any) -> None:
    builder_of("tensorrt")(bundle, BuildOptions(**options), SilentReport())


@pytest.fixture
def engine(trt: FakeTensorRT, bundle: Bundle) -> Engine:
    build(bundle)
    return load_engine("tensorrt", bundle)


@pytest.fixture
def reference(bundle: Bundle) -> Engine:
    return load_engine("onnxruntime", bundle, threads=1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_recurrent_bundle(tmp_path_factory.mktemp("fixed") / "recurrent")


@pytest.fixture(scope="module")
def dynamic_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_recurrent_bundle(tmp_path_factory.mktemp("dynamic") / "recurrent", batch=None)


def test_the_boxes_are_those_of_onnx_runtime(trt: FakeTensorRT, engine: Engine, reference: Engine) -> None:
    clip = Clip(0, frames=9)
    expected, found = track(reference, clip), track(engine, clip)
    assert found == pytest.approx(expected, abs=1e-6)
    assert np.ptp(expected, axis=0).max() > 1e-3
    # Two steps to warm up, one for each direction; every other is one call.
    assert trt.gpu.calls["cudaGraphLaunch"] == 7
    described = engine.describe()
    assert described["version"] == trt.version
    assert described["cuda graph"].startswith("yes")


def test_the_tracking_network(trt: FakeTensorRT, tiny_bundle: Bundle) -> None:
    import torch
    from tiny import TINY, search_input, template_input

    build(tiny_bundle)
    generator = torch.Generator().manual_seed(0)
    clip = Clip(0, frames=0)
    image, mask = template_input(TINY, 1, generator)
    clip.template = image.numpy(), mask.numpy()
    for _ in range(7):
        image, mask = search_input(TINY, 1, generator)
        clip.frames.append((image.numpy(), mask.numpy()))
    expected = track(load_engine("onnxruntime", tiny_bundle, threads=1), clip)
    assert track(load_engine("tensorrt", tiny_bundle), clip) == pytest.approx(expected, abs=1e-6)
    assert np.ptp(expected, axis=0).max() > 1e-3


def test_no_state_is_copied(trt: FakeTensorRT, engine: Engine) -> None:
    clip = Clip(1, frames=5)
    state = engine.initial_state(*clip.template)
    before = trt.gpu.calls["cudaMemcpyAsync"]
    for frame in clip.frames:
        _, state = engine.step(*frame, state)
    # The crop there and the box back, twice as they are, twice when recorded; nothing in the last three steps.
    assert trt.gpu.calls["cudaMemcpyAsync"] - before == 8
    allocations = trt.gpu.calls["cudaMalloc"]
    track(engine, clip)
    assert trt.gpu.calls["cudaMalloc"] == allocations + 5  # the first track is still held


def test_several_tracks_in_turn(engine: Engine, reference: Engine) -> None:
    clips = [Clip(seed) for seed in (2, 3, 4)]
    states = [engine.initial_state(*clip.template) for clip in clips]
    found: list[list[npt.NDArray[Any]]] = [[], [], []]
    for number in range(6):
        for index in (0, 2, 1) if number % 2 else (1, 0, 2):
            prediction, states[index] = engine.step(*clips[index].frames[number], states[index])
            found[index].append(prediction.box)
    for clip, boxes in zip(clips, found, strict=True):
        assert np.stack(boxes) == pytest.approx(track(reference, clip)[..., :4], abs=1e-6)


def test_a_track_that_ended_leaves_its_buffers_to_the_next(
    trt: FakeTensorRT, engine: Engine, reference: Engine
) -> None:
    track(engine, Clip(5))
    held = trt.gpu.held
    assert track(engine, Clip(6)) == pytest.approx(track(reference, Clip(6)), abs=1e-6)
    assert trt.gpu.held == held


def test_an_engine_gives_everything_back(trt: FakeTensorRT, bundle: Bundle) -> None:
    build(bundle)
    before = trt.gpu.held
    track(load_engine("tensorrt", bundle), Clip(7))
    gc.collect()
    assert trt.gpu.held == before == (0, 0, 0, 0)


def test_a_state_that_was_used_up(engine: Engine) -> None:
    clip = Clip(8)
    first = engine.initial_state(*clip.template)
    _, second = engine.step(*clip.frames[0], first)
    with pytest.raises(UsageError, match="used up by an earlier step"):
        engine.step(*clip.frames[1], first)
    prediction, _ = engine.step(*clip.frames[1], second)
    assert np.isfinite(prediction.box).all()
    with pytest.raises(UsageError, match="a state of the engine 'tensorrt' is needed"):
        engine.step(*clip.frames[1], {})


def test_crops_of_another_size(engine: Engine) -> None:
    clip = Clip(9)
    state = engine.initial_state(*clip.template)
    image, mask = clip.frames[0]
    with pytest.raises(
        UsageError, match=r"search_image is uint8 \[1, 16, 32, 3\], not uint8 \[1, 32, 32, 3\]"
    ):
        engine.step(image[:, :16], mask, state)
    with pytest.raises(UsageError, match="search_mask is uint8"):
        engine.step(image, mask.astype(np.uint8), state)
    engine.step(image, mask, state)  # a refused call leaves the state as it was


@pytest.mark.parametrize("fault", ["enqueue", "begin"])
def test_without_graphs(trt: FakeTensorRT, engine: Engine, reference: Engine, fault: str) -> None:
    if fault == "enqueue":
        trt.fail_capture = True
    else:
        trt.gpu.no_capture = True
    clip = Clip(10)
    assert track(engine, clip) == pytest.approx(track(reference, clip), abs=1e-6)
    assert "cudaGraphLaunch" not in trt.gpu.calls
    assert engine.describe()["cuda graph"].startswith("no (")
    assert trt.gpu.calls["cudaStreamBeginCapture"] == 1  # it is not tried again


def test_an_enqueue_that_fails(trt: FakeTensorRT, engine: Engine) -> None:
    clip = Clip(11)
    trt.fail_run = "Cask convolution execution"
    with pytest.raises(UserError, match="failed to run the template plan: Cask convolution"):
        engine.initial_state(*clip.template)
    trt.fail_run = ""
    state = engine.initial_state(*clip.template)
    trt.fail_run = "Cask convolution execution"
    with pytest.raises(UserError, match="failed to run the search plan: Cask convolution"):
        engine.step(*clip.frames[0], state)
    trt.fail_run = ""
    engine.step(*clip.frames[0], state)


def test_too_little_memory(trt: FakeTensorRT, engine: Engine) -> None:
    trt.gpu.memory_limit = 1000
    with pytest.raises(UserError, match=r"CUDA failed in cudaMalloc: CUDA error 2.*smaller batch"):
        engine.initial_state(*Clip(12).template)


def test_a_batch_of_any_size(trt: FakeTensorRT, dynamic_bundle: Bundle) -> None:
    build(dynamic_bundle, batch=BatchRange(1, 2, 4))
    engine = load_engine("tensorrt", dynamic_bundle)
    reference = load_engine("onnxruntime", dynamic_bundle, threads=1)
    for batch in (3, 1):
        clip = Clip(13, frames=4, batch=batch)
        assert track(engine, clip) == pytest.approx(track(reference, clip), abs=1e-6)
    with pytest.raises(UsageError, match=r"take 1 to 4 target\(s\) a call, not 5.*--batch 1,1,5"):
        engine.initial_state(*Clip(13, frames=0, batch=5).template)
    one = engine.initial_state(*Clip(13, frames=0, batch=1).template)
    with pytest.raises(UsageError, match=r"the state is of 1 target\(s\), the search crops are of 3"):
        engine.step(*Clip(13, frames=1, batch=3).frames[0], one)


def test_a_state_moves_between_engines(engine: Engine, reference: Engine) -> None:
    clip = Clip(14)
    states = []
    for one in (engine, reference):
        state = one.initial_state(*clip.template)
        for frame in clip.frames[:3]:
            _, state = one.step(*frame, state)
        states.append(state)
    seen, expected = engine.export_state(states[0]), reference.export_state(states[1])
    assert {name: value.dtype for name, value in seen.items()} == {n: v.dtype for n, v in expected.items()}
    for name, value in expected.items():
        assert seen[name] == pytest.approx(value, abs=1e-5), name
    written = engine.import_state(expected)
    ours, _ = engine.step(*clip.frames[3], written)
    theirs, _ = reference.step(*clip.frames[3], states[1])
    assert ours.box == pytest.approx(theirs.box, abs=1e-6)


def test_the_double_notices_what_a_gpu_would_not(trt: FakeTensorRT, engine: Engine) -> None:
    """The tests above pass because the engine is right, not because the double lets everything pass."""
    clip = Clip(15)
    state = engine.initial_state(*clip.template)
    track = state.loan.track
    context, group = track._contexts[0], track._inputs
    with pytest.raises(Misuse, match="not a multiple of 256"):
        context.set_tensor_address("memory_in", track._sides[0].address("memory_in") + 4)
    with pytest.raises(Misuse, match="not on the device"):
        context.set_tensor_address("memory_in", group.view("search_image").ctypes.data // 256 * 256)
    context.set_tensor_address("memory_out", track._sides[0].address("memory_in"))
    track.put({"search_image": clip.frames[0][0], "search_mask": clip.frames[0][1]})
    track.enqueue(0)
    with pytest.raises(Misuse, match="overlaps"):
        track._shared.synchronize()
    trt.gpu.drop()
