"""Several targets: together as alone, in as few calls as the bundle allows, each lost and found on its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from blobs import BlobEngine, frame, manifest, truth

from sttrack_deploy.bundle import Bundle, TrackingPolicy
from sttrack_deploy.engines.base import Prediction
from sttrack_deploy.engines.registry import load_engine
from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.geometry import Box, BoxCorrection, iou
from sttrack_deploy.runtime.demo import DemoClip
from sttrack_deploy.runtime.multi_tracker import MultiTracker, calls_for
from sttrack_deploy.runtime.tracker import Tracker

POLICY = TrackingPolicy(lost_below=0.25, found_above=0.35, recovery=True, growth=1.25, max_growth=2.0)
BOXES: list[Box] = [(20, 60, 24, 24), (120, 100, 24, 24), (240, 40, 24, 24), (260, 160, 24, 24)]


class BatchedBlobs:
    """The blob's engine for batches of one size; its state counts the steps of each target."""

    name = "blobs"

    def __init__(self, size: int | None) -> None:
        self.size = size
        self.calls = 0
        self._one = BlobEngine()

    def initial_state(self, template: np.ndarray, mask: np.ndarray) -> list[int]:
        self._check(template, mask)
        return [0] * len(template)

    def step(self, search: np.ndarray, mask: np.ndarray, state: list[int]) -> tuple[Prediction, list[int]]:
        self._check(search, mask)
        self.calls += 1
        rows = [self._one.step(s[None], m[None], 0)[0] for s, m in zip(search, mask, strict=True)]
        box, confidence = (np.concatenate(values) for values in zip(*rows, strict=True))
        return Prediction(box, confidence), [count + 1 for count in state]

    def _check(self, images: np.ndarray, mask: np.ndarray) -> None:
        assert len(images) == len(mask)
        assert self.size in (None, len(images))

    def describe(self) -> dict[str, str]:
        return {"version": "1"}

    def export_state(self, state: list[int]) -> dict[str, np.ndarray]:
        return {"steps": np.array(state)}

    def import_state(self, arrays: Mapping[str, np.ndarray]) -> list[int]:
        return [int(count) for count in arrays["steps"]]


def scene(boxes: list[Box | None]) -> np.ndarray:
    """One frame with a square at each box."""
    image = frame(None, (240, 320))
    for box in boxes:
        if box is not None:
            x, y, w, h = (round(v) for v in box)
            image[y : y + h, x : x + w] = (30, 30, 230)
    return image


def make(
    batch: int | Literal["dynamic"], policy: TrackingPolicy = POLICY
) -> tuple[MultiTracker, BatchedBlobs]:
    engine = BatchedBlobs(batch if isinstance(batch, int) else None)
    return MultiTracker(Bundle(Path(), replace(manifest(), batch=batch)), engine, policy), engine


@pytest.mark.parametrize(("batch", "calls"), [("dynamic", 1), (1, 4), (3, 2), (4, 1), (8, 1)])
def test_every_target_is_followed_in_as_few_calls_as_possible(
    batch: int | Literal["dynamic"], calls: int
) -> None:
    tracker, engine = make(batch)
    tracker.init(scene(list(BOXES)), BOXES)
    assert calls_for(tracker.bundle, 4) == calls
    for step in range(1, 6):
        moved: list[Box] = [(x + 2 * step, y + step, w, h) for x, y, w, h in BOXES]
        results = tracker.update(scene(list(moved)))
        assert len(results) == 4
        assert [result.lost for result in results] == [False] * 4
        assert min(float(iou(r.box, box)) for r, box in zip(results, moved, strict=True)) > 0.85
    assert engine.calls == 5 * calls
    assert tracker.timings.crop > 0
    assert tracker.timings.inference > 0


def test_one_is_lost_while_the_others_go_on() -> None:
    tracker, _ = make("dynamic")
    tracker.init(scene(list(BOXES)), BOXES)
    for step in range(1, 3):
        seen: list[Box | None] = list(BOXES)
        seen[1] = None
        results = tracker.update(scene(seen))
        assert [result.lost for result in results] == [False, True, False, False]
        assert [t.growth for t in tracker.targets] == pytest.approx([1.0, 1.25**step, 1.0, 1.0])
    results = tracker.update(scene(list(BOXES)))
    assert not any(result.lost for result in results)
    assert all(iou(r.box, box) > 0.6 for r, box in zip(results, BOXES, strict=True))


def test_another_number_of_targets_can_follow() -> None:
    tracker, _ = make(3)
    tracker.init(scene(list(BOXES)), BOXES)
    assert len(tracker.update(scene(list(BOXES)))) == 4
    tracker.init(scene(list(BOXES)), BOXES[:1])
    assert len(tracker.update(scene(list(BOXES)))) == 1


def test_a_start_that_fails_leaves_the_tracks_alone() -> None:
    tracker, _ = make("dynamic")
    with pytest.raises(UsageError, match="call init"):
        tracker.update(scene([]))
    tracker.init(scene(list(BOXES)), BOXES)
    for bad in ([], [BOXES[0], (5, 5, 0, 9)], [BOXES[0], (900, 900, 9, 9)]):
        with pytest.raises(UsageError):
            tracker.init(scene(list(BOXES)), bad)
    assert len(tracker.update(scene(list(BOXES)))) == 4


@pytest.mark.parametrize("batch", ["dynamic", 1, 3])
def test_boxes_keep_to_how_they_were_given(batch: int | Literal["dynamic"]) -> None:
    """The engine sees the squares; each was given otherwise, and is reported half of that otherwise."""
    tracker, engine = make(batch, replace(POLICY, box_correction=0.5))
    given: list[Box] = [(20, 60, 24, 36), (115, 100, 34, 24), (240, 40, 24, 24), (265, 166, 18, 16)]
    tracker.init(scene(list(BOXES)), given)
    states = [count for state in tracker.states for count in state]
    assert set(states) == {0}, "the track begins with a state that no step has used"
    looked = engine.calls
    results = tracker.update(scene(list(BOXES)))
    assert engine.calls == 2 * looked
    for target, square in zip(tracker.targets, BOXES, strict=True):
        assert target.box == pytest.approx(square, abs=1.5), "where the tracker looks is not corrected"
    for result, square, wanted in zip(results, BOXES, given, strict=True):
        halfway = [(s * w) ** 0.5 for s, w in zip(square[2:], wanted[2:], strict=True)]
        assert result.box[2:] == pytest.approx(halfway, abs=1.5)
        middle = [
            0.5 * (s + sw / 2 + x + w / 2)
            for s, sw, x, w in zip(square[:2], square[2:], wanted[:2], wanted[2:], strict=True)
        ]
        assert [x + w / 2 for x, w in zip(result.box[:2], result.box[2:], strict=True)] == pytest.approx(
            middle, abs=1.5
        )


def test_a_target_smaller_than_any_box_corrects_nothing_that_is_right() -> None:
    """A reported box has sides of ten pixels at least; what the network said of a smaller target is another matter."""
    tracker, _ = make(1, replace(POLICY, box_correction=1.0))
    small: list[Box] = [(60, 60, 6, 18)]
    tracker.init(scene([*small]), small)
    assert tracker.targets[0].correction == pytest.approx((0, 0, 0, 0), abs=0.1)


def test_what_is_around_something_else_corrects_nothing() -> None:
    tracker, _ = make(1, replace(POLICY, box_correction=1.0))
    tracker.init(scene([(60, 60, 24, 24)]), [(40, 40, 24, 24)])
    assert tracker.targets[0].correction == BoxCorrection()


def test_a_first_look_that_is_no_number_leaves_the_tracks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker, engine = make("dynamic", replace(POLICY, box_correction=0.5))
    tracker.init(scene(list(BOXES)), BOXES)
    nothing = Prediction(np.full((1, 4), np.nan, np.float32), np.ones(1, np.float32))
    with monkeypatch.context() as patch:
        patch.setattr(engine, "step", lambda *_: (nothing, [1]))
        with pytest.raises(UserError, match=r"on frame 0 .*not finite"):
            tracker.init(scene(list(BOXES)), BOXES[:1])
    assert len(tracker.update(scene(list(BOXES)))) == 4


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "torch"])
def test_together_as_alone(engine: str, tiny_bundle: Bundle, tiny_dynamic_bundle: Bundle) -> None:
    """A real network on real pictures: a batch changes float sums, and no more."""
    demo = DemoClip()
    frames = list(demo.frames(range(6)))
    x, y, w, h = demo.truth[0]
    boxes: list[Box] = [(x, y, w, h), (x + 40, y - 20, w, 1.5 * h), (-10.0, -10.0, 60.0, 80.0)]
    bundles = [tiny_dynamic_bundle, tiny_bundle]
    alone = []
    for box in boxes:
        single = Tracker(tiny_bundle, load_engine(engine, tiny_bundle, 1), POLICY)
        single.init(frames[0].image, box)
        alone.append([single.update(f.image) for f in frames[1:]])
    for bundle in bundles:
        several = MultiTracker(bundle, load_engine(engine, bundle, 1), POLICY)
        several.init(frames[0].image, boxes)
        together = [several.update(f.image) for f in frames[1:]]
        for number, single_results in enumerate(alone):
            for results, expected in zip(together, single_results, strict=True):
                assert np.abs(np.subtract(results[number].box, expected.box)).max() < 0.05  # pixels
                assert results[number].confidence == pytest.approx(expected.confidence, abs=1e-4)
                assert results[number].lost == expected.lost


def test_it_starts_where_a_single_tracker_does() -> None:
    tracker, _ = make(1)
    single = Tracker(tracker.bundle, BlobEngine(), POLICY)
    for t in (tracker, single):
        t.init(frame(truth(0)), [truth(0)] if t is tracker else truth(0))  # type: ignore[arg-type, list-item]
    assert tracker.update(frame(truth(1)))[0] == single.update(frame(truth(1)))
