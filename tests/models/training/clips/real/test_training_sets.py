"""COCO's objects as tracks of one frame."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from published_sets import coco

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.training.clips.real.training_sets import coco_tracks


def test_crowds_and_tiny_boxes_are_left_out(tmp_path: Path) -> None:
    coco(tmp_path)
    cache = tmp_path / "cache"
    for _ in range(2):
        tracks = coco_tracks(tmp_path, cache=cache)
        assert len(tracks) == 4
        assert tracks.still
        assert tracks.boxes(1).tolist() == [[30, 30, 40, 36]]
        assert tracks.read(1, 0).shape == (120, 160, 3)
    assert len(coco_tracks(tmp_path, min_side=1, cache=cache)) == 8
    with pytest.raises(UserError, match="no object with a box of 60 pixels"):
        coco_tracks(tmp_path, min_side=60)


def test_images_may_lie_as_they_are_unpacked(tmp_path: Path) -> None:
    coco(tmp_path)
    (tmp_path / "images" / "train2017").rename(tmp_path / "train2017")
    assert len(coco_tracks(tmp_path)) == 4


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lacks annotations.instances_train2017\.json"):
        coco_tracks(tmp_path)
    coco(tmp_path)
    (tmp_path / "images" / "train2017" / "000000000002.jpg").unlink()
    with pytest.raises(UserError, match=r"lacks 1 images of images.train2017/: 000000000002\.jpg; .*partial"):
        coco_tracks(tmp_path)
    told: list[str] = []
    assert len(coco_tracks(tmp_path, partial=True, notice=told.append)) == 3
    assert "left out" in told[0]
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(UserError, match=r"lacks images/train2017/ \(or train2017/\)"):
        coco_tracks(tmp_path)
    (tmp_path / "images" / "train2017").mkdir(parents=True)
    for text in ("{", '{"images": [], "annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4]}]}', "[]"):
        (tmp_path / "annotations" / "instances_train2017.json").write_text(text)
        with pytest.raises(UserError, match="not a file of COCO's annotations"):
            coco_tracks(tmp_path)
