from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from miniatures import boxes, flags_of, level, write_images, write_text

from sttrack_deploy.errors import UserError
from sttrack_deploy.sequences.datasets.base import published_table
from sttrack_deploy.sequences.datasets.lasot import read_lasot, read_lasot_ext
from sttrack_deploy.sequences.sequence import frames_of


def write_sequence(root: Path, name: str, frames: int = 3, flat: bool = False) -> Path:
    folder = root / name if flat else root / name.rpartition("-")[0] / name
    write_images(folder / "img", "%08d.jpg", range(1, frames + 1))
    write_text(folder / "groundtruth.txt", boxes(frames))
    write_text(folder / "full_occlusion.txt", ",".join("0" * frames))
    write_text(folder / "out_of_view.txt", ",".join("0" * frames))
    return folder


def write_all(root: Path, table: str) -> None:
    """Every listed sequence, its only image an empty file."""
    for name in published_table(table):
        folder = root / name.rpartition("-")[0] / name
        write_text(folder / "img" / "00000001.jpg", "")
        for file, text in (("groundtruth", "1,1,5,5"), ("full_occlusion", "0"), ("out_of_view", "0")):
            (folder / f"{file}.txt").write_text(text)


def test_the_test_split(tmp_path: Path) -> None:
    write_all(tmp_path, "lasot")
    shutil.copytree(tmp_path / "airplane" / "airplane-1", tmp_path / "airplane" / "airplane-2")  # of training
    sequences = read_lasot(tmp_path)
    assert len(sequences) == 280
    assert sequences[0].name == "airplane-1"
    assert sequences[0].attributes == ("POC", "ROT", "SV", "LR")
    assert {s.dataset for s in sequences} == {"lasot"}


def test_the_extension(tmp_path: Path) -> None:
    write_all(tmp_path, "lasot_ext")
    sequences = read_lasot_ext(tmp_path)
    assert len(sequences) == 150
    assert {s.dataset for s in sequences} == {"lasot_ext"}
    assert {s.attributes for s in sequences} == {()}


@pytest.mark.parametrize("flat", [False, True])
def test_truth_flags_and_frames(tmp_path: Path, flat: bool) -> None:
    folder = write_sequence(tmp_path, "boat-3", frames=4, flat=flat)
    (folder / "groundtruth.txt").write_text("367,101,41,16\n366,102,41,16\n0,0,0,0\n1,2,3,4\n")
    (folder / "full_occlusion.txt").write_text("0,1,0,0\n")
    (folder / "out_of_view.txt").write_text("0,0,1,0\n")
    (sequence,) = read_lasot(tmp_path, partial=True)
    np.testing.assert_array_equal(sequence.truth[:3], [[367, 101, 41, 16], [366, 102, 41, 16], [0, 0, 0, 0]])
    assert flags_of(sequence.absent) == [False, False, True, False]
    assert flags_of(sequence.occluded) == [False, True, False, False]
    assert flags_of(sequence.visible) == [True, False, False, True]
    assert sequence.scorable
    assert [level(frame) for frame in frames_of(sequence)] == [1, 2, 3, 4]


def test_missing_sequences_are_named(tmp_path: Path) -> None:
    write_all(tmp_path, "lasot")
    shutil.rmtree(tmp_path / "airplane" / "airplane-9")
    (tmp_path / "bear" / "bear-2" / "groundtruth.txt").write_text("1,1,5,5\n1,1,5,5\n")  # half its images
    (tmp_path / "bear" / "bear-4" / "out_of_view.txt").unlink()
    (tmp_path / "zebra" / "zebra-17" / "img" / "00000001.jpg").unlink()
    with pytest.raises(UserError) as caught:
        read_lasot(tmp_path)
    missing = Path("airplane/airplane-9/groundtruth.txt")
    assert str(caught.value) == (
        f"LaSOT at {tmp_path} lacks 4 of 280 sequences: airplane-9 (no {missing}), "
        "bear-2 (no bear/bear-2/img/00000002.jpg), bear-4 (no bear/bear-4/out_of_view.txt), …; "
        "extract them, or do without them with --partial"
    )
    assert len(read_lasot(tmp_path, partial=True)) == 276


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"LaSOT: .*nowhere does not exist; give a folder with <class>/"):
        read_lasot(tmp_path / "nowhere")
    for partial in (False, True):
        with pytest.raises(
            UserError, match=r"lacks 280 of 280 sequences: airplane-1 .*; it must be a folder with"
        ):
            read_lasot(tmp_path, partial=partial)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("groundtruth.txt", "1,2,3,4\n1,2,3\n1,2,3,4\n", r"groundtruth\.txt, line 2 has 3 columns"),
        ("groundtruth.txt", "1,2,3,4\n1,2,x,4\n1,2,3,4\n", r"groundtruth\.txt, line 2 is not four numbers"),
        ("groundtruth.txt", "0,0,0,0\n1,2,3,4\n1,2,3,4\n", r"groundtruth\.txt, line 1: tracking starts"),
        ("groundtruth.txt", "", r"groundtruth\.txt is empty"),
        ("full_occlusion.txt", "0,0", r"full_occlusion\.txt has 2 flags, but its sequence has 3 frames"),
        ("out_of_view.txt", "0,0,0,1", r"out_of_view\.txt has 4 flags, but its sequence has 3 frames"),
        ("out_of_view.txt", "0,?,0", r"out_of_view\.txt: the flag of frame 2 is not a whole number"),
    ],
)
def test_malformed_is_an_error_even_of_a_part(tmp_path: Path, file: str, text: str, message: str) -> None:
    (write_sequence(tmp_path, "cup-4") / file).write_text(text)
    with pytest.raises(UserError, match=message):
        read_lasot(tmp_path, partial=True)


def test_more_images_than_annotations_are_let_be(tmp_path: Path) -> None:
    # Some copies of airplane-15 have 4501 images for 4500 boxes.
    folder = write_sequence(tmp_path, "airplane-15")
    write_images(folder / "img", "%08d.jpg", [4])
    (sequence,) = read_lasot(tmp_path, partial=True)
    assert len(list(frames_of(sequence))) == 3
