"""Which frames are pictured, and how."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from fake_reports import PYTRACKING, report, run, sequence, three_trackers
from moving_square import HEIGHT, SIDE, WIDTH, frame_of

from sttrack_deploy.errors import UserError
from sttrack_deploy.evaluation.comparison import Comparison
from sttrack_deploy.evaluation.reporting import strips
from sttrack_deploy.evaluation.reporting.strips import find_key_frames, picture_strip, stretches
from sttrack_deploy.evaluation.scores import SequenceReport, score_run
from sttrack_deploy.plotting import tracker_style
from sttrack_deploy.sequences.sequence import TrackRun, VideoSequence, frames_of

GREEN = (70, 220, 60)


def scored(data: VideoSequence, result: TrackRun) -> SequenceReport:
    return score_run(result, data, [PYTRACKING])


def reasons(each: SequenceReport, count: int = 5) -> dict[int, str]:
    chosen = find_key_frames(each, count)
    assert [key.frame for key in chosen] == sorted({key.frame for key in chosen})
    return {key.frame: key.reason for key in chosen}


def decoded(jpeg: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def shows(picture: np.ndarray, bgr: tuple[int, int, int]) -> bool:
    return bool((np.abs(picture.astype(int) - bgr).max(axis=2) < 25).sum() > 20)


def one(folder: Path, result: TrackRun, data: VideoSequence) -> strips.Strip:
    del folder
    return picture_strip(Comparison.of([report("x", [(data, result)])]), data.name)


def test_the_failure_is_pictured_from_before_it_to_after_it() -> None:
    data = sequence("a", frames=40)
    result = run(data, 1.0, (10, 25))
    assert result.confidences is not None
    result.confidences[20] = 0.95
    chosen = reasons(scored(data, result))
    assert chosen == {
        7: "before it fails",
        10: "fails here",
        17: "longest failure: 15 frames",
        20: "sure, but wrong",
        25: "good again",
    }


def test_a_slip_is_no_failure() -> None:
    data = sequence("a", frames=40)
    result = run(data, 1.0, (20, 30))
    result.boxes[5] = (WIDTH - SIDE, HEIGHT - SIDE, SIDE, SIDE)
    assert reasons(scored(data, result))[20] == "fails here"
    only_slips = run(data, 1.0, (5, 6))
    assert reasons(scored(data, only_slips))[5] == "fails here"


def test_a_lost_tracker_is_not_sure_of_itself() -> None:
    data = sequence("a", frames=40, absent=(30, 31, 32))
    result = run(data, 1.0)
    assert result.confidences is not None
    result.confidences[31] = 0.9
    assert reasons(scored(data, result))[31] == "sure, but the target is absent"
    called = dataclasses.replace(result, lost=np.asarray(np.isnan(data.truth).any(axis=1)))
    assert reasons(scored(data, called))[31] == "target absent"


def test_a_good_run_shows_its_lowest_frames_well_apart() -> None:
    data = sequence("a", frames=60)
    chosen = reasons(scored(data, run(data, 1.0)))
    assert set(chosen.values()) == {"lowest IoU"}
    assert len(chosen) == 5
    assert np.diff(sorted(chosen)).min() >= 6
    assert 0 not in chosen


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 6])
def test_short_sequences_show_what_there_is(frames: int) -> None:
    data = sequence("a", frames=frames)
    assert len(find_key_frames(scored(data, run(data)))) == min(5, frames)
    unseen = sequence("b", frames=frames, absent=tuple(range(1, frames)))
    assert len(find_key_frames(scored(unseen, run(unseen)))) == min(5, frames)


def test_stretches() -> None:
    assert stretches(np.array([True, False, False, True, True])) == [(0, 1), (3, 5)]
    assert stretches(np.zeros(0, np.bool_)) == []


def test_a_strip_shows_truth_and_trackers(tmp_path: Path) -> None:
    compared = three_trackers(tmp_path)
    strip = picture_strip(compared, "open")
    assert strip.focus == 2
    assert [tile.key.reason for tile in strip.tiles][:2] == ["before it fails", "fails here"]
    for tile in strip.tiles:
        assert tile.picture.shape == (240, 320, 3)
        assert [said.label for said in tile.said] == ["good", "shifted", "failing"]
        assert shows(tile.picture, GREEN)
        assert shows(tile.picture, tracker_style(1).bgr)
        truth = compared.reports[0].sequences[0]
        assert tile.said[0].overlap == truth.overlap[tile.key.frame]
        assert tile.said[2].confidence is None
        assert f"frame {tile.key.frame}" in tile.alt
    whole = decoded(strip.jpeg())
    assert whole.shape[1] == 5 * (320 + 8)
    assert whole.shape[0] > 240
    assert decoded(strip.tiles[0].jpeg()).shape == (240, 320, 3)
    narrow = picture_strip(compared, "open", count=2, width=100)
    assert [tile.picture.shape for tile in narrow.tiles] == [(75, 100, 3)] * 2


def test_an_absent_target_has_no_box(tmp_path: Path) -> None:
    strip = picture_strip(three_trackers(tmp_path), "gone")
    absent = [tile for tile in strip.tiles if tile.key.frame in (5, 6, 7)]
    assert absent
    for tile in absent:
        assert not shows(tile.picture, GREEN)
        assert "no target" in tile.alt
    assert "lost" in absent[0].alt


@pytest.mark.parametrize("box", [(-500.0, -500.0, 20.0, 20.0), (1e7, 1e7, 5.0, 5.0), (-1e6, -1e6, 2e6, 2e6)])
def test_boxes_outside_the_image_are_drawn_as_far_as_they_can_be(
    tmp_path: Path, box: tuple[float, float, float, float]
) -> None:
    data = sequence("a", tmp_path)
    result = run(data)
    result.boxes[6:] = box
    strip = one(tmp_path, result, data)
    wrong = [tile for tile in strip.tiles if tile.key.frame >= 6]
    assert all(tile.picture.shape == (240, 320, 3) and shows(tile.picture, GREEN) for tile in wrong)
    assert all(tile.said[0].outside == (box[2] < 100) for tile in wrong)


@pytest.mark.parametrize("size", [(120, 160), (160, 40), (40, 300), (1, 1)])
def test_frames_of_any_shape_fill_the_picture(tmp_path: Path, size: tuple[int, int]) -> None:
    height, width = size
    (tmp_path / "a").mkdir()
    for number in range(3):
        cv2.imwrite(str(tmp_path / "a" / f"{number}.png"), np.full((height, width, 3), 200, np.uint8))
    truth = np.array([[0.0, 0.0, width / 2, height / 2]] * 3)
    data = VideoSequence("a", tmp_path / "a", truth)
    strip = one(tmp_path, TrackRun("a", truth.copy()), data)
    assert len(strip.tiles) == 3
    for tile in strip.tiles:
        assert tile.picture.shape == (240, 320, 3)
        assert shows(tile.picture, (200, 200, 200))


def test_small_targets_are_enlarged(tmp_path: Path) -> None:
    data = sequence("a", tmp_path)
    strip = one(tmp_path, run(data), data)
    red = np.abs(strip.tiles[0].picture.astype(int) - (0, 0, 255)).max(axis=2) < 60
    assert red.sum() > 2 * (SIDE * 320 / WIDTH) ** 2


def test_decoding_is_one_pass_that_ends_with_the_last_frame_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = sequence("a", tmp_path, frames=40)
    seen: list[int] = []

    def counted(which: VideoSequence) -> Iterator[np.ndarray]:
        for frame in frames_of(which):
            seen.append(len(seen))
            yield frame

    monkeypatch.setattr(strips, "frames_of", counted)
    strip = one(tmp_path, run(data, 1.0, (3, 9)), data)
    assert seen == list(range(strip.tiles[-1].key.frame + 1))


def test_a_video_that_ends_early_is_an_error(tmp_path: Path) -> None:
    data = sequence("a", tmp_path)
    for number in range(4, 12):
        (tmp_path / "a" / f"{number:05d}.png").unlink()
    with pytest.raises(UserError, match="4 frames, but its ground truth has 12"):
        one(tmp_path, run(data), data)


def test_labels_in_any_script_do_not_stop_the_picture(tmp_path: Path) -> None:
    data = sequence("a", tmp_path)
    strip = picture_strip(Comparison.of([report("跟踪器 é", [(data, run(data))])]), "a")
    assert "跟踪器" in strip.alt
    decoded(strip.jpeg())


def test_the_frame_is_the_one_that_was_asked_for(tmp_path: Path) -> None:
    data = sequence("a", tmp_path, frames=30)
    for tile in one(tmp_path, run(data, 1.0, (12, 20)), data).tiles:
        expected = frame_of(data.truth[tile.key.frame])
        assert expected.shape == (HEIGHT, WIDTH, 3)
        assert shows(tile.picture, (0, 0, 255))
