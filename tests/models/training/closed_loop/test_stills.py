"""Photographs of several objects as clips, and the other annotated objects of a clip."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from sttrack_deploy.errors import UserError
from sttrack_deploy.geometry import crop_window
from sttrack_deploy.models.training.clips.real.video_clips import Track
from sttrack_deploy.models.training.closed_loop import clip_groups, following
from sttrack_deploy.models.training.closed_loop.clip_groups import VideoGroup
from sttrack_deploy.models.training.closed_loop.run import load_material
from sttrack_deploy.models.training.closed_loop.stills import StillGroup, read_stills

RED, BLUE = (0, 0, 220), (220, 0, 0)
LINE = "path,set,width,height,boxes,mask\n"


def picture(red: tuple[int, int], blue: tuple[int, int]) -> np.ndarray:
    """Two squares of 24 pixels on gray ground."""
    image = np.full((160, 200, 3), 110, np.uint8)
    for (x, y), color in ((red, RED), (blue, BLUE)):
        cv2.rectangle(image, (x, y), (x + 23, y + 23), color, -1)
    return image


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    cv2.imwrite(str(tmp_path / "two.png"), picture((60, 60), (120, 80)))
    cv2.imwrite(str(tmp_path / "one.png"), picture((60, 60), (120, 80)))
    boxes = "60 60 24 24;120 80 24 24"
    tiny = "60 60 24 24;120 80 24 3"
    text = f"two.png,a,200,160,{boxes},\none.png,a,200,160,60 60 24 24,\none.png,a,200,160,{tiny},\n"
    (tmp_path / "index.csv").write_text(LINE + text)
    return tmp_path


def color_in(pixels: np.ndarray) -> str:
    """Of the middle of an RGB crop."""
    middle = pixels[pixels.shape[0] // 2 - 2 :][:5, pixels.shape[1] // 2 - 2 :][:, :5].mean((0, 1))
    return "red" if middle[0] > 1.3 * middle[2] else "blue" if middle[2] > 1.3 * middle[0] else "neither"


def test_photographs_of_two_objects_are_found(photographs: Path) -> None:
    (still,) = read_stills(photographs)
    assert still.boxes.tolist() == [[60, 60, 24, 24], [120, 80, 24, 24]]


@pytest.mark.parametrize(
    ("boxes", "kept"),
    [
        ("60 60 24 24;60 60 24 24", 0),  # the same object twice
        ("60 60 24 24;120 80 24 24;1e12 80 24 24;-500 -500 24 24", 2),
        ("60 60 24 24;190 80 24 24", 0),  # most of it outside
        ("60 60 24 24;180 80 24 24", 2),
        ("60 60 24 24;120 80 0 24;nan nan nan nan", None),
        ("60 60 24 24;0 0 200 160", 0),  # the whole picture
    ],
)
def test_boxes_that_show_no_object_are_left_out(photographs: Path, boxes: str, kept: int | None) -> None:
    (photographs / "index.csv").write_text(LINE + f"two.png,a,200,160,{boxes},\n")
    if kept is None:
        with pytest.raises(UserError, match="is not four numbers"):
            read_stills(photographs)
        return
    found = read_stills(photographs)
    assert [len(still.boxes) for still in found] == ([kept] if kept else [])
    for still in found:
        assert (still.boxes[:, :2] >= 0).all()
        assert (still.boxes[:, :2] + still.boxes[:, 2:] <= (200, 160)).all()


def test_a_damaged_photograph_is_named(photographs: Path) -> None:
    (photographs / "two.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"two\.png, named in index\.csv, cannot be read"):
        read_stills(photographs)
    (photographs / "two.png").unlink()
    with pytest.raises(UserError, match=r"two\.png, named in index\.csv, cannot be read"):
        read_stills(photographs)


def test_target_and_rival_stay_what_they_are(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_groups, "GRAY", 0.0)
    targets = set()
    for seed in range(8):
        group = StillGroup(read_stills(photographs), np.random.default_rng(seed), 2, 5)
        assert group.boxes.shape == (2, 6, 4)
        for clip in range(2):
            start = group.look(0, [crop_window(b.tolist(), 2.0) for b in group.boxes[:, 0].astype(float)], 64)
            own = color_in(start.pixels[clip])
            other = {"red": "blue", "blue": "red"}[own]
            targets.add(own)
            for frame in range(6):
                for boxes, color in ((group.boxes, own), (group.rivals[clip][:1].repeat(2, 0), other)):
                    shown = np.nan_to_num(boxes[:, frame].astype(float), nan=20.0)
                    windows = [crop_window(b.tolist(), 2.0) for b in shown]
                    inside = 0 < windows[clip].x1 + windows[clip].side / 2 < 200
                    if np.isfinite(boxes[:, frame]).all() and inside and group.visible[clip, frame]:
                        assert color_in(group.look(frame, windows, 64).pixels[clip]) == color
    assert targets == {"red", "blue"}


@pytest.mark.parametrize("mirrored", [0.0, 1.0])
def test_the_other_tracks_of_a_video_are_known(monkeypatch: pytest.MonkeyPatch, mirrored: float) -> None:
    for name, value in (("GRAY", 0.0), ("COPIED", 0.0), ("COVERED", 0.0), ("MIRRORED", mirrored)):
        monkeypatch.setattr(clip_groups, name, value)
    places = [((20 + 3 * i, 60), (150 - 3 * i, 100)) for i in range(20)]
    frames = tuple(np.asarray(cv2.imencode(".png", picture(*p))[1], np.uint8) for p in places)

    def track(name: str, which: int, kept: range) -> Track:
        boxes = np.array([(*places[i][which], 24, 24) for i in kept], np.float64)
        return Track(name, tuple(frames[i] for i in kept), tuple(kept), boxes)

    tracks = [
        track("v__track1", 0, range(20)),
        track("v__track2", 1, range(0, 20, 3)),
        track("w", 1, range(20)),
    ]
    group = VideoGroup(tracks, np.array([1.0, 0.0, 0.0]), np.random.default_rng(4), 1, 6)
    (rivals,) = group.rivals
    assert rivals.shape == (1, 7, 4)  # not the one of another video
    known = np.isfinite(rivals[0]).all(1)
    assert known.any()
    assert not known.all()  # where the other track has no box
    for frame in np.flatnonzero(known):
        window = crop_window(rivals[0, frame].tolist(), 2.0)
        assert color_in(group.look(int(frame), [window], 64).pixels[0]) == "blue"


def test_a_rival_is_known_apart_and_mostly_near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "ANNOTATED", 1.0)
    truth = np.array([50.0, 50, 20, 20])
    boxes = np.array([[52.0, 50, 20, 20], [np.nan] * 4, [75, 50, 20, 20], [300, 50, 20, 20], [80, 80, 2, 2]])
    found = [following._rival(boxes, truth, np.random.default_rng(seed)) for seed in range(60)]
    near = [box is not None and abs(box[0] - 75) < 20 for box in found]
    far = [box is not None and abs(box[0] - 300) < 20 for box in found]
    assert all(n or f for n, f in zip(near, far, strict=True))
    assert sum(near) > sum(far) > 0
    assert following._rival(boxes[:2], truth, np.random.default_rng(0)) is None
    monkeypatch.setattr(following, "ANNOTATED", 0.0)
    assert following._rival(boxes, truth, np.random.default_rng(0)) is None


def test_stills_that_are_not_there_are_told(photographs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in "ab":
        writer = cv2.VideoWriter(str(folder / f"{name}.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (200, 160))
        for i in range(12):
            writer.write(picture((20 + i, 60), (120, 80)))
        writer.release()
        (folder / f"{name}.txt").write_text("".join(f"{20 + i},60,24,24\n" for i in range(12)))
    made = load_material(photographs, [folder], tmp_path / "bank.npz", stills=True)
    assert len(made.stills) == 1
    assert not load_material(photographs, [folder], tmp_path / "bank.npz").stills
    (photographs / "index.csv").write_text(LINE + "one.png,a,200,160,60 60 24 24,\n")
    with pytest.raises(UserError, match="shows two objects apart: leave stills out of the recipe"):
        load_material(photographs, [folder], tmp_path / "bank.npz", stills=True)
