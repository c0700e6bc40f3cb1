from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from miniatures import boxes, flags_of, level, write_images, write_text

from sttrack_deploy.errors import UserError
from sttrack_deploy.sequences.datasets.got10k import read_got10k_test, read_got10k_val
from sttrack_deploy.sequences.sequence import frames_of

VAL, TEST = "GOT-10k_Val_000001", "GOT-10k_Test_000001"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, name in (("val", VAL), ("test", TEST)):
        write_text(tmp_path / split / "list.txt", f"{name}\n")
        write_images(tmp_path / split / name, "%08d.jpg", range(1, 5))
    val = tmp_path / "val" / VAL
    write_text(val / "groundtruth.txt", "1.5,2,3,4\n2,2,3,4\n3,2,3,4\n4,2,3,4\n")
    write_text(val / "absence.label", "0\n0\n1\n0\n")
    write_text(val / "cover.label", "8\n0\n0\n3\n")
    write_text(val / "cut_by_image.label", "0\n0\n0\n0\n")
    write_text(val / "meta_info.ini", "[METAINFO]\nobject_class: fox\n")
    write_text(tmp_path / "test" / TEST / "groundtruth.txt", "550.0000,270.0000,60.5,80\n")
    return tmp_path


def test_val(root: Path) -> None:
    (sequence,) = read_got10k_val(root)
    assert (sequence.name, sequence.dataset, sequence.scorable) == (VAL, "got10k_val", True)
    np.testing.assert_array_equal(sequence.truth[0], [1.5, 2, 3, 4])
    assert flags_of(sequence.absent) == [False, False, True, False]
    assert flags_of(sequence.occluded) == [False, True, True, False]
    assert [level(frame) for frame in frames_of(sequence)] == [1, 2, 3, 4]


def test_test_has_the_first_box_only(root: Path) -> None:
    (sequence,) = read_got10k_test(root)
    assert (sequence.name, sequence.dataset, sequence.scorable) == (TEST, "got10k_test", False)
    assert sequence.truth.shape == (4, 4)
    np.testing.assert_array_equal(sequence.truth[0], [550, 270, 60.5, 80])
    assert np.isnan(sequence.truth[1:]).all()
    assert sequence.visible is None
    assert [level(frame) for frame in frames_of(sequence)] == [1, 2, 3, 4]


def test_the_split_itself_will_do(root: Path) -> None:
    assert [s.name for s in read_got10k_val(root / "val")] == [VAL]
    assert [s.name for s in read_got10k_test(root / "test")] == [TEST]


def test_missing_sequences(root: Path) -> None:
    with (root / "val" / "list.txt").open("a") as file:
        file.write("GOT-10k_Val_000002\n\n")
    with pytest.raises(
        UserError, match=r"GOT-10k val at .* lacks 1 of 2 sequences: GOT-10k_Val_000002 \(no "
    ):
        read_got10k_val(root)
    assert [s.name for s in read_got10k_val(root, partial=True)] == [VAL]


@pytest.mark.parametrize("image", [1, 3])
def test_a_test_sequence_with_a_gap_is_missing(root: Path, image: int) -> None:
    (root / "test" / TEST / f"{image:08d}.jpg").unlink()
    with pytest.raises(UserError, match=rf"lacks 1 of 1 sequences: {TEST} \(no {TEST}.0000000{image}\.jpg\)"):
        read_got10k_test(root)


def test_half_extracted_val(root: Path) -> None:
    (root / "val" / VAL / "00000004.jpg").unlink()
    with pytest.raises(UserError, match=rf"{VAL} \(no {VAL}.00000004\.jpg\)"):
        read_got10k_val(root)


def test_no_list(root: Path) -> None:
    (root / "val" / "list.txt").unlink()
    with pytest.raises(
        UserError, match=r"GOT-10k val: there is neither .*list\.txt nor .*list\.txt; give a folder with"
    ):
        read_got10k_val(root)


def test_mismatches(root: Path) -> None:
    (root / "val" / VAL / "cover.label").write_text("8\n8\n")
    with pytest.raises(UserError, match=r"cover\.label has 2 flags, but its sequence has 4 frames"):
        read_got10k_val(root)
    (root / "test" / TEST / "groundtruth.txt").write_text(boxes(3))
    with pytest.raises(UserError, match=r"groundtruth\.txt has 3 lines, but its sequence has 4 frames"):
        read_got10k_test(root)
