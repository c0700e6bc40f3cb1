from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from miniatures import flags_of
from moving_square import HEIGHT, WIDTH, write_sequence

from sttrack_deploy.errors import UserError
from sttrack_deploy.sequences.datasets.folder import read_folder
from sttrack_deploy.sequences.sequence import (
    Numbering,
    VideoSequence,
    frames_of,
    image_size,
    select,
    usable_truth,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_sequence(tmp_path, "b_images", frames=12, absent=(3,))
    write_sequence(tmp_path, "a_video", video=True)
    return tmp_path


def test_frames_of_videos_and_image_folders(folder: Path) -> None:
    assert [len(list(frames_of(s))) for s in read_folder(folder)] == [8, 12]


def test_images_come_in_natural_order(folder: Path) -> None:
    # 10.png after 9.png: the square moves right all the time.
    frames = list(frames_of(read_folder(folder)[1]))
    lefts = [np.nonzero(f[:, :, 2] > 200)[1].min() for n, f in enumerate(frames) if n != 3]
    assert lefts == sorted(lefts)
    assert frames[0].dtype == np.uint8
    assert frames[0].shape == (120, 160, 3)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (None, ["a_video", "b_images"]),
        ("b_*", ["b_images"]),
        ("a_video,b_images", ["a_video", "b_images"]),
        ("*_[vw]*", ["a_video"]),
    ],
)
def test_select(folder: Path, pattern: str | None, names: list[str]) -> None:
    assert [s.name for s in select(read_folder(folder), pattern)] == names


def test_select_of_nothing_names_what_there_is(folder: Path) -> None:
    with pytest.raises(UserError, match=r"no sequence matches 'x\*'; there are 2: a_video, b_images"):
        select(read_folder(folder), "x*")


@pytest.mark.parametrize("lines", [6, 9])
def test_frame_count_unlike_the_truth_gives_both_counts(folder: Path, lines: int) -> None:
    for name in ("a_video", "b_images"):
        (folder / f"{name}.txt").write_text("1,2,3,4\n" * lines)
    for sequence, frames in zip(read_folder(folder), (8, 12), strict=True):
        with pytest.raises(UserError, match=f"has {frames} frames, but its ground truth has {lines} lines"):
            list(frames_of(sequence))


def test_a_damaged_video_is_named(folder: Path) -> None:
    (folder / "a_video.mp4").write_bytes(b"not a video")
    with pytest.raises(UserError, match=r"a_video\.mp4 cannot be read as a video"):
        list(frames_of(read_folder(folder)[0]))


def test_a_damaged_image_is_named(folder: Path) -> None:
    (folder / "b_images" / "4.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"4\.png cannot be read as an image"):
        list(frames_of(read_folder(folder)[1]))


def numbered(folder: Path, pattern: str, first: int, frames: int) -> VideoSequence:
    return VideoSequence("a", folder, np.ones((frames, 4)), numbering=Numbering(pattern, first))


def test_a_run_of_numbered_images(folder: Path) -> None:
    images = folder / "b_images"
    run = list(frames_of(numbered(images, "%d.png", 4, 3)))
    everything = list(frames_of(read_folder(folder)[1]))
    assert len(run) == 3
    for frame, expected in zip(run, everything[4:7], strict=True):
        np.testing.assert_array_equal(frame, expected)


def test_a_numbered_image_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the image .*12\.png: No such file"):
        list(frames_of(numbered(folder / "b_images", "%d.png", 10, 3)))


def test_image_size(folder: Path) -> None:
    assert {image_size(s) for s in read_folder(folder)} == {(WIDTH, HEIGHT)}


def test_visible_where_neither_absent_nor_occluded() -> None:
    truth = np.ones((3, 4))
    flags = np.array([True, False, False])
    assert VideoSequence("a", Path(), truth).visible is None
    assert flags_of(VideoSequence("a", Path(), truth, absent=flags).visible) == [False, True, True]
    both = VideoSequence("a", Path(), truth, absent=flags, occluded=flags[::-1])
    assert flags_of(both.visible) == [False, True, False]


def test_usable_truth() -> None:
    truth = np.array([[0.0, 0, 1, 1], [0, 0, 0, 1], [np.nan] * 4, [0, 0, 1, np.inf]])
    assert usable_truth(truth).tolist() == [True, False, False, False]


def test_a_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    """OpenCV's video reading crashed on it."""
    odd = tmp_path / os.fsdecode(b"\xff\xfe")
    write_sequence(tmp_path / "plain", "a", frames=3, video=True)
    try:
        (tmp_path / "plain").rename(odd)
    except OSError:
        pytest.skip("this file system takes no such names")
    (sequence,) = read_folder(odd)
    assert len(list(frames_of(sequence))) == 3
