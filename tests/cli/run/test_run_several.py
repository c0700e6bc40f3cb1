"""``sttrack-run`` with several targets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from blobs import frame, read_video, truth, write_bundle, write_video
from click.testing import Result

from sttrack_deploy.errors import UsageError
from sttrack_deploy.geometry import iou
from sttrack_deploy.runtime import display

Run = Callable[..., Result]
STILL = (110.0, 60.0, 24.0, 24.0)
BOX, OTHER = (",".join(f"{value:g}" for value in box) for box in (truth(0), STILL))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images with a moving square and one that stands still and is gone from frame 6 on."""
    images = tmp_path / "images"
    images.mkdir()
    for index in range(12):
        image = frame(truth(index), seed=index)
        if index < 6:
            x, y, w, h = (int(v) for v in STILL)
            image[y : y + h, x : x + w] = (30, 30, 230)
        assert cv2.imwrite(str(images / f"{index:02}.png"), image)
    return images


def test_two_targets(run: Run, folder: Path) -> None:
    arguments = ("--init-box", BOX, "--init-box", OTHER, "--boxes", "b.txt", "--json", "r.jsonl")
    result = run(folder, *arguments, "--out", "v.mp4")
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in Path().iterdir()) == ["b_1.txt", "b_2.txt", "r.jsonl", "v.mp4"]
    first, second = (np.loadtxt(f"b_{number}.txt", delimiter=",") for number in (1, 2))
    assert min(iou(box, truth(index)) for index, box in enumerate(first)) > 0.75
    assert min(iou(box, STILL) for box in second[:6]) > 0.75
    records = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert [(record["frame"], record["id"]) for record in records] == [
        (index, number) for index in range(12) for number in (1, 2)
    ]
    assert records[1] == {
        "version": 1, "frame": 0, "time": 0.0, "id": 2, "box": list(STILL), "confidence": 1.0, "lost": False
    }  # fmt: skip
    assert [record["lost"] for record in records[::2]] == [False] * 12
    assert [record["lost"] for record in records[1::2]] == [False] * 6 + [True] * 6
    assert "tracked 12 frames of 2 targets" in result.stderr
    assert "lost on 0 (target 1), 6 (target 2)" in result.stderr
    assert result.stderr.count("takes 1 target(s) a call, 2 targets take 2 calls a frame") == 1
    video = read_video(Path("v.mp4"))
    assert len(video) == 12
    assert np.abs(video[3].astype(int) - frame(truth(3), seed=3)).max() > 100


def test_a_dynamic_bundle_needs_no_note(run: Run, folder: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle", batch="dynamic")
    result = run(folder, "--init-box", BOX, "--no-video")
    assert result.exit_code == 0, result.output
    assert "a call" not in result.stderr


def test_names_that_clash(run: Run, folder: Path) -> None:
    result = run(folder, "--init-box", BOX, "--init-box", OTHER, "--boxes", "b.txt", "--json", "b_2.txt")
    assert result.exit_code == 2
    assert "is named twice" in result.stderr
    assert run(folder, "--init-box", BOX, "--select").exit_code == 2
    wrong = run(folder, "--init-box", BOX, "--init-box", "900,900,5,5", "--no-video")
    assert wrong.exit_code == 2
    assert "900,900,5,5" in wrong.stderr
    assert list(Path().iterdir()) == []


def test_two_are_drawn_and_drawn_again(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = iter([display.Key.NONE, display.Key.SELECT, display.Key.SELECT, display.Key.QUIT])
    # The second SELECT is cancelled at its second box: the tracks go on.
    drawn = iter([truth(0), STILL, truth(1), STILL, truth(2)])
    seen: list[np.ndarray] = []

    def select(_: display.Window, image: np.ndarray) -> tuple[float, float, float, float]:
        seen.append(image.copy())
        box = next(drawn, None)
        if box is None:
            raise UsageError("no box was drawn")
        return box

    monkeypatch.setattr(display, "require_display", lambda: None)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)
    monkeypatch.setattr(display.Window, "show", lambda *_: next(keys))
    monkeypatch.setattr(display.Window, "select", select)
    video = write_video(tmp_path / "clip.avi")
    result = run(video, "--select", "--select", "--show", "--boxes", "b.txt", "--no-video")
    assert result.exit_code == 0, result.output
    assert len(np.loadtxt("b_1.txt", delimiter=",")) == len(np.loadtxt("b_2.txt", delimiter=",")) == 4
    assert len(seen) == 6
    assert not np.array_equal(seen[0], seen[1])  # the first box is shown while the second is drawn
    assert "--init-box 20,30,24,24 --init-box 110,60,24,24" in result.stderr
