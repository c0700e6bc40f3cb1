"""A detector's boxes: how files are read, and where they start targets, and start lost ones again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blobs import BlobEngine, frame, truth, write_bundle, write_video
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from sttrack_deploy.bundle import open_bundle
from sttrack_deploy.cli.run import main
from sttrack_deploy.engines import registry
from sttrack_deploy.errors import UserError
from sttrack_deploy.geometry import iou
from sttrack_deploy.runtime.batch import Batch
from sttrack_deploy.runtime.detections import DetectedTargets, Detection, DetectionRules, read_detections

STILL = (110.0, 60.0, 24.0, 24.0)


def coco(path: Path, *annotations: dict[str, Any], **extra: Any) -> Path:
    images = [{"id": 10 + index, "frame_index": index} for index in range(20)]
    categories = [{"id": 1, "name": "car"}, {"id": 2, "name": "dog"}]
    document = {"images": images, "annotations": list(annotations), "categories": categories, **extra}
    path.write_text(json.dumps(document))
    return path


def test_coco_and_motchallenge_say_the_same(tmp_path: Path) -> None:
    expected = {
        3: [Detection((4.0, 5.0, 6.0, 7.0), 0.75, "", 2), Detection((50.0, 5.0, 6.0, 7.0), 1.0, "", 1)],
        0: [Detection((1.0, 2.0, 3.0, 4.0), 0.5, "", 1)],
    }
    (tmp_path / "a.txt").write_text("4,2,5,6,6,7,0.75,-1,-1,-1\n\n1,1,2,3,3,4,.5\n4,1,51,6,6,7,-1\n")
    assert read_detections(tmp_path / "a.txt") == expected
    results = [
        {"image_id": 4, "bbox": [4, 5, 6, 7], "score": 0.75, "track_id": 2},
        {"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5, "track_id": 1},
        {"image_id": 4, "bbox": [50, 5, 6, 7], "attributes": {"track_id": 1}},
    ]
    (tmp_path / "a.json").write_text(json.dumps(results))
    assert read_detections(tmp_path / "a.json") == expected
    named = coco(tmp_path / "b.json", {"image_id": 13, "bbox": [4, 5, 6, 7], "category_id": 2})
    assert read_detections(named) == {3: [Detection((4.0, 5.0, 6.0, 7.0), 1.0, "dog")]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3\n", "line 1: 3 columns"),
        ("frame,id,x,y,w,h\n", "line 1: 'frame' is not a finite number"),
        (
            "1,-1,1,1,5,5,1\n0,-1,1,1,5,5,1\n",
            "line 2: a frame, counted from 1, must be a whole number of 1 or more",
        ),
        ("1,-1,1,1,0,5,1\n", "has no area"),
        ("1,-1,1,nan,5,5,1\n", "'nan' is not a finite number"),
        ("1,-1,1,1,5,5,30\n", "the score is 30"),
        ("1,1,1,1,5,5,1\n1,-1,50,1,5,5,1\n", "1 of 2 detections say which target"),
        ("1,1,1,1,5,5,1\n1,1,50,1,5,5,1\n", "two detections of frame 0"),
        ("\n\n", "holds no detection"),
    ],
)
def test_a_wrong_line_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError) as told:
        read_detections(tmp_path / "a.csv")
    assert message in str(told.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["images", "annotations", "categories", "image_id", "id", "bbox", "score", "track_id"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(json_values)
def test_any_json_is_read_or_refused(value: Any) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.json"
        path.write_text(json.dumps(value))
        try:
            found = read_detections(path)
        except UserError:
            return
        assert all(np.isfinite(one.box).all() for many in found.values() for one in many)


def targets(
    tmp_path: Path, detections: dict[int, list[Detection]], rules: DetectionRules | None = None
) -> DetectedTargets:
    bundle = open_bundle(write_bundle(tmp_path / "bundle"))
    return DetectedTargets(
        Batch(bundle, BlobEngine(), bundle.manifest.tracking), detections, rules or DetectionRules()
    )


def test_a_target_starts_where_it_is_found_and_again_when_it_was_lost(tmp_path: Path) -> None:
    """The square is away on frames 4 to 6. A detection of it changes nothing while it is sure."""
    found = {
        1: [Detection(truth(1), 0.9, "car"), Detection(truth(1), 0.6, "car"), Detection(STILL, 0.4, "car")],
        3: [Detection(truth(3), 1.0, "car")],
        8: [Detection(truth(8), 0.9, "car")],
    }
    tracker = targets(tmp_path, found)
    seen = {}
    for index in range(10):
        away = 4 <= index < 7
        seen[index] = tracker.update(index, frame(None if away else truth(index), seed=index))
    assert seen[0] == {}
    assert set().union(*seen.values()) == {1}
    assert seen[1][1] == (truth(1), 1.0, False)
    assert seen[3][1].confidence == pytest.approx(0.9)  # tracked, not started again
    assert [seen[index][1].lost for index in range(4, 7)] == [True] * 3
    assert min(float(iou(seen[i][1].box, truth(i))) for i in (1, 2, 3, 8, 9)) > 0.75


def test_lost_targets_start_again_by_overlap_or_by_id_and_others_are_new(tmp_path: Path) -> None:
    empty = frame(None)
    by_overlap = {
        0: [Detection(STILL), Detection((20.0, 20.0, 24.0, 24.0))],
        3: [
            Detection((112.0, 62.0, 24.0, 24.0)),
            Detection((60.0, 20.0, 20.0, 20.0)),
            Detection(STILL, 1.0, "dog"),
        ],
    }
    tracker = targets(tmp_path / "a", by_overlap)
    for index in range(4):
        results = tracker.update(index, empty)
    assert {n: r.box for n, r in results.items() if not r.lost} == {
        1: (112.0, 62.0, 24.0, 24.0),
        3: (60.0, 20.0, 20.0, 20.0),
        4: STILL,
    }
    assert results[2].lost
    by_id = {0: [Detection(STILL, id=7)], 3: [Detection((20.0, 20.0, 24.0, 24.0), id=7)]}
    tracker = targets(tmp_path / "b", by_id)
    for index in range(4):
        results = tracker.update(index, empty)
    assert results == {7: ((20.0, 20.0, 24.0, 24.0), 1.0, False)}


def test_targets_are_bounded_and_low_scores_do_not_count(tmp_path: Path) -> None:
    boxes = [Detection((10.0 + 30 * i, 10.0, 20.0, 20.0), 0.9 - i / 10) for i in range(4)]
    tracker = targets(tmp_path, {0: boxes}, DetectionRules(0.7, 2))
    assert [r.box for r in tracker.update(0, frame(None)).values()] == [d.box for d in boxes[:2]]
    assert tracker.turned_away == 1
    with pytest.raises(UserError, match="no detection of a score of"):
        tracker.check(1, None)


def test_the_command_starts_late_and_writes_its_own_tracks_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "load_engine", lambda *_: BlobEngine())
    monkeypatch.chdir(tmp_path)
    write_video(Path("clip.avi"), 12)
    write_bundle(Path("bundle"))
    x, y, w, h = truth(4)
    Path("d.txt").write_text(f"5,-1,{x + 1},{y + 1},{w},{h},0.9,-1,-1,-1\n")

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(main, ["clip.avi", "--bundle", "bundle", "--overwrite", *arguments])

    for name in ("t.json", "t.xml", "t.txt"):
        result = run("--start-from", "d.txt", "--json", "r.jsonl", "--tracks", name)
        assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(4, 12))
    assert {line["id"] for line in lines} == {1}
    for name in ("t.json", "t.txt"):  # what was tracked can be started from
        assert {frame: len(found) for frame, found in read_detections(Path(name)).items()} == dict.fromkeys(
            range(4, 12), 1
        )
        assert run("--start-from", name, "--no-video", "--json", "again.jsonl").exit_code == 0
        assert (
            Path("again.jsonl").read_text().splitlines()[-1] == Path("r.jsonl").read_text().splitlines()[-1]
        )
    assert "--boxes is for targets that are given" in run("--start-from", "d.txt", "--boxes", "b.txt").stderr
    Path("d.txt").write_text("50,-1,5,5,20,20,0.9\n")
    assert run("--start-from", "d.txt", "--end", "9", "--no-video").exit_code == 1
    Path("d.txt").write_text("5,-1,900,5,20,20,0.9\n")
    outside = run("--start-from", "d.txt", "--no-video", "--json", "o.jsonl")
    assert outside.exit_code == 1
    assert "the detections of frame 4 do not fit the video" in outside.stderr
