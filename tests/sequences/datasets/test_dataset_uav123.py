from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from miniatures import boxes, level, write_image, write_text

from sttrack_deploy.errors import UserError
from sttrack_deploy.sequences.datasets.base import published_table
from sttrack_deploy.sequences.datasets.uav123 import read_uav123
from sttrack_deploy.sequences.sequence import frames_of


def write_sequence(root: Path, name: str) -> None:
    row = published_table("uav123")[name]
    first, last = int(row["first"]), int(row["last"])
    write_text(root / "anno" / "UAV123" / f"{name}.txt", boxes(last - first + 1, first))
    for number in (first, last):
        write_image(root / "data_seq" / "UAV123" / row["folder"] / f"{number:06d}.jpg", number % 256)


def test_ranges_of_one_folder(tmp_path: Path) -> None:
    # car1_1 is 1..751, car1_2 is 751..1627: the image they share is in both.
    for name in ("car1_1", "car1_2"):
        write_sequence(tmp_path, name)
    first, second = read_uav123(tmp_path, partial=True)
    assert first.source == second.source
    assert (first.name, len(first), second.name, len(second)) == ("car1_1", 751, "car1_2", 877)
    assert first.truth[-1, 0] == second.truth[0, 0] == 751
    assert level(next(iter(frames_of(first)))) == 1
    assert level(next(iter(frames_of(second)))) == 751 % 256
    assert second.attributes == ("SV", "ARC", "LR", "FOC", "POC", "VC", "CM", "SOB")
    assert (second.dataset, second.absent, second.occluded) == ("uav123", None, None)


def test_nan_where_out_of_view(tmp_path: Path) -> None:
    write_sequence(tmp_path, "uav6")
    path = tmp_path / "anno" / "UAV123" / "uav6.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "NaN,NaN,NaN,NaN", *lines[2:]]))
    (sequence,) = read_uav123(tmp_path, partial=True)
    assert np.flatnonzero(np.isnan(sequence.truth).all(axis=1)).tolist() == [1]


def test_all(tmp_path: Path) -> None:
    for name in published_table("uav123"):
        row = published_table("uav123")[name]
        first, last = int(row["first"]), int(row["last"])
        write_text(tmp_path / "anno" / "UAV123" / f"{name}.txt", "1,2,3,4\n" * (last - first + 1))
        for number in (first, last):
            write_text(tmp_path / "data_seq" / "UAV123" / row["folder"] / f"{number:06d}.jpg", "")
    sequences = read_uav123(tmp_path)
    assert len(sequences) == 123
    assert sum(map(len, sequences)) == 112578


def test_missing_and_mismatched(tmp_path: Path) -> None:
    write_sequence(tmp_path, "bike2")
    with pytest.raises(
        UserError, match=r"UAV123 at .* lacks 122 of 123 sequences: bike1 \(no anno.UAV123.bike1\.txt\)"
    ):
        read_uav123(tmp_path)
    (tmp_path / "anno" / "UAV123" / "bike2.txt").write_text(boxes(552))
    with pytest.raises(UserError, match=r"bike2\.txt has 552 lines, but its sequence has 553 frames"):
        read_uav123(tmp_path, partial=True)
