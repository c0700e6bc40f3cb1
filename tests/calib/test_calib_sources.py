"""Annotated videos, one video, an evaluation run: what is found, and what is said where nothing is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from moving_square import write_sequence

from sttrack_deploy.calib.sources import boxes_hash, evaluated, one_video, read_annotated_videos, source_hash
from sttrack_deploy.errors import UsageError, UserError


def test_several_targets_in_one_video(tmp_path: Path) -> None:
    write_sequence(tmp_path, "street", 6, video=True)
    write_sequence(tmp_path, "park", 4)
    lines = (tmp_path / "street.txt").read_text().splitlines()
    (tmp_path / "street.txt").unlink()
    (tmp_path / "street__track1.txt").write_text("\n".join(["nan,nan,nan,nan", *lines[1:]]))
    (tmp_path / "street__track2.txt").write_text("\n".join(lines))
    (tmp_path / "street__never.txt").write_text("nan,nan,nan,nan\n" * 6)
    (tmp_path / "street__track3.txt").write_text("nan,nan,nan,nan\n" * 6)
    (tmp_path / "notes.txt").write_text("nothing of ours")
    found = read_annotated_videos(tmp_path)
    assert [(s.name, s.source.name, len(s)) for s in found] == [
        ("park", "park", 4),
        ("street__track1", "street.mp4", 6),
        ("street__track2", "street.mp4", 6),
    ]
    assert np.isnan(found[1].truth[0]).all()


def test_folders_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_annotated_videos(tmp_path / "nowhere")
    write_sequence(tmp_path, "a", 3)
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    with pytest.raises(UserError, match=r"no annotated video.*--init-box"):
        read_annotated_videos(tmp_path)
    (tmp_path / "a.txt").write_text("1,2,3\n")
    with pytest.raises(UserError, match=r"a\.txt, line 1 has 3 columns"):
        read_annotated_videos(tmp_path)


@pytest.mark.parametrize("video", [True, False])
def test_one_video_counts_its_frames(tmp_path: Path, video: bool) -> None:
    write_sequence(tmp_path, "a", 7, video=video)
    found = one_video(tmp_path / ("a.mp4" if video else "a"), (1.0, 2.0, 3.0, 4.0))
    assert (len(found), found.scorable, found.name) == (7, False, "a")
    assert found.truth[0].tolist() == [1, 2, 3, 4]
    assert np.isnan(found.truth[1:]).all()


def test_what_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no video"):
        one_video(tmp_path / "a.mp4", (0, 0, 1, 1))
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read as a video"):
        one_video(tmp_path / "a.mp4", (0, 0, 1, 1))


def test_hashes_tell_contents_apart(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_sequence(tmp_path / folder, "a", 3)
    one, two = ((tmp_path / folder / "a") for folder in ("one", "two"))
    assert source_hash(one) == source_hash(two)
    (two / "0.png").write_bytes((two / "1.png").read_bytes())
    assert source_hash(one) != source_hash(two)
    (three,) = read_annotated_videos(tmp_path / "one")
    before = boxes_hash(three)
    three.truth[1, 0] += 0.5
    assert boxes_hash(three) != before


def test_an_evaluation_run_names_its_sequences(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_sequence(tmp_path / "videos", name, 3)
    sequences = read_annotated_videos(tmp_path / "videos")
    results = tmp_path / "results" / "sttrack" / "nano"
    results.mkdir(parents=True)
    (results / "b.txt").write_text("1\t2\t3\t4\n" * 3)
    (results / "b_confidence.txt").write_text("1\n0.5\n0.25\n")
    runs = evaluated(tmp_path / "results", sequences, "videos")
    assert list(runs) == ["b"]
    assert runs["b"].boxes.tolist() == [[1, 2, 3, 4]] * 3
    with pytest.raises(UserError, match="holds no results"):
        evaluated(tmp_path / "videos" / "a", sequences, "videos")
    (tmp_path / "results" / "other").mkdir()
    (tmp_path / "results" / "other" / "a.txt").write_text("1\t2\t3\t4\n" * 3)
    with pytest.raises(UsageError, match="holds 2 trackers"):
        evaluated(tmp_path / "results", sequences, "videos")
