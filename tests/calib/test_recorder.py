"""Recording: what is written is what the network was fed, again and again."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import POLICY, clips, hashes, record_clips, same

from sttrack_deploy.bundle import MANIFEST, Bundle, TrackingPolicy, open_bundle
from sttrack_deploy.calib import recorder
from sttrack_deploy.calib.calibration_set import CalibrationSet, open_calibration
from sttrack_deploy.calib.sources import one_video
from sttrack_deploy.engines.base import Engine, EngineState, Prediction
from sttrack_deploy.engines.registry import load_engine
from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.evaluation.runner import run_sequence
from sttrack_deploy.files import sha256_of
from sttrack_deploy.geometry import BoxCorrection
from sttrack_deploy.runtime import target
from sttrack_deploy.runtime.target import Target
from sttrack_deploy.runtime.tracker import Tracker
from sttrack_deploy.sequences.sequence import VideoSequence, frames_of

DiskUsage = namedtuple("DiskUsage", "total used free")


class Spy:
    """Keeps all that passes through an engine, state included."""

    name = "spy"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.templates: list[tuple[Any, Any]] = []
        self.steps: list[dict[str, np.ndarray]] = []

    def initial_state(self, template: Any, mask: Any) -> EngineState:
        self.templates.append((template.copy(), mask.copy()))
        return self.engine.initial_state(template, mask)

    def step(self, search: Any, mask: Any, state: EngineState) -> tuple[Prediction, EngineState]:
        feeds = {"search_image": search, "search_mask": mask, **state}
        self.steps.append({name: np.array(value) for name, value in feeds.items()})
        return self.engine.step(search, mask, state)

    def export_state(self, state: EngineState) -> dict[str, np.ndarray]:
        return self.engine.export_state(state)

    def import_state(self, arrays: dict[str, np.ndarray]) -> EngineState:
        return self.engine.import_state(arrays)

    def describe(self) -> dict[str, str]:
        return self.engine.describe()


@pytest.fixture
def sequences(tmp_path: Path) -> list[VideoSequence]:
    return clips(tmp_path / "videos")


def fed(bundle: Bundle, sequence: VideoSequence, start: int, steps: int) -> Spy:
    """What a plain tracker that starts on that frame feeds the network."""
    spy = Spy(load_engine("onnxruntime", bundle, threads=1))
    tracker = Tracker(bundle, spy, POLICY)
    for index, frame in enumerate(frames_of(sequence)):
        if index == start:
            tracker.init(frame, sequence.truth[start].tolist())
        elif start < index <= start + steps:
            tracker.update(frame)
    return spy


def assert_is_what_was_fed(made: CalibrationSet, bundle: Bundle, sequences: list[VideoSequence]) -> None:
    by_name = {s.name: s for s in sequences}
    for number, sample in enumerate(made.manifest.samples):
        template = made.manifest.templates[sample.template]
        assert (template.sequence, template.frame + sample.step) == (sample.sequence, sample.frame)
        spy = fed(bundle, by_name[sample.sequence], template.frame, sample.step)
        assert same(made.search_feeds(number), spy.steps[-1])
        image, mask = spy.templates[0]
        assert same(made.template_feeds(sample.template), {"template_image": image, "template_mask": mask})
        assert sample.padded == spy.steps[-1]["search_mask"].any()


def test_samples_are_what_the_tracker_feeds_the_network(
    tiny_bundle: Bundle, sequences: list[VideoSequence], tmp_path: Path
) -> None:
    made = record_clips(tiny_bundle, sequences, tmp_path / "set", samples=12, starts=3)
    assert_is_what_was_fed(made, tiny_bundle, sequences)
    manifest = made.manifest
    assert len(made) == 12
    assert {source.sequence: source.samples for source in manifest.sources} == {
        name: sum(s.sequence == name for s in manifest.samples) for name in ("clip0", "clip1")
    }
    assert len({(t.sequence, t.frame) for t in manifest.templates}) == made.templates > 2
    assert max(sample.step for sample in manifest.samples) > 4
    assert sum(manifest.confidence.taken) == 12
    assert manifest.padded_share == np.mean([s.padded for s in manifest.samples]).round(6)
    recurrent = [s.input for s in tiny_bundle.manifest.state if s.output]
    assert all(len({made.search_feeds(i)[name].tobytes() for i in range(12)}) > 1 for name in recurrent)
    for name, values in manifest.inputs.items():
        stacked = np.stack([made.search_feeds(i)[name] for i in range(12)]).astype(np.float64)
        assert (values.minimum, values.maximum, values.absmax) == (
            stacked.min(),
            stacked.max(),
            np.abs(stacked).max(),
        )


def test_the_same_again_is_the_same_to_the_byte(
    tiny_bundle: Bundle, sequences: list[VideoSequence], tmp_path: Path
) -> None:
    once = record_clips(tiny_bundle, sequences, tmp_path / "a" / "set")
    again = record_clips(tiny_bundle, sequences, tmp_path / "b" / "set")
    assert hashes(once.path) == hashes(again.path)
    other = record_clips(tiny_bundle, sequences, tmp_path / "c" / "set", seed=1)
    assert [s.sha256 for s in other.manifest.samples] != [s.sha256 for s in once.manifest.samples]


@pytest.fixture(scope="module")
def dynamic_bundle(tiny_network: Any, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    from sttrack_deploy.export.exporter import ExportOptions, export_bundle

    out = tmp_path_factory.mktemp("dynamic") / "bundle"
    return export_bundle(tiny_network, tiny_weights, out, ExportOptions(batch=None), clip=None)


def with_fixed_batch(bundle: Bundle, batch: int, out: Path) -> Bundle:
    """The same graphs for that many targets."""
    import onnx

    shutil.copytree(bundle.path, out)
    data = json.loads(bundle.manifest.to_json())
    for graph in (data["template"], data["search"]):
        model = onnx.load(out / graph["file"])
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = batch
        onnx.save(model, out / graph["file"])
        graph["sha256"] = sha256_of(out / graph["file"])
        for tensor in (*graph["inputs"], *graph["outputs"]):
            tensor["shape"][0] = batch
    (out / MANIFEST).write_text(json.dumps({**data, "batch": batch}))
    return open_bundle(out)


@pytest.mark.parametrize("batch", [2, None])
def test_other_batches(
    dynamic_bundle: Bundle, sequences: list[VideoSequence], tmp_path: Path, batch: int | None
) -> None:
    bundle = dynamic_bundle if batch is None else with_fixed_batch(dynamic_bundle, batch, tmp_path / "bundle")
    made = record_clips(bundle, sequences, tmp_path / "set", samples=4)
    rows = batch or 1
    engine = load_engine("onnxruntime", bundle, threads=1)
    for number in range(4):
        feeds = made.search_feeds(number)
        assert {len(array) for array in feeds.values()} == {rows}
        prediction, _ = engine.step(feeds.pop("search_image"), feeds.pop("search_mask"), feeds)
        recorded = made.manifest.samples[number].confidence
        assert prediction.confidence.tolist() == pytest.approx([recorded] * rows, abs=1e-6)
    assert_is_one_row(made)


def assert_is_one_row(made: CalibrationSet) -> None:
    for entry in made.manifest.entries:
        with np.load(made.path / entry.file) as file:
            assert {len(file[name]) for name in file.files} == {1}


def test_a_video_with_one_box(tiny_bundle: Bundle, sequences: list[VideoSequence], tmp_path: Path) -> None:
    video = one_video(sequences[0].source, (20.0, 40.0, 24.0, 24.0))
    made = record_clips(tiny_bundle, [video], tmp_path / "set", samples=13, starts=3)
    assert len(made) == 13
    assert made.templates == 3  # the later ones on the first track's own box
    with pytest.raises(UsageError, match="less than one pixel inside"):
        record_clips(tiny_bundle, [one_video(video.source, (900.0, 0.0, 5.0, 5.0))], tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_a_lost_first_track_starts_no_other(
    tiny_bundle: Bundle, sequences: list[VideoSequence], tmp_path: Path
) -> None:
    video = one_video(sequences[0].source, (20.0, 40.0, 24.0, 24.0))
    hopeless = TrackingPolicy(lost_below=1.0, found_above=1.0)
    made = record_clips(tiny_bundle, [video], tmp_path / "set", starts=3, policy=hopeless)
    assert made.templates == 1
    assert all(sample.lost for sample in made.manifest.samples)
    assert made.manifest.confidence.taken[0] == len(made)


@pytest.mark.parametrize(("recovery", "correction"), [(False, 0.0), (True, 0.0), (False, 1.0)])
def test_an_evaluation_run_is_followed(
    tiny_bundle: Bundle,
    sequences: list[VideoSequence],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recovery: bool,
    correction: float,
) -> None:
    if correction > 0:
        monkeypatch.setattr(Target, "learn_correction", corrected_in_any_case)
        # What an edge of the frame cut off a reported box cannot be known from the box.
        monkeypatch.setattr(target, "clip_box", lambda box, *_: (*box[:2], max(10, box[2]), max(10, box[3])))
    engine = load_engine("onnxruntime", tiny_bundle, threads=1)
    tracked = record_clips(tiny_bundle, sequences[:1], tmp_path / "tracked", samples=13, starts=1)
    middle = float(np.median([sample.confidence for sample in tracked.manifest.samples]))
    policy = TrackingPolicy(
        lost_below=middle, found_above=middle, recovery=recovery, box_correction=correction
    )
    what: dict[str, Any] = {"samples": 13, "starts": 1, "policy": policy}
    closed = record_clips(tiny_bundle, sequences[:1], tmp_path / "closed", **what)
    run = run_sequence(Tracker(tiny_bundle, engine, policy), sequences[0])
    followed = record_clips(tiny_bundle, sequences[:1], tmp_path / "followed", runs={"clip0": run}, **what)
    assert followed.manifest.tracking["followed"] == ["clip0"]
    assert [s.sha256 for s in followed.manifest.samples] == [s.sha256 for s in closed.manifest.samples]
    moved = dataclasses.replace(run, boxes=run.boxes + np.array([30.0, 0, 0, 0]), lost=None)
    elsewhere = record_clips(tiny_bundle, sequences[:1], tmp_path / "moved", runs={"clip0": moved}, **what)
    assert {s.sha256 for s in elsewhere.manifest.samples} != {s.sha256 for s in closed.manifest.samples}


def corrected_in_any_case(one: Target, box: object) -> None:
    """The tiny network's own boxes are too far off to learn anything from."""
    one.correction = BoxCorrection(0.05, 0.0, 0.2, 0.15)


def test_boxes_of_another_tracker_are_followed_as_they_are(
    tiny_bundle: Bundle, sequences: list[VideoSequence], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody corrected them, so there is nothing to take out again."""
    monkeypatch.setattr(Target, "learn_correction", corrected_in_any_case)
    engine = load_engine("onnxruntime", tiny_bundle, threads=1)
    run = run_sequence(Tracker(tiny_bundle, engine, TrackingPolicy()), sequences[0])
    theirs = dataclasses.replace(run, confidences=None, lost=None, times=None)
    sets = []
    for share in (0.0, 1.0):
        policy = TrackingPolicy(box_correction=share)
        folder = tmp_path / str(share)
        made = record_clips(
            tiny_bundle, sequences[:1], folder, samples=9, starts=1, policy=policy, runs={"clip0": theirs}
        )
        sets.append([sample.sha256 for sample in made.manifest.samples])
    assert sets[0] == sets[1]


def test_boxes_outside_the_image_are_left_aside(
    tiny_bundle: Bundle, sequences: list[VideoSequence], tmp_path: Path
) -> None:
    truth = sequences[0].truth.copy()
    truth[0] = 5000, 0, 20, 20
    astray = dataclasses.replace(sequences[0], name="astray", truth=truth)
    made = record_clips(tiny_bundle, [astray, sequences[1]], tmp_path / "set", samples=99, starts=1)
    assert {sample.sequence for sample in made.manifest.samples} == {"clip1"}
    assert len(made) == len(sequences[1]) - 1
    with pytest.raises(UserError, match="nothing could be tracked"):
        record_clips(tiny_bundle, [astray], tmp_path / "none", starts=1)


def test_a_video_of_one_frame_gives_nothing(
    tiny_bundle: Bundle, sequences: list[VideoSequence], tmp_path: Path
) -> None:
    one = dataclasses.replace(sequences[0], name="one", truth=sequences[0].truth[:1])
    made = record_clips(tiny_bundle, [one, sequences[1]], tmp_path / "set", samples=99, starts=1)
    assert {sample.sequence for sample in made.manifest.samples} == {"clip1"}
    with pytest.raises(UserError, match="nothing could be tracked"):
        record_clips(tiny_bundle, [one], tmp_path / "none", starts=1)


def test_what_is_there_is_kept_until_the_new_set_is_complete(
    tiny_bundle: Bundle, sequences: list[VideoSequence], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = record_clips(tiny_bundle, sequences, tmp_path / "set")
    before = hashes(made.path)
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr("sttrack_deploy.calib.set_writer.pack_feeds", full)
        with pytest.raises(UserError, match="disk is full"):
            record_clips(tiny_bundle, sequences, made.path, seed=5)
    assert hashes(made.path) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set", "videos"]
    record_clips(tiny_bundle, sequences, made.path, seed=5)
    assert open_calibration(made.path, tiny_bundle).manifest.seed == 5
    (made.path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt in it is not part of it"):
        record_clips(tiny_bundle, sequences, made.path)
    with pytest.raises(UserError, match="not a calibration set"):
        record_clips(tiny_bundle, sequences, sequences[0].source.parent)


def test_too_little_disk_is_known_before_anything_runs(
    tiny_bundle: Bundle, sequences: list[VideoSequence], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = record_clips(tiny_bundle, sequences, tmp_path / "set", samples=6)
    estimate = recorder.estimated_bytes(tiny_bundle, 6, made.templates)
    assert made.manifest.bytes == pytest.approx(estimate, rel=0.05)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(0, 0, recorder.SPARE_BYTES + estimate // 2))
    engine = Spy(load_engine("onnxruntime", tiny_bundle, threads=1))
    with pytest.raises(UserError, match=r"6 samples of tiny take about .* MiB, but"):
        record_clips(tiny_bundle, sequences, tmp_path / "b" / "c" / "set", engine, samples=6)
    assert engine.steps == []


def test_the_state_of_any_engine_can_be_recorded(
    tiny_bundle: Bundle, sequences: list[VideoSequence], tmp_path: Path
) -> None:
    engine = load_engine("torch", tiny_bundle, threads=1)
    made = record_clips(tiny_bundle, sequences, tmp_path / "set", engine, samples=4)
    feeds = made.search_feeds(0)
    assert {name: (v.dtype.name, v.shape) for name, v in feeds.items()} == {
        tensor.name: (tensor.dtype, tensor.shape) for tensor in tiny_bundle.manifest.search.inputs
    }


def test_an_engine_that_does_not_repeat_itself_is_noticed(
    tiny_bundle: Bundle, sequences: list[VideoSequence], tmp_path: Path
) -> None:
    class Fickle(Spy):
        """Loses the target in all but the first 13 steps."""

        def step(self, search: Any, mask: Any, state: EngineState) -> tuple[Prediction, EngineState]:
            prediction, state = super().step(search, mask, state)
            sure = len(self.steps) <= 24
            return prediction._replace(confidence=np.full_like(prediction.confidence, float(sure))), state

    video = one_video(sequences[0].source, (20.0, 40.0, 24.0, 24.0))
    engine = Fickle(load_engine("onnxruntime", tiny_bundle, threads=1))
    policy = TrackingPolicy(lost_below=0.5, found_above=0.5)
    with pytest.raises(UserError, match="did not repeat its first pass"):
        record_clips(tiny_bundle, [video], tmp_path / "set", engine, samples=99, starts=3, policy=policy)
    assert not (tmp_path / "set").exists()
