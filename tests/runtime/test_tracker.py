from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from blobs import CROP, BlobEngine, frame, manifest, truth

from sttrack_deploy.bundle import Bundle, CropSpec, TrackingPolicy
from sttrack_deploy.engines.base import Prediction
from sttrack_deploy.engines.registry import BACKENDS, Backend, load_engine
from sttrack_deploy.errors import MissingDependencyError, UsageError, UserError
from sttrack_deploy.geometry import iou
from sttrack_deploy.runtime.multi_tracker import MultiTracker
from sttrack_deploy.runtime.tracker import Tracker

POLICY = TrackingPolicy(lost_below=0.25, found_above=0.35, recovery=True, growth=1.25, max_growth=2.0)


def make_tracker(policy: TrackingPolicy = POLICY) -> tuple[Tracker, BlobEngine]:
    engine = BlobEngine()
    return Tracker(Bundle(Path(), manifest()), engine, policy), engine


def test_it_follows_the_blob() -> None:
    tracker, _ = make_tracker()
    tracker.init(frame(truth(0)), truth(0))
    for index in range(1, 30):
        box, confidence, lost = tracker.update(frame(truth(index), seed=index))
        assert iou(box, truth(index)) > 0.85
        assert confidence == pytest.approx(0.9)
        assert not lost
        assert tracker.timings.crop > 0
        assert tracker.timings.inference > 0


def test_it_follows_over_the_border_and_masks_what_lies_outside() -> None:
    tracker, engine = make_tracker()
    tracker.init(frame((130, 60, 24, 24)), (130, 60, 24, 24))
    for step in range(1, 10):
        seen = (130.0 + 2 * step, 60.0, min(24.0, 30.0 - 2 * step), 24.0)  # the part inside the image
        box = tracker.update(frame((130 + 2 * step, 60, 24, 24))).box
        assert iou(box, seen) > 0.6
        assert box[0] + box[2] <= 160
    assert engine.masks[-1][:, -1].all()
    assert not engine.masks[-1][:, 0].all()


def test_a_box_over_the_border_is_cut_at_the_start() -> None:
    tracker, _ = make_tracker()
    tracker.init(frame((-8, 30, 24, 24)), (-8, 30, 24, 24))
    assert iou(tracker.update(frame((-8, 30, 24, 24))).box, (0, 30, 16, 24)) > 0.8


def test_the_search_region_grows_while_lost_and_shrinks_when_found() -> None:
    tracker, engine = make_tracker()
    tracker.init(frame(truth(0)), truth(0))
    tracker.update(frame(truth(0)))
    sides = []
    for _ in range(7):
        assert tracker.update(frame(None)).lost
        sides.append(tracker.growth)
    assert sides == pytest.approx([1.25, 1.5625, 1.953125, 1.0, 1.25, 1.5625, 1.953125])  # and starts over
    # Found at the far end of the grown region, where the plain one would not have reached.
    far = (20.0 + 62.0, 30.0, 24.0, 24.0)
    result = tracker.update(frame(far))
    assert not result.lost
    assert iou(result.box, far) > 0.6
    assert tracker.growth == 1.0
    assert iou(tracker.update(frame(far)).box, far) > 0.85
    assert len(engine.searches) == 10


def test_without_recovery_the_region_keeps_its_size() -> None:
    tracker, _ = make_tracker(TrackingPolicy(recovery=False))
    tracker.init(frame(truth(0)), truth(0))
    for _ in range(5):
        assert tracker.update(frame(None)).lost
        assert tracker.growth == 1.0


def test_lost_has_hysteresis(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker, engine = make_tracker()
    tracker.init(frame(truth(0)), truth(0))
    step = BlobEngine.step
    answers = iter([0.9, 0.3, 0.24, 0.3, 0.34, 0.36, 0.3, 0.1])

    def scripted(search: np.ndarray, mask: np.ndarray, state: int) -> tuple[Prediction, int]:
        prediction, state = step(engine, search, mask, state)
        return prediction._replace(confidence=np.array([next(answers)], np.float32)), state

    monkeypatch.setattr(engine, "step", scripted)
    lost = [tracker.update(frame(truth(0))).lost for _ in range(8)]
    assert lost == [False, False, True, True, True, False, False, True]


def test_init_forgets_the_track_before() -> None:
    tracker, _ = make_tracker()
    tracker.init(frame(truth(0)), truth(0))
    for _ in range(4):
        tracker.update(frame(None))
    other = (100.0, 50.0, 24.0, 24.0)
    tracker.init(frame(other), other)
    result = tracker.update(frame(other))
    assert not result.lost
    assert iou(result.box, other) > 0.9


def test_a_one_pixel_target_can_be_tracked() -> None:
    tracker, _ = make_tracker()
    image = frame((80, 40, 1, 1))
    tracker.init(image, (80, 40, 1, 1))
    box = tracker.update(image).box
    assert np.isfinite(box).all()
    assert box[2] >= 10  # boxes never get smaller than the published margin


def test_update_before_init() -> None:
    with pytest.raises(UsageError, match="init"):
        make_tracker()[0].update(frame(None))


def test_frames_that_change_size() -> None:
    tracker, _ = make_tracker()
    tracker.init(frame(truth(0)), truth(0))
    with pytest.raises(UsageError, match="320 x 192, the frames before were 160 x 96"):
        tracker.update(frame(truth(0), (192, 320)))


@pytest.mark.parametrize(
    ("bad", "hint"),
    [
        (cv2.cvtColor(frame(truth(0)), cv2.COLOR_BGR2GRAY), "COLOR_GRAY2BGR"),
        (frame(truth(0))[..., :1], "COLOR_GRAY2BGR"),
        (cv2.cvtColor(frame(truth(0)), cv2.COLOR_BGR2BGRA), "COLOR_BGRA2BGR"),
        (frame(truth(0)).astype(np.float32), "float32"),
        (np.zeros((0, 10, 3), np.uint8), "BGR uint8"),
        (None, "BGR uint8"),
    ],
)
def test_frames_that_are_not_bgr(bad: np.ndarray, hint: str) -> None:
    tracker, _ = make_tracker()
    with pytest.raises(UsageError, match=hint):
        tracker.init(bad, truth(0))
    tracker.init(frame(truth(0)), truth(0))
    with pytest.raises(UsageError, match=hint):
        tracker.update(bad)


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 9), (0, 0, -3, 9), (float("nan"), 0, 3, 9), (500, 500, 10, 10), (1, 2, 3)]
)
def test_impossible_boxes(box: tuple[float, ...]) -> None:
    tracker, _ = make_tracker()
    with pytest.raises(UsageError):
        tracker.init(frame(None), box)


def test_a_back_end_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = Backend("ghost", "ghost_engine", "no_such_package", (), "pip install ghost")
    monkeypatch.setitem(BACKENDS, "ghost", missing)
    with pytest.raises(MissingDependencyError, match="pip install ghost"):
        load_engine("ghost", Bundle(Path(), manifest()))


def _boxes_after_a_nudge(crop: CropSpec, nudge: float) -> list[float]:
    """How far two tracks' boxes differ, in pixels, on each frame after the first answer of one was off by ``nudge``."""

    class Nudged(BlobEngine):
        def step(self, search: Any, mask: Any, state: int) -> tuple[Prediction, int]:
            prediction, after = super().step(search, mask, state)
            return (prediction._replace(box=prediction.box + nudge) if state == 0 else prediction), after

    bundle = Bundle(Path(), dataclasses.replace(manifest(), crop=crop))
    trackers = Tracker(bundle, BlobEngine(), POLICY), Tracker(bundle, Nudged(), POLICY)
    for tracker in trackers:
        tracker.init(frame(truth(0)), truth(0))
    apart = []
    for index in range(1, 25):
        seen = frame(truth(index), seed=index)
        ours, theirs = (np.array(tracker.update(seen).box) for tracker in trackers)
        apart.append(float(np.abs(ours - theirs).max()))
    return apart


def test_a_small_difference_dies_out_on_snapped_crops_and_is_carried_on_in_published_ones() -> None:
    nudge = 1e-5
    published = _boxes_after_a_nudge(CROP, nudge)
    snapped = _boxes_after_a_nudge(
        dataclasses.replace(CROP, search_grid=1 / 64, search_scale_step=0.05), nudge
    )
    assert published[0] > 5e-4 < snapped[0]
    assert min(published) > 5e-4
    assert snapped[1:] == [0.0] * 23


def test_it_follows_the_blob_on_snapped_crops() -> None:
    crop = dataclasses.replace(CROP, search_grid=1 / 64, search_scale_step=0.05)
    tracker = Tracker(Bundle(Path(), dataclasses.replace(manifest(), crop=crop)), BlobEngine(), POLICY)
    tracker.init(frame(truth(0)), truth(0))
    for index in range(1, 30):
        assert iou(tracker.update(frame(truth(index), seed=index)).box, truth(index)) > 0.85


@pytest.mark.parametrize(
    ("name", "value"), [("box", np.nan), ("confidence", np.nan), ("box", np.inf), ("confidence", -np.inf)]
)
def test_an_output_that_is_no_number_is_an_error(name: str, value: float) -> None:
    """It would be a box in the corner, and NaN is not below the threshold: not lost."""

    class Broken(BlobEngine):
        def step(self, search: Any, mask: Any, state: int) -> tuple[Prediction, int]:
            prediction, after = super().step(search, mask, state)
            if after == 3:
                getattr(prediction, name)[..., -1] = value
            return prediction, after

    tracker = Tracker(Bundle(Path(), manifest()), Broken(), POLICY)
    tracker.init(frame(truth(0)), truth(0))
    for index in (1, 2):
        tracker.update(frame(truth(index)))
    with pytest.raises(UserError, match=f"the engine 'blob' gave '{name}' = .* on frame 3 "):
        tracker.update(frame(truth(3)))


def test_boxes_may_be_an_array() -> None:
    tracker = MultiTracker(Bundle(Path(), manifest()), BlobEngine(), POLICY)
    given: Any = np.array([truth(0)])
    tracker.init(frame(truth(0)), given)
    assert iou(tracker.update(frame(truth(1)))[0].box, truth(1)) > 0.8
    wrong: list[Any] = [None, [], np.zeros((0, 4)), 3, [None], ["a box"], [[1, 2, [3], 4]]]
    for boxes in wrong:
        with pytest.raises(UsageError):
            tracker.init(frame(truth(0)), boxes)
