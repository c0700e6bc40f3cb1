from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from miniatures import boxes, write_images, write_text

from sttrack_deploy.errors import UserError
from sttrack_deploy.sequences.datasets.folder import read_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "b_images", "%d.png", range(12))
    write_text(tmp_path / "b_images.txt", boxes(3) + "nan,nan,nan,nan\n" + boxes(8))
    (tmp_path / "a_video.mp4").write_bytes(b"")
    write_text(tmp_path / "a_video.txt", boxes(8))
    return tmp_path


def test_reads_videos_and_image_folders_sorted_by_name(folder: Path) -> None:
    video, images = read_folder(folder)
    assert (video.name, video.source) == ("a_video", folder / "a_video.mp4")
    assert (images.name, images.source) == ("b_images", folder / "b_images")
    assert images.truth.dtype == np.float64
    assert images.truth.shape == (12, 4)
    np.testing.assert_array_equal(images.truth[2:4], [[3, 2, 3, 4], [math.nan] * 4])
    assert {(s.dataset, s.scorable, s.visible, s.attributes) for s in (video, images)} == {
        ("folder", True, None, ())
    }


def test_other_hidden_and_unlabeled_files_are_left_aside(folder: Path) -> None:
    (folder / "MANIFEST.json").write_text("{}")
    (folder / ".notes.txt").write_text("no boxes")
    (folder / "._a_video.mp4").write_text("")
    (folder / "unlabeled.mp4").write_text("")
    (folder / "empty_folder").mkdir()
    assert [s.name for s in read_folder(folder)] == ["a_video", "b_images"]


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere does not exist; .*--data DIR"):
        read_folder(tmp_path / "nowhere")


def test_file_instead_of_a_folder(folder: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        read_folder(folder / "a_video.mp4")


def test_no_sequences(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no sequence: no <name>\.txt"):
        read_folder(tmp_path)
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(UserError, match=r"1 videos but no <name>\.txt"):
        read_folder(tmp_path)


def test_text_without_video(folder: Path) -> None:
    (folder / "c.txt").write_text("1,2,3,4\n")
    with pytest.raises(UserError, match=r"c\.txt has no video beside it: there is no c\.mp4"):
        read_folder(folder)


def test_two_videos_of_one_name(folder: Path) -> None:
    (folder / "a_video.avi").write_bytes(b"")
    with pytest.raises(UserError, match=r"both a_video\.avi and a_video\.mp4 belong to"):
        read_folder(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3,4\n1,2,3\n", r"line 2 has 3 columns instead of 4 \(x,y,w,h\): '1,2,3'"),
        ("1,2,3,4\n\n1,2,3,4\n", "line 2 has 0 columns"),
        ("1,2,3,4\n1,2,3,4,5\n", "line 2 has 5 columns"),
        ("1,2,3,4\n1,2,x,4\n", "line 2 is not four numbers"),
        ("1,2,3,4\nnan,2,3,4\n", "line 2 must be four finite numbers, or nan,nan,nan,nan"),
        ("1,2,3,4\n1,2,inf,4\n", "line 2 must be four finite numbers"),
        ("nan,nan,nan,nan\n1,2,3,4\n", "line 1: tracking starts on this box"),
        ("1,2,0,4\n", "line 1: tracking starts on this box"),
        ("", "is empty"),
    ],
)
def test_malformed_truth(folder: Path, text: str, message: str) -> None:
    (folder / "a_video.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        read_folder(folder)


def test_a_part_goes_without_texts_that_lack_their_video(folder: Path) -> None:
    write_text(folder / "c.txt", boxes(1))
    assert [s.name for s in read_folder(folder, partial=True)] == ["a_video", "b_images"]
    (folder / "a_video.avi").write_bytes(b"")
    with pytest.raises(UserError, match="keep one"):
        read_folder(folder, partial=True)
