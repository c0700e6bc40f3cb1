from __future__ import annotations

from pathlib import Path

import pytest
from miniatures import boxes, level, write_image, write_text

from sttrack_deploy.errors import UserError
from sttrack_deploy.sequences.datasets.tnl2k import read_tnl2k
from sttrack_deploy.sequences.sequence import frames_of

NAMINGS = {
    "CartoonHuLuWa_video_04-Done": "%08d.png",
    "INF_womanpink": "img (%d).jpg",
    "advSamp_Baseball_game_002-Done": "%05d.jpg",
}


@pytest.mark.parametrize("folder", ["", "test"])
def test_any_image_naming(tmp_path: Path, folder: str) -> None:
    for name, pattern in NAMINGS.items():
        for number in range(8, 12):
            write_image(tmp_path / folder / name / "imgs" / (pattern % number), number)
        write_text(tmp_path / folder / name / "groundtruth.txt", boxes(4))
        write_text(tmp_path / folder / name / "language.txt", "the pink one\n")
    write_text(tmp_path / folder / "readme.txt", "")
    (tmp_path / folder / "notes").mkdir()
    sequences = read_tnl2k(tmp_path)
    assert [s.name for s in sequences] == sorted(NAMINGS)
    assert {s.dataset for s in sequences} == {"tnl2k"}
    for sequence in sequences:
        assert [level(frame) for frame in frames_of(sequence)] == [8, 9, 10, 11]


def test_half_extracted(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "imgs" / "1.jpg")
    write_text(tmp_path / "a" / "groundtruth.txt", boxes(1))
    write_image(tmp_path / "b" / "imgs" / "1.jpg")
    write_text(tmp_path / "c" / "groundtruth.txt", boxes(1))
    with pytest.raises(
        UserError, match=r"lacks 2 of 3 sequences: b \(no b.groundtruth\.txt\), c \(no c.imgs\); extract"
    ):
        read_tnl2k(tmp_path)
    assert [s.name for s in read_tnl2k(tmp_path, partial=True)] == ["a"]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"TNL2K test at .* holds no sequence; it must be a folder with <sequence>/"
    ):
        read_tnl2k(tmp_path)
