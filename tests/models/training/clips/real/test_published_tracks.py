"""LaSOT, GOT-10k and TrackingNet as training reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from published_sets import FRAMES, box_at, got10k, lasot, painted, trackingnet

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.training.clips.real import published_tracks
from sttrack_deploy.models.training.clips.real.published_tracks import (
    got10k_numbers,
    got10k_tracks,
    lasot_tracks,
    lasot_training_names,
    trackingnet_tracks,
)
from sttrack_deploy.models.training.clips.real.track_bank import (
    HIDDEN,
    UNUSABLE,
    VISIBLE,
    UnreadableImageError,
)
from sttrack_deploy.sequences.datasets.base import published_table


def few_lasot(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(published_tracks, "lasot_training_names", lambda: list(names))


def test_lasot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_lasot(monkeypatch, "bear-1", "car-2")
    lasot(tmp_path, "bear-1", hidden=(5, 6))
    lasot(tmp_path, "car-2", with_class=False)
    lasot(tmp_path, "bear-2")  # a test sequence
    tracks = lasot_tracks(tmp_path)
    assert len(tracks) == 2
    assert tracks.label(0) == "bear/bear-1/img"
    assert tracks.states(0).tolist() == [HIDDEN if f in (5, 6) else VISIBLE for f in range(FRAMES)]
    assert tracks.boxes(1)[7].tolist() == list(box_at(7))
    assert tracks.hidden.tolist() == [2, 0]
    assert tracks.visible.tolist() == [FRAMES - 2, FRAMES]
    found = painted(tracks.read(1, 7)[..., ::-1])
    assert found is not None
    assert found[0][:2].tolist() == list(box_at(7)[:2])


def test_all_of_lasot_is_wanted(tmp_path: Path) -> None:
    lasot(tmp_path, "bear-1")
    with pytest.raises(UserError, match=r"lacks 1119 of 1120 .*airplane-2 \(no airplane/airplane-2/ground"):
        lasot_tracks(tmp_path)
    told: list[str] = []
    assert len(lasot_tracks(tmp_path, partial=True, notice=told.append)) == 1
    assert "left out" in told[0]
    with pytest.raises(UserError, match="all 1120 sequences are missing"):
        lasot_tracks(tmp_path / "nowhere", partial=True)


def test_got10k_splits_follow_the_numbers(tmp_path: Path) -> None:
    got10k(tmp_path, (1, 2, 4, 5), hidden=(3, 8, 9, 20))
    tracks = got10k_tracks(tmp_path)
    assert [tracks.label(i)[-1] for i in range(len(tracks))] == ["1", "4"]
    assert tracks.hidden.tolist() == [4, 4]
    assert tracks.states(0)[[3, 8, 9, 20]].tolist() == [HIDDEN] * 4
    assert len(got10k_tracks(tmp_path / "train", "votval")) == 1
    assert len(got10k_tracks(tmp_path, "vot_allowed")) == 3
    assert tracks.read(1, 0).shape == (120, 160, 3)


def test_got10k_lacking(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither .*train.list\.txt nor"):
        got10k_tracks(tmp_path)
    train = got10k(tmp_path, (1, 4))
    (train / "GOT-10k_Train_000004" / f"{FRAMES:08d}.jpg").unlink()
    with pytest.raises(
        UserError, match=r"lacks 1 of 2 sequences: .*\(no GOT-10k_Train_000004.00000024\.jpg\)"
    ):
        got10k_tracks(tmp_path)
    (train / "list.txt").write_text("GOT-10k_Val_000001\n")
    with pytest.raises(UserError, match="GOT-10k_Train_<number>, not 'GOT-10k_Val"):
        got10k_tracks(tmp_path)


def test_malformed_annotations_are_named(tmp_path: Path) -> None:
    train = got10k(tmp_path, (1, 4))
    folder = train / "GOT-10k_Train_000001"
    whole = (folder / "groundtruth.txt").read_text()
    for text, message in (
        (whole.replace(",", ";", 1), r"groundtruth.txt, line 1 has"),
        (whole + "1,2,3,4\n", r"absence.label has 24 flags, but its sequence has 25"),
        ("", "groundtruth.txt is empty"),
    ):
        (folder / "groundtruth.txt").write_text(text)
        with pytest.raises(UserError, match=message):
            got10k_tracks(tmp_path)
    assert len(got10k_tracks(tmp_path, partial=True, notice=lambda _: None)) == 1


def test_quirks_of_texts(tmp_path: Path) -> None:
    """Other delimiters, lines with NaN, boxes without an area."""
    train = got10k(tmp_path, (1,))
    path = train / "GOT-10k_Train_000001" / "groundtruth.txt"
    lines = path.read_text().splitlines()
    lines[1], lines[2], lines[3] = "nan,nan,nan,nan", "5,5,0,7", lines[3].replace(",", "\t")
    path.write_text("\n".join(lines))
    tracks = got10k_tracks(tmp_path)
    assert tracks.states(0)[:4].tolist() == [VISIBLE, UNUSABLE, UNUSABLE, VISIBLE]
    assert tracks.boxes(0)[3].tolist() == list(box_at(3))
    assert np.isfinite(tracks.boxes(0)).all()


def test_trackingnet_parts(tmp_path: Path) -> None:
    trackingnet(tmp_path, 0, "same_0")
    trackingnet(tmp_path, 3, "same_0", frames=20)
    trackingnet(tmp_path, 3, "b_1")
    tracks = trackingnet_tracks(tmp_path, (3, 0))
    assert [tracks.label(i) for i in range(3)] == [
        "TRAIN_0/frames/same_0", "TRAIN_3/frames/b_1", "TRAIN_3/frames/same_0",
    ]  # fmt: skip
    assert tracks.visible.tolist() == [FRAMES, FRAMES, 20]
    assert len(trackingnet_tracks(tmp_path / "TRAIN_3")) == 2
    with pytest.raises(UserError, match=r"lacks TRAIN_1/anno; .*trackingnet_parts"):
        trackingnet_tracks(tmp_path, (0, 1))
    told: list[str] = []
    assert len(trackingnet_tracks(tmp_path, (0, 1), partial=True, notice=told.append)) == 1
    assert "without TRAIN_1" in told[0]


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    trackingnet(tmp_path, 0, "a")
    tracks = trackingnet_tracks(tmp_path, (0,))
    path = tmp_path / "TRAIN_0" / "frames" / "a" / "4.jpg"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UnreadableImageError, match=r"a.4\.jpg: it is damaged"):
        tracks.read(0, 4)
    path.unlink()
    with pytest.raises(UnreadableImageError, match=r"a.4\.jpg: there is no such file"):
        tracks.read(0, 4)


def test_lasot_trains_on_what_is_not_tested() -> None:
    names = lasot_training_names()
    assert len(set(names)) == 1120
    assert not set(names) & set(published_table("lasot"))
    # The published list begins and ends with these classes, and has 16 of each.
    assert "airplane-10" in names
    assert "zebra-9" in names
    assert sum(name.startswith("bear-") for name in names) == 16


def test_got10k_lists_are_as_long_as_published() -> None:
    sizes = {"train": 7934, "val": 1401, "vottrain": 7086, "votval": 1249, "all": 9335, "vot_allowed": 8335}
    assert {split: len(got10k_numbers(split)) for split in sizes} == sizes
    assert not got10k_numbers("vottrain") & got10k_numbers("votval")
    assert got10k_numbers("train") | got10k_numbers("val") == got10k_numbers("all")


def test_got10k_lists_as_published_count_from_zero() -> None:
    # The published files have the lines 3784, 8998, 1631 (train) and 1349, 5878 (validation), but not 4.
    assert {3785, 8999, 1632} <= got10k_numbers("vottrain")
    assert {1350, 5879} <= got10k_numbers("votval")
    assert 5 not in got10k_numbers("vottrain") | got10k_numbers("votval")
    assert 5 in got10k_numbers("train")
    # GOT-10k_Train_000004 is forbidden.
    assert 4 in got10k_numbers("vottrain")
    assert 4 not in got10k_numbers("vot_allowed")


def test_unknown_split() -> None:
    with pytest.raises(UserError, match=r"vottrain, .* not 'test'"):
        got10k_numbers("test")
