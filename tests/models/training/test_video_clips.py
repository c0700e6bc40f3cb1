"""Clips cut from annotated videos."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.training.video_clips import VideoSource, load_tracks


def load(folder: Path, split: str = "train") -> list[object]:
    return load_tracks([folder], split, held_out=("two",), excluded=())  # type: ignore[arg-type]


def test_splits_and_lost_frames(video_folder: Path) -> None:
    train, val = load(video_folder), load(video_folder, "val")
    assert [t.name for t in train] == ["one"]
    assert [t.name for t in val] == ["two"]
    assert len(train[0].frames) == 22
    assert 5 not in train[0].number


def test_boxes_are_where_the_target_is(video_folder: Path) -> None:
    source = VideoSource(load(video_folder), degrade=False)
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
    # Templates are centred on the target, in every orientation (clips are mirrored at random).
    pixels = clip.template.float()
    target = pixels[..., 0] - pixels[..., 1] > 100
    assert target[:, 40:56, 40:56].float().mean() > 0.95
    assert 0.15 < target.float().mean() < 0.35


def test_same_seed_same_clips(video_folder: Path) -> None:
    source = VideoSource(load(video_folder))
    one, two = (source.sample(3, 2, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(one.search, two.search)
    assert torch.equal(one.box, two.box)


def test_masked_cells_are_black(video_folder: Path) -> None:
    clip = VideoSource(load(video_folder)).sample(16, 3, torch.Generator().manual_seed(1))
    assert clip.search_mask.any()
    assert (clip.search[:, :, ::16, ::16][clip.search_mask].float().mean()) < 2


def test_many_frames_of_a_short_video(video_folder: Path) -> None:
    assert VideoSource(load(video_folder)).sample(2, 40, torch.Generator()).search.shape[1] == 40


def test_errors(video_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no annotated video"):
        load(tmp_path)
    shutil.copy(video_folder / "one.mp4", tmp_path / "one.mp4")
    (tmp_path / "one.txt").write_text("1,2,3\n", encoding="utf-8")
    with pytest.raises(UserError, match="four numbers"):
        load(tmp_path)
    (tmp_path / "one.txt").write_text("1,2,30,40\n" * 99, encoding="utf-8")
    with pytest.raises(UserError, match=r"24 frames but .* 99 lines"):
        load(tmp_path)
    (tmp_path / "one.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path)
