"""A tracker's state as bytes: equal boxes afterwards, across engines and processes; nothing else is accepted."""

from __future__ import annotations

import dataclasses
import json
import math
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sttrack_deploy.bundle import Bundle, TrackingPolicy, open_bundle
from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.runtime.demo import DemoClip
from sttrack_deploy.runtime.multi_tracker import MultiTracker
from sttrack_deploy.runtime.target import Target
from sttrack_deploy.runtime.track_state import pack, unpack
from sttrack_deploy.runtime.tracker import Tracker

CLIP = DemoClip()
FIRST, MOVE, LAST = 108, 122, 128
"""The target is hidden at the move: it is lost, and looked for in a region that has grown."""
PRIORS = dataclasses.replace(
    open_bundle().manifest.tracking,
    jump_penalty=0.5,
    size_smoothing=0.2,
    box_correction=0.8,
    reliable_above=0.5,
    frame_after=3,
)


def _tracked(policy: TrackingPolicy | None = None) -> Tracker:
    tracker = Tracker.from_bundle(threads=1, policy=policy)
    tracker.init(CLIP.frame(FIRST), CLIP.truth[FIRST])
    for index in range(FIRST + 1, MOVE):
        tracker.update(CLIP.frame(index))
    return tracker


@pytest.fixture(scope="module")
def exported() -> bytes:
    return _tracked().export_state()


@pytest.mark.parametrize("policy", [None, PRIORS], ids=["as shipped", "priors"])
def test_the_track_goes_on_with_equal_boxes(policy: TrackingPolicy | None) -> None:
    tracker = _tracked(policy)
    assert tracker.growth > 1
    again = Tracker.from_state(tracker.export_state(), threads=1)
    for index in range(MOVE, LAST):
        assert again.update(CLIP.frame(index)) == tracker.update(CLIP.frame(index))
    assert again.export_state() == tracker.export_state()


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_it_goes_on_on_another_engine(exported: bytes, engine: str) -> None:
    pytest.importorskip(engine)
    here, there = (
        Tracker.from_state(exported, threads=1),
        Tracker.from_state(exported, engine=engine, threads=1),
    )
    for index in range(MOVE, LAST):
        (box, confidence, lost), other = here.update(CLIP.frame(index)), there.update(CLIP.frame(index))
        assert other.box == pytest.approx(box, abs=0.02)
        assert other.confidence == pytest.approx(confidence, abs=1e-3)
    assert other.lost == lost


def test_it_goes_on_in_another_process(exported: bytes, tmp_path: Path) -> None:
    (tmp_path / "track.state").write_bytes(exported)
    program = (
        "import json, pathlib; from sttrack_deploy import Tracker; from sttrack_deploy.runtime.demo import DemoClip\n"
        "tracker = Tracker.from_state(pathlib.Path('track.state').read_bytes(), threads=1)\n"
        f"print(json.dumps([tracker.update(DemoClip().frame(i)).box for i in ({MOVE}, {MOVE + 1})]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    here = Tracker.from_state(exported, threads=1)
    assert [tuple(box) for box in json.loads(done.stdout)] == [
        here.update(CLIP.frame(i)).box for i in (MOVE, MOVE + 1)
    ]


def test_several_targets_keep_their_order() -> None:
    boxes = [CLIP.truth[0], (300.0, 200.0, 60.0, 60.0), (20.0, 30.0, 90.0, 40.0)]
    several = MultiTracker.from_bundle(threads=1)
    several.init(CLIP.frame(0), boxes)
    several.update(CLIP.frame(1))
    data = several.export_state()
    again = MultiTracker.from_state(data, threads=1)
    assert again.update(CLIP.frame(2)) == several.update(CLIP.frame(2))
    with pytest.raises(UserError, match="3 targets: use MultiTracker"):
        Tracker.from_state(data)


def test_another_policy_may_be_given(exported: bytes) -> None:
    policy = dataclasses.replace(open_bundle().manifest.tracking, lost_below=0.01, found_above=0.02)
    assert Tracker.from_state(exported, policy=policy).policy == policy
    assert Tracker.from_state(exported).policy == open_bundle().manifest.tracking


def test_nothing_that_a_target_carries_is_left_out() -> None:
    """A new attribute of a target must become part of its memory, or be one that is made anew on each frame."""
    carried = set(Target.__slots__) - {"_around", "_crop", "_policy", "_seen"}
    target = Target((1.0, 2.0, 30.0, 40.0), open_bundle().manifest.crop, TrackingPolicy())
    assert {name.lstrip("_") for name in carried} == {f.name for f in dataclasses.fields(target.memory())}


def test_without_a_target_there_is_no_state() -> None:
    with pytest.raises(UsageError, match="call init"):
        Tracker.from_bundle(threads=1).export_state()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_bytes_are_one_clear_line(exported: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(exported) - 1))
    cut = data.draw(st.booleans())
    value = bytes([exported[place] ^ data.draw(st.integers(1, 255))])
    damaged = exported[:place] if cut else exported[:place] + value + exported[place + 1 :]
    try:
        state = unpack(damaged, open_bundle(verify=False))
    except UserError:
        return
    # A number of the header became another possible one.
    assert all(math.isfinite(value) for target in state.targets for value in target.box)


def _with_header(exported: bytes, **changes: object) -> bytes:
    (length,) = struct.unpack("<I", exported[8:12])
    text = json.dumps({**json.loads(exported[12 : 12 + length]), **changes}).encode()
    return exported[:8] + struct.pack("<I", len(text)) + text + exported[12 + length :]


def test_other_versions_bundles_and_numbers_are_refused(exported: bytes) -> None:
    bundle = open_bundle()
    with pytest.raises(UserError, match="version 4, this package reads 3"):
        unpack(_with_header(exported, version=4), bundle)
    with pytest.raises(UserError, match="has other weights or settings"):
        unpack(exported, _with_weights(bundle, "0" * 64))
    state = unpack(exported, bundle)
    two = _with_header(exported, targets=[dataclasses.asdict(state.targets[0])] * 2)
    with pytest.raises(UserError, match="2 target"):
        unpack(two, bundle)
    with pytest.raises(UserError, match="not a tracker's state"):
        unpack(b"PK\x03\x04", bundle)
    broken = {**state.arrays, "query": np.full_like(state.arrays["query"], np.nan)}
    packed = pack(dataclasses.replace(state, arrays=broken), bundle)
    with pytest.raises(UserError, match="not finite in query"):
        unpack(packed, bundle)


def test_a_bundle_of_another_precision_of_the_same_weights_takes_it(exported: bytes) -> None:
    bundle = open_bundle()
    precision = {**bundle.manifest.precision, "name": "int8"}
    converted = dataclasses.replace(
        bundle, manifest=dataclasses.replace(bundle.manifest, precision=precision)
    )
    tracker = Tracker.from_state(exported, converted, threads=1)
    assert math.isfinite(tracker.update(CLIP.frame(MOVE)).confidence)


def _with_weights(bundle: Bundle, digest: str) -> Bundle:
    weights = {**bundle.manifest.weights, "sha256": digest}
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, weights=weights))
