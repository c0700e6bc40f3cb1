"""Targets that come and go in one batch give the results they give alone."""

from __future__ import annotations

import numpy as np

from sttrack_deploy.bundle import Bundle, open_bundle
from sttrack_deploy.engines.registry import load_engine
from sttrack_deploy.geometry import Box
from sttrack_deploy.runtime.batch import Batch
from sttrack_deploy.runtime.demo import DemoClip
from sttrack_deploy.runtime.tracker import Tracker

OTHER: Box = (300.0, 220.0, 60.0, 50.0)


def alone(bundle: Bundle, frames: list[np.ndarray], box: Box) -> list[Box]:
    tracker = Tracker(bundle, load_engine("onnxruntime", bundle, 1))
    tracker.init(frames[0], box)
    return [tracker.update(frame).box for frame in frames[1:]]


def test_targets_join_leave_and_start_again() -> None:
    bundle = open_bundle()
    clip = DemoClip()
    frames = [frame.image for frame in clip.frames(range(9))]
    first, second = alone(bundle, frames, clip.truth[0]), alone(bundle, frames[3:], OTHER)
    again = alone(bundle, frames[5:], clip.truth[5])
    batch = Batch(bundle, load_engine("onnxruntime", bundle, 1), bundle.manifest.tracking)
    batch.start(frames[0], {1: clip.truth[0]})
    found: dict[int, list[Box]] = {1: [], 2: []}

    def update(index: int, keys: set[int]) -> None:
        for key, result in batch.update(frames[index], keys).items():
            found[key].append(result.box)

    for index in (1, 2, 3):
        update(index, {1})
    batch.start(frames[3], {2: OTHER})
    for index in (4, 5):
        update(index, {1, 2})
        assert batch.calls == 1
    assert np.allclose(found[1], first[:5], atol=1e-3)
    batch.start(frames[5], {1: clip.truth[5]})
    found[1].clear()
    update(6, {1})  # the other one waits, as it does while a corrected one is brought up to it
    update(6, {2})
    assert batch.calls == 2
    update(7, {1, 2})
    assert batch.calls == 1
    batch.drop({1})
    update(8, {2})
    assert batch.keys == {2}
    assert np.allclose(found[1], again[:2], atol=1e-3)
    assert np.allclose(found[2], second, atol=1e-3)
