from __future__ import annotations

import numpy as np
import pytest
from moving_square import truth_of, write_sequence

from sttrack_deploy.errors import UserError
from sttrack_deploy.evaluation.dataset import frames_of, read_folder, select


@pytest.fixture
def folder(tmp_path):
    write_sequence(tmp_path, "b_images", frames=12, absent=(3,))
    write_sequence(tmp_path, "a_video", video=True)
    return tmp_path


def test_reads_videos_and_image_folders_sorted_by_name(folder):
    sequences = read_folder(folder)
    assert [s.name for s in sequences] == ["a_video", "b_images"]
    np.testing.assert_array_equal(sequences[1].truth, truth_of(12, (3,)))
    assert sequences[0].truth.dtype == np.float64
    assert [len(list(frames_of(s))) for s in sequences] == [8, 12]


def test_images_come_in_natural_order(folder):
    # 10.png after 9.png: the square moves right all the time.
    frames = list(frames_of(read_folder(folder)[1]))
    lefts = [np.nonzero(f[:, :, 2] > 200)[1].min() for n, f in enumerate(frames) if n != 3]
    assert lefts == sorted(lefts)
    assert frames[0].dtype == np.uint8
    assert frames[0].shape == (120, 160, 3)


def test_other_hidden_and_unlabelled_files_are_left_aside(folder):
    (folder / "MANIFEST.json").write_text("{}")
    (folder / ".notes.txt").write_text("no boxes")
    (folder / "._a_video.mp4").write_text("")
    (folder / "unlabelled.mp4").write_text("")
    (folder / "empty_folder").mkdir()
    assert [s.name for s in read_folder(folder)] == ["a_video", "b_images"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (None, ["a_video", "b_images"]),
        ("b_*", ["b_images"]),
        ("a_video,b_images", ["a_video", "b_images"]),
        ("*_[vw]*", ["a_video"]),
    ],
)
def test_select(folder, pattern, names):
    assert [s.name for s in select(read_folder(folder), pattern)] == names


def test_select_of_nothing_names_what_there_is(folder):
    with pytest.raises(UserError, match=r"no sequence matches 'x\*'; there are 2: a_video, b_images"):
        select(read_folder(folder), "x*")


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match=r"nowhere does not exist; .*--data DIR"):
        read_folder(tmp_path / "nowhere")


def test_file_instead_of_a_folder(folder):
    with pytest.raises(UserError, match="is not a folder"):
        read_folder(folder / "a_video.mp4")


def test_no_sequences(tmp_path):
    with pytest.raises(UserError, match=r"holds no sequence: no <name>\.txt"):
        read_folder(tmp_path)
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(UserError, match=r"1 videos but no <name>\.txt"):
        read_folder(tmp_path)


def test_text_without_video(folder):
    (folder / "c.txt").write_text("1,2,3,4\n")
    with pytest.raises(UserError, match=r"c\.txt has no video beside it: there is no c\.mp4"):
        read_folder(folder)


def test_two_videos_of_one_name(folder):
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
def test_malformed_truth(folder, text, message):
    (folder / "a_video.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        read_folder(folder)


@pytest.mark.parametrize("lines", [6, 9])
def test_frame_count_unlike_the_truth_gives_both_counts(folder, lines):
    for name in ("a_video", "b_images"):
        (folder / f"{name}.txt").write_text("1,2,3,4\n" * lines)
    for sequence, frames in zip(read_folder(folder), (8, 12), strict=True):
        with pytest.raises(UserError, match=f"has {frames} frames, but its ground truth has {lines} lines"):
            list(frames_of(sequence))


def test_a_damaged_video_is_named(folder):
    (folder / "a_video.mp4").write_bytes(b"not a video")
    with pytest.raises(UserError, match=r"cannot open the video .*a_video\.mp4"):
        list(frames_of(read_folder(folder)[0]))


def test_a_damaged_image_is_named(folder):
    (folder / "b_images" / "4.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"cannot read the image .*4\.png"):
        list(frames_of(read_folder(folder)[1]))
