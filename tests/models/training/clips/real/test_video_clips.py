"""Annotated videos, and clips cut from them."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import pytest
import torch

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.training.clips.real.track_source import TrackSource
from sttrack_deploy.models.training.clips.real.video_clips import MemoryTracks, Track, load_tracks
from sttrack_deploy.models.training.recipe import AugmentationRecipe, DataRecipe

SHARP = DataRecipe(augmentation=AugmentationRecipe("none"))


def load(folder: Path, split: str = "train") -> list[Track]:
    return load_tracks([folder], split, held_out=("two",), excluded=())  # type: ignore[arg-type]


def clips_of(folder: Path, recipe: DataRecipe | None = None) -> TrackSource:
    return TrackSource(MemoryTracks(load(folder)), recipe=recipe)


def test_splits_and_lost_frames(video_folder: Path) -> None:
    train, val = load(video_folder), load(video_folder, "val")
    assert [t.name for t in train] == ["one"]
    assert [t.name for t in val] == ["two"]
    assert len(train[0].frames) == 22
    assert 5 not in train[0].number


def test_boxes_are_where_the_target_is(video_folder: Path) -> None:
    source = clips_of(video_folder, SHARP)
    clip = source.sample(16, 3, torch.Generator().manual_seed(0))
    assert clip.search.shape == (16, 3, 192, 192, 3)
    assert clip.search_mask.shape == (16, 3, 12, 12)
    seen = 0
    for i, j in clip.present.nonzero().tolist():
        box = clip.box[i, j] * 192
        if box.min() < 4 or box.max() > 188:
            continue
        pixels = clip.search[i, j].float()
        ys, xs = torch.nonzero(pixels[..., 0] - pixels[..., 1] > 100).unbind(-1)
        found = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        assert (found - box).abs().max() < 4  # two pixels of the coded video
        seen += 1
    assert seen > 20
    # Templates are centered on the target, in every orientation (clips are mirrored at random).
    pixels = clip.template.float()
    target = pixels[..., 0] - pixels[..., 1] > 100
    assert target[:, 40:56, 40:56].float().mean() > 0.95
    assert 0.15 < target.float().mean() < 0.35


def test_same_seed_same_clips(video_folder: Path) -> None:
    source = clips_of(video_folder)
    one, two = (source.sample(3, 2, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(one.search, two.search)
    assert torch.equal(one.box, two.box)


def test_masked_cells_are_black(video_folder: Path) -> None:
    clip = clips_of(video_folder).sample(16, 3, torch.Generator().manual_seed(1))
    assert clip.search_mask.any()
    assert (clip.search[:, :, ::16, ::16][clip.search_mask].float().mean()) < 2


def test_many_frames_of_a_short_video(video_folder: Path) -> None:
    assert clips_of(video_folder).sample(2, 40, torch.Generator()).search.shape[1] == 40


def test_a_folder_of_images_is_a_video(video_folder: Path, tmp_path: Path) -> None:
    capture = cv2.VideoCapture(str(video_folder / "one.mp4"))
    (tmp_path / "one").mkdir()
    for number in range(24):
        assert cv2.imwrite(str(tmp_path / "one" / f"{number}.png"), capture.read()[1])
    shutil.copy(video_folder / "one.txt", tmp_path)
    (track,), (decoded,) = load(tmp_path), load(video_folder)
    assert track.number == decoded.number
    first, same = (MemoryTracks([one]).read(0, 3) for one in (track, decoded))
    assert cv2.absdiff(first, same).mean() < 3
    (tmp_path / "one" / "9.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"one.9\.png: it is damaged"):
        load(tmp_path)


def test_without_the_named_tracks_a_tenth_is_held_out(video_folder: Path, tmp_path: Path) -> None:
    for number in range(5):
        for suffix in (".mp4", ".txt"):
            shutil.copy(video_folder / f"one{suffix}", tmp_path / f"v{number}{suffix}")
    shutil.copy(video_folder / "one.txt", tmp_path / "v0__track1.txt")
    train, val = ({t.name for t in load_tracks([tmp_path], split)} for split in ("train", "val"))
    assert not train & val
    assert len(train | val) == 6
    assert len({name.split("__")[0] for name in val}) == 1
    alone = tmp_path / "alone"
    alone.mkdir()
    for suffix in (".mp4", ".txt"):
        shutil.copy(video_folder / f"one{suffix}", alone)
    assert len(load_tracks([alone])) == 1
    with pytest.raises(UserError, match="has one annotated video; training needs two"):
        load_tracks([alone], "val")


def test_annotations_as_other_programs_save_them(video_folder: Path, tmp_path: Path) -> None:
    """A byte order mark, line ends and tabs of Windows."""
    shutil.copy(video_folder / "one.mp4", tmp_path / "one.mp4")
    text = (video_folder / "one.txt").read_text()
    (tmp_path / "one.txt").write_bytes(
        b"\xef\xbb\xbf" + text.replace(",", "\t").replace("\n", "\r\n").encode()
    )
    (track,), (plain,) = load(tmp_path), load(video_folder)
    assert track.number == plain.number
    assert (track.boxes == plain.boxes).all()


def test_errors(video_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no annotated video"):
        load(tmp_path)
    shutil.copy(video_folder / "one.mp4", tmp_path / "one.mp4")
    (tmp_path / "one.txt").write_text("1,2,3\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"one.txt, line 1 has 3 columns instead of 4"):
        load(tmp_path)
    (tmp_path / "one.txt").write_bytes(b"\xff\xfe1")
    with pytest.raises(UserError, match=r"one.txt: it is not UTF-8 text"):
        load(tmp_path)
    (tmp_path / "one.txt").write_text("1,2,30,40\n" * 99, encoding="utf-8")
    with pytest.raises(UserError, match=r"24 frames but .* 99 lines"):
        load(tmp_path)
    (tmp_path / "one.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path)
