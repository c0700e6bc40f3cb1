from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from miniatures import boxes, level, write_images, write_text

from sttrack_deploy.errors import UserError
from sttrack_deploy.sequences.datasets.trackingnet import read_trackingnet, read_trackingnet_train
from sttrack_deploy.sequences.sequence import frames_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in ("TEST", *(f"TRAIN_{n}" for n in range(12))):
        frames = 12 if split == "TEST" else 3
        write_images(tmp_path / split / "frames" / f"{split}_a", "%d.jpg", range(frames))
        write_text(
            tmp_path / split / "anno" / f"{split}_a.txt", "1.5,2,3,4\n" if split == "TEST" else boxes(3)
        )
    return tmp_path


def test_test_has_the_first_box_only_and_counts_from_0(root: Path) -> None:
    (sequence,) = read_trackingnet(root)
    assert (sequence.name, sequence.dataset, sequence.scorable) == ("TEST_a", "trackingnet", False)
    np.testing.assert_array_equal(sequence.truth[0], [1.5, 2, 3, 4])
    assert np.isnan(sequence.truth[1:]).all()
    assert [level(frame) for frame in frames_of(sequence)] == list(range(12))


def test_train_is_all_twelve_splits(root: Path) -> None:
    sequences = read_trackingnet_train(root)
    assert [s.name for s in sequences] == [f"TRAIN_{n}_a" for n in range(12)]
    assert {(s.dataset, s.scorable, len(s)) for s in sequences} == {("trackingnet_train", True, 3)}
    assert [level(frame) for frame in frames_of(sequences[0])] == [0, 1, 2]


def test_one_split_alone(root: Path) -> None:
    assert [s.name for s in read_trackingnet_train(root / "TRAIN_3")] == ["TRAIN_3_a"]
    assert [s.name for s in read_trackingnet(root / "TEST")] == ["TEST_a"]


def test_missing_splits(root: Path) -> None:
    for split in ("TRAIN_1", "TRAIN_10"):
        shutil.rmtree(root / split)
    with pytest.raises(
        UserError, match=r"TrackingNet train at .* lacks TRAIN_1/anno, TRAIN_10/anno; it must be"
    ):
        read_trackingnet_train(root)
    assert len(read_trackingnet_train(root, partial=True)) == 10
    shutil.rmtree(root / "TEST")
    with pytest.raises(
        UserError, match=r"TrackingNet test at .* lacks TEST/anno; it must be a folder with TEST/"
    ):
        read_trackingnet(root, partial=True)


def test_missing_frames(root: Path) -> None:
    write_text(root / "TEST" / "anno" / "TEST_b.txt", "1,2,3,4\n")
    (root / "TRAIN_0" / "frames" / "TRAIN_0_a" / "2.jpg").unlink()
    with pytest.raises(UserError, match=r"lacks 1 of 2 sequences: TEST_b \(no TEST.frames.TEST_b\)"):
        read_trackingnet(root)
    with pytest.raises(
        UserError, match=r"lacks 1 of 12 sequences: TRAIN_0_a \(no TRAIN_0.frames.TRAIN_0_a.2\.jpg\)"
    ):
        read_trackingnet_train(root)
    assert [s.name for s in read_trackingnet(root, partial=True)] == ["TEST_a"]


def test_an_empty_folder_of_annotations(root: Path) -> None:
    (root / "TEST" / "anno" / "TEST_a.txt").unlink()
    with pytest.raises(UserError, match=r"TrackingNet test at .* holds no sequence"):
        read_trackingnet(root)
