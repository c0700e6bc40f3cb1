from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from miniatures import boxes, level, write_images, write_text

from sttrack_deploy.errors import UserError
from sttrack_deploy.sequences.datasets.base import published_table
from sttrack_deploy.sequences.datasets.otb100 import read_otb100
from sttrack_deploy.sequences.sequence import VideoSequence, frames_of


def only(root: Path) -> tuple[VideoSequence, float]:
    """The one sequence there; its first frame's gray level with it."""
    (sequence,) = read_otb100(root, partial=True)
    return sequence, level(next(iter(frames_of(sequence))))


@pytest.mark.parametrize("delimiter", [",", "\t", " ", ", "])
def test_delimiters(tmp_path: Path, delimiter: str) -> None:
    write_text(tmp_path / "Deer" / "groundtruth_rect.txt", boxes(71, delimiter=delimiter))
    write_images(tmp_path / "Deer" / "img", "%04d.jpg", range(1, 72))
    sequence, _ = only(tmp_path)
    np.testing.assert_array_equal(sequence.truth[[0, 70]], [[1, 2, 3, 4], [71, 2, 3, 4]])
    assert [level(frame) for frame in frames_of(sequence)] == list(range(1, 72))
    assert sequence.attributes == ("MB", "FM", "IPR", "BC", "LR")
    assert sequence.dataset == "otb100"


@pytest.mark.parametrize(
    ("name", "first", "lines", "images"),
    [
        ("David", 300, 471, (1, 300, 770)),
        ("BlurCar1", 247, 742, (1, 247, 988)),
        ("BlurCar3", 3, 357, (1, 3, 359)),
        ("BlurCar4", 18, 380, (18, 397)),
        ("Football1", 1, 74, (1, 74, 79)),
        ("Freeman3", 1, 460, (1, 460, 480)),
        ("Freeman4", 1, 283, (1, 283, 297)),
        ("Diving", 1, 215, (1, 215, 231)),
    ],
)
def test_late_starts_and_early_ends(
    tmp_path: Path, name: str, first: int, lines: int, images: tuple[int, int, int] | tuple[int, int]
) -> None:
    write_text(tmp_path / name / "groundtruth_rect.txt", boxes(lines))
    write_images(tmp_path / name / "img", "%04d.jpg", images)
    sequence, start = only(tmp_path)
    assert (sequence.name, len(sequence), sequence.truth[0, 0]) == (name, lines, 1)
    assert start == first % 256


def test_tiger1_without_its_first_five_frames(tmp_path: Path) -> None:
    write_text(tmp_path / "Tiger1" / "groundtruth_rect.txt", boxes(354))
    write_images(tmp_path / "Tiger1" / "img", "%04d.jpg", (1, 6, 354))
    sequence, start = only(tmp_path)
    assert (len(sequence), sequence.truth[0, 0], start) == (349, 6, 6)


def test_board_has_five_digits(tmp_path: Path) -> None:
    write_text(tmp_path / "Board" / "groundtruth_rect.txt", boxes(698))
    write_images(tmp_path / "Board" / "img", "%05d.jpg", (1, 698))
    assert only(tmp_path)[1] == 1


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_kitesurf_in_either_format(tmp_path: Path, suffix: str) -> None:
    write_text(tmp_path / "KiteSurf" / "groundtruth_rect.txt", boxes(84))
    write_images(tmp_path / "KiteSurf" / "img", f"%04d.{suffix}", (1, 84))
    assert only(tmp_path)[1] == 1


def test_two_targets(tmp_path: Path) -> None:
    write_images(tmp_path / "Jogging" / "img", "%04d.jpg", (1, 307))
    write_images(tmp_path / "Human4" / "img", "%04d.jpg", (1, 667))
    write_text(tmp_path / "Jogging" / "groundtruth_rect.1.txt", boxes(307))
    write_text(tmp_path / "Jogging" / "groundtruth_rect.2.txt", boxes(307, first=1000))
    write_text(tmp_path / "Human4" / "groundtruth_rect.1.txt", "")  # empty as published
    write_text(tmp_path / "Human4" / "groundtruth_rect.2.txt", boxes(667))
    sequences = read_otb100(tmp_path, partial=True)
    assert [(s.name, s.truth[0, 0]) for s in sequences] == [
        ("Human4-2", 1),
        ("Jogging-1", 1),
        ("Jogging-2", 1000),
    ]


def test_all_hundred(tmp_path: Path) -> None:
    for row in published_table("otb100").values():
        lines = int(row["last"]) - int(row["first"]) + 1
        write_text(tmp_path / row["folder"] / row["annotation"], "1 2 3 4\n" * lines)
        for number in (int(row["first"]) + int(row["skip"]), int(row["last"])):
            write_text(tmp_path / row["folder"] / "img" / (row["pattern"] % number), "")
    sequences = read_otb100(tmp_path)
    assert len({s.name for s in sequences}) == 100
    assert sum(map(len, sequences)) == 59035


def test_missing_and_mismatched(tmp_path: Path) -> None:
    write_text(tmp_path / "Deer" / "groundtruth_rect.txt", boxes(70))
    with pytest.raises(
        UserError, match=r"Deer.groundtruth_rect\.txt has 70 lines, but its sequence has 71 frames"
    ):
        read_otb100(tmp_path)
    write_text(tmp_path / "Deer" / "groundtruth_rect.txt", boxes(71))
    with pytest.raises(
        UserError, match=r"OTB-100 at .* lacks 100 of 100 sequences: Basketball \(no Basketball."
    ):
        read_otb100(tmp_path)
