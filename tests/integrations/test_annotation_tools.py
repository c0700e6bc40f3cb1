"""supervision's detections and back, and what annotators are given to look at."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttrack_deploy.errors import UsageError
from sttrack_deploy.integrations.keyframes import key_frames, label_studio_task, write_label_studio
from sttrack_deploy.integrations.supervision import boxes_of, to_detections
from sttrack_deploy.runtime.results import FrameResult
from sttrack_deploy.runtime.target import TrackResult


def _track(confidences: list[float], lost_below: float = 0.3) -> list[FrameResult]:
    return [
        FrameResult(i, i / 25, (10.0 + i, 20.0, 30.0, 40.0), value, value < lost_below)
        for i, value in enumerate(confidences)
    ]


def test_results_become_detections_and_their_boxes_come_back() -> None:
    supervision = pytest.importorskip(
        "supervision", reason="supervision is not installed: pip install supervision"
    )
    results = [
        TrackResult((10.0, 20.0, 30.0, 40.0), 0.9, False),
        TrackResult((1.0, 2.0, 3.0, 4.0), 0.1, True),
    ]
    found = to_detections(results)
    assert isinstance(found, supervision.Detections)
    assert found.xyxy.tolist() == [[10.0, 20.0, 40.0, 60.0]]
    assert found.tracker_id.tolist() == [1]
    both = to_detections(results, lost=True)
    assert boxes_of(both) == [result.box for result in results]
    assert both.data["lost"].tolist() == [False, True]
    assert len(to_detections([])) == 0


def test_no_detection_is_told() -> None:
    class Nothing:
        xyxy = np.empty((0, 4), np.float32)

    with pytest.raises(UsageError, match="no detection"):
        boxes_of(Nothing())


def test_key_frames_are_where_confidence_drops() -> None:
    chosen = key_frames(_track([0.9] * 10 + [0.5, 0.4, 0.45] + [0.9] * 10 + [0.1, 0.2] + [0.9] * 5), 0.6, 100)
    assert [result.frame for result in chosen] == [0, 11, 22, 23, 24, 25, 29]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=80), st.floats(0, 1), st.integers(1, 40))
def test_key_frames_leave_no_gap_and_no_low_stretch_out(
    values: list[float], below: float, every: int
) -> None:
    frames = [result.frame for result in key_frames(_track(values), below, every)]
    assert frames == sorted(set(frames))
    assert (frames[0], frames[-1]) == (0, len(values) - 1)
    assert all(b - a <= every for a, b in itertools.pairwise(frames))
    if min(values) < below:
        assert min(values[frame] for frame in frames) < below


def test_label_studio_gets_percent_and_frames_from_one(tmp_path: Path) -> None:
    task = label_studio_task("/data/a.mp4", [_track([0.9, 0.8, 0.1])], (100, 200), "fish", 0.5)
    write_label_studio([task], tmp_path / "tasks.json")
    (read,) = json.loads((tmp_path / "tasks.json").read_text())
    region = read["predictions"][0]["result"][0]
    assert region["type"] == "videorectangle"
    first, *_, last = region["value"]["sequence"]
    assert (first["frame"], first["x"], first["y"], first["width"], first["height"]) == (1, 10, 10, 30, 20)
    assert (last["frame"], last["enabled"]) == (3, False)
    assert region["value"]["framesCount"] == 3
    assert region["value"]["duration"] == pytest.approx(3 / 25)


def test_label_studio_s_own_check_takes_it() -> None:
    interface = pytest.importorskip(
        "label_studio_sdk.label_interface",
        reason="label-studio-sdk is not installed: pip install label-studio-sdk",
    )
    configuration = """<View>
      <Labels name="videoLabels" toName="video"><Label value="fish"/></Labels>
      <Video name="video" value="$video"/><VideoRectangle name="box" toName="video"/>
    </View>"""
    task = label_studio_task("/data/a.mp4", [_track([0.9, 0.8, 0.1, 0.9])] * 2, (100, 200), "fish", 0.5)
    (prediction,) = task["predictions"]
    labeling = interface.LabelInterface(configuration)
    assert labeling.validate_prediction(prediction, return_errors=True) == []
    prediction["result"][0]["from_name"] = "another"  # it does look
    assert labeling.validate_prediction(prediction, return_errors=True) != []
