"""Closed-loop training on a tiny network and on clips made here."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
import torch

from sttrack_deploy.errors import UserError
from sttrack_deploy.geometry import CropWindow, crop_window, iou
from sttrack_deploy.models.config import preset
from sttrack_deploy.models.dense_network import DenseStep, DenseSTTrack
from sttrack_deploy.models.training import losses
from sttrack_deploy.models.training.clips.real.video_clips import Track
from sttrack_deploy.models.training.closed_loop import clip_groups, following
from sttrack_deploy.models.training.closed_loop.clip_groups import VideoGroup
from sttrack_deploy.models.training.closed_loop.run import frozen_part, read_closed_loop
from sttrack_deploy.models.training.closed_loop.stills import Still
from sttrack_deploy.models.training.closed_loop.training import CHECKPOINT, ClosedLoopRecipe, Material, train

CONFIG = dataclasses.replace(
    preset("sttrack-nano"), search_size=96, hidden_dim=16, heads=2, memory_heads=2, feedforward_dim=16
)
RECIPE = ClosedLoopRecipe(steps=4, clips=2, videos=1.0, frames=(3,), warmup=1)
REPOSITORY = Path(__file__).resolve().parents[4]


def track(name: str = "ball", frames: int = 30) -> Track:
    """A red square that moves over a gray ground."""
    pictures, boxes = [], []
    for index in range(frames):
        picture = np.full((120, 160, 3), 90, np.uint8)
        x, y = 20 + 2 * index, 40 + index
        cv2.rectangle(picture, (x, y), (x + 19, y + 19), (0, 0, 220), -1)
        pictures.append(np.asarray(cv2.imencode(".png", picture)[1], np.uint8))
        boxes.append((x, y, 20, 20))
    return Track(name, tuple(pictures), tuple(range(frames)), np.array(boxes, np.float64))


@pytest.fixture(scope="module")
def network() -> DenseSTTrack:
    torch.manual_seed(0)
    return DenseSTTrack(CONFIG)


@pytest.fixture(scope="module")
def material() -> Material:
    return Material([track(), track("other")], np.array([0.5, 0.5]), None)


def red_middle(pixels: np.ndarray, window: CropWindow) -> np.ndarray:
    """Where the red square is, in frame pixels; crops are RGB."""
    red = (pixels[..., 0] > 1.6 * pixels[..., 2] + 20).nonzero()
    scale = window.side / pixels.shape[0]
    return np.array([window.x1 + (red[1].mean() + 0.5) * scale, window.y1 + (red[0].mean() + 0.5) * scale])


def test_a_group_of_video_clips_shows_its_boxes_where_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_groups, "COPIED", 0.0)
    monkeypatch.setattr(clip_groups, "COVERED", 0.0)
    monkeypatch.setattr(clip_groups, "GRAY", 0.0)
    for seed in range(6):
        group = VideoGroup([track()], np.ones(1), np.random.default_rng(seed), 2, 4)
        for frame in range(5):
            windows = [crop_window(box, 4.0) for box in group.boxes[:, frame]]
            views = group.look(frame, windows, 96)
            for clip in range(2):
                box = group.boxes[clip, frame]
                found = red_middle(views.pixels[clip].astype(int), windows[clip])
                assert np.abs(found - (box[:2] + box[2:] / 2)).max() < 3


def test_a_cover_that_hides_the_target_makes_it_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_groups, "COVERED", 1.0)
    hidden = [
        not VideoGroup([track()], np.ones(1), np.random.default_rng(seed), 1, 6).visible.all()
        for seed in range(20)
    ]
    assert any(hidden)
    assert not all(hidden)
    shown = VideoGroup([track()], np.ones(1), np.random.default_rng(0), 4, 6).visible
    assert shown[:, 0].all()  # never in the template


def test_crops_follow_the_networks_own_boxes(network: DenseSTTrack, material: Material) -> None:
    asked: list[list[CropWindow]] = []

    class Watched(VideoGroup):
        def look(self, frame: int, windows, size: int):  # type: ignore[no-untyped-def]
            asked.append(list(windows))
            return super().look(frame, windows, size)

    made = Watched(material.tracks, material.weights, np.random.default_rng(1), 2, 5)
    moved = DenseSTTrack(CONFIG)
    moved.load_state_dict(network.state_dict())
    frozen = frozen_part(network, lambda _: None)
    following.follow(network, frozen, [made], np.random.default_rng(0))
    first = list(asked)
    asked.clear()
    torch.nn.init.constant_(moved.refine.bias, 0.5)  # every box half as large again
    again = Watched(material.tracks, material.weights, np.random.default_rng(1), 2, 5)
    following.follow(moved, frozen, [again], np.random.default_rng(0))
    assert first[1] == asked[1]  # the first search crop lies where the rng says
    assert first[3] != asked[3]


def test_a_target_that_left_the_crop_is_put_back_and_counts_as_away(
    network: DenseSTTrack, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_jittered", lambda box, rng, spread: box + np.array([90.0, 0, 0, 0]))
    group = VideoGroup(material.tracks, material.weights, np.random.default_rng(1), 2, 4)
    terms = following.follow(network, frozen_part(network, lambda _: None), [group], np.random.default_rng(0))
    assert terms.away > 0
    assert all(bool(torch.isfinite(t)) for t in terms[:3])


def test_misled_clips_go_on_beside_the_target_and_are_put_back(
    network: DenseSTTrack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_groups, "COPIED", 0.0)
    asked: list[CropWindow] = []

    class Watched(VideoGroup):
        def look(self, frame: int, windows, size: int):  # type: ignore[no-untyped-def]
            asked.append(windows[0])
            return super().look(frame, windows, size)

    def followed(misled: float, seed: int) -> list[CropWindow]:
        asked.clear()
        made = Watched([track()], np.ones(1), np.random.default_rng(seed), 1, 14)
        terms = following.follow(network, frozen, [made], np.random.default_rng(seed), misled)
        assert all(bool(torch.isfinite(t)) for t in terms[:3])
        return list(asked)

    frozen = frozen_part(network, lambda _: None)
    changed = []
    for seed in range(6):
        plain, misled = followed(0.0, seed), followed(1.0, seed)
        assert plain[:2] == misled[:2]  # the template, and a first crop that shows the target
        changed.append(plain != misled)
    assert sum(changed) >= 5


@pytest.mark.parametrize("seed", range(12))
def test_something_else_is_a_box_that_a_tracker_could_follow(network: DenseSTTrack, seed: int) -> None:
    rng = np.random.default_rng(seed)
    places = network.window.numel()
    low = torch.rand(1, 2, places) * 0.8
    boxes = torch.cat((low, low + 0.1), 1)
    logits = torch.randn(1, places)
    step = DenseStep(torch.zeros(1, 4), torch.zeros(1), torch.zeros(1), logits, boxes)
    box = np.array([60.0, 50.0, 20.0, 10.0])
    corners, limits = np.array([10.0, 5.0, 100.0]), np.array([160.0, 120.0])
    kind = rng.random()
    other = following._something_else(box, step, 0, corners, np.random.default_rng(seed))
    x, y, w, h = following._within(other[:2] + other[2:] / 2, other[2:], limits)
    assert min(w, h) >= following.SMALLEST
    assert 0 <= x + w / 2 <= 160
    assert 0 <= y + h / 2 <= 120
    if kind < following.RIVAL:
        found = boxes[0].double().numpy().T * 100 + [10, 5, 10, 5]
        away = [float(iou((u, v, r - u, b - v), box)) == 0 for u, v, r, b in found]
        best = found[np.argmax(np.where(away, logits[0].numpy(), -np.inf))]
        assert (x, y) == pytest.approx(best[:2])
    else:
        assert float(iou((x, y, w, h), box)) < 0.6


def test_a_box_that_lies_on_something_else_is_not_stretched_towards_the_target(
    network: DenseSTTrack, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of misled clips; others learn from every box that shares a crop with the target."""
    frozen = frozen_part(network, lambda _: None)

    def box_loss(misled: float, followed: float) -> float:
        monkeypatch.setattr(following, "FOLLOWED", followed)
        made = VideoGroup(material.tracks, material.weights, np.random.default_rng(1), 4, 8)
        return float(following.follow(network, frozen, [made], np.random.default_rng(0), misled).box)

    assert box_loss(0.0, -1.0) == box_loss(0.0, 2.0) > 0
    assert box_loss(1.0, -1.0) > box_loss(1.0, 2.0) > 0  # up to the frame after which they are misled


def test_box_loss_is_zero_for_the_same_box_and_grows_away_from_it() -> None:
    box = torch.tensor([[0.2, 0.3, 0.5, 0.6]])
    overlap, none = losses._box_loss(box, box)
    _, near = losses._box_loss(box + 0.05, box)
    _, far = losses._box_loss(box + 0.3, box)
    assert float(overlap) == pytest.approx(1.0)
    assert float(none) == pytest.approx(0.0, abs=1e-5)
    assert 0 < float(near) < float(far)
    theirs = iou((0.25, 0.35, 0.3, 0.3), (0.2, 0.3, 0.3, 0.3))
    assert float(losses._box_loss(box + 0.05, box)[0]) == pytest.approx(float(theirs), abs=1e-5)


def test_training_changes_only_what_is_trained_and_goes_on_alike(
    network: DenseSTTrack, material: Material, tmp_path: Path
) -> None:
    def fresh() -> DenseSTTrack:
        copy = DenseSTTrack(CONFIG)
        copy.load_state_dict(network.state_dict())
        return copy

    frozen = frozen_part(network, lambda _: None)
    silent = lambda _: None  # noqa: E731
    whole = train(fresh(), frozen, material, RECIPE, tmp_path / "whole", report=silent)
    part = tmp_path / "parts"
    train(fresh(), frozen, material, RECIPE, part, report=silent, until=2)
    assert (part / CHECKPOINT).is_file()
    resumed = train(fresh(), frozen, material, RECIPE, part, report=silent)
    before = network.state_dict()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
        if name.startswith(("backbone", "correlation")):
            assert torch.equal(value, before[name]), name
    assert not torch.equal(whole["verdict.weight"], before["verdict.weight"])
    assert len((part / "log.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("trains", ["boxes", "confidence"])
def test_the_rest_of_the_network_stays_as_it_is(
    network: DenseSTTrack, material: Material, tmp_path: Path, trains: Literal["boxes", "confidence"]
) -> None:
    copy = DenseSTTrack(CONFIG)
    copy.load_state_dict(network.state_dict())
    torch.nn.init.normal_(copy.verdict.weight)  # else nothing but its bias has a gradient at first
    torch.nn.init.normal_(copy.refine.weight[1:], std=0.1)
    before = {name: value.clone() for name, value in copy.state_dict().items()}
    recipe = dataclasses.replace(RECIPE, trains=trains, misled=0.5)
    after = train(
        copy, frozen_part(network, lambda _: None), material, recipe, tmp_path, report=lambda _: None
    )
    changed = {
        name.partition(".")[0] for name, value in after.items() if not torch.equal(value, before[name])
    }
    assert {"decoder", "memory_attention", "judge", "verdict"} <= changed
    assert "compare" not in changed
    assert torch.equal(after["refine.weight"][0], before["refine.weight"][0])
    assert torch.equal(after["refine.bias"][0], before["refine.bias"][0])
    assert ("encoder" in changed) == ("refine" in changed) == (trains == "boxes")


@pytest.mark.parametrize(
    ("trains", "layer"), [("confidence", "compare"), ("boxes", "compare"), ("boxes", "refine")]
)
def test_a_part_that_the_score_map_depends_on_is_not_trained_alone(
    network: DenseSTTrack,
    material: Material,
    tmp_path: Path,
    trains: Literal["boxes", "confidence"],
    layer: str,
) -> None:
    copy = DenseSTTrack(CONFIG)
    copy.load_state_dict(network.state_dict())
    torch.nn.init.ones_(copy.get_submodule(layer).bias)  # type: ignore[arg-type]
    recipe = dataclasses.replace(RECIPE, trains=trains)
    with pytest.raises(UserError, match=f'trains = "{trains}" is for a network whose score map'):
        train(copy, frozen_part(network, lambda _: None), material, recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_wanted_confidence_reaches_the_training(
    network: DenseSTTrack, material: Material, tmp_path: Path
) -> None:
    frozen, silent = frozen_part(network, lambda _: None), lambda _: None
    learned = []
    for name, on_target in (("low", (0.0, 0.1)), ("high", (0.8, 1.0))):
        copy = DenseSTTrack(CONFIG)
        copy.load_state_dict(network.state_dict())
        recipe = dataclasses.replace(RECIPE, on_target=on_target)
        learned.append(train(copy, frozen, material, recipe, tmp_path / name, report=silent)["verdict.bias"])
    assert float(learned[0]) > float(learned[1])


@pytest.mark.parametrize("clips", [1, 2, 3, 5, 7, 12])
@pytest.mark.parametrize(
    ("videos", "stills"), [(0.5, 0.5), (0.75, 0.25), (0.67, 0.0), (0.0, 1.0), (0.5, 0.34)]
)
def test_a_step_has_as_many_clips_as_the_recipe_says(
    material: Material, clips: int, videos: float, stills: float
) -> None:
    with_stills = dataclasses.replace(material, stills=[Still(Path("none.png"), np.zeros((2, 4)))])
    recipe = dataclasses.replace(RECIPE, clips=clips, videos=videos, stills=stills)
    shown, still = with_stills._shares(recipe)
    assert shown + still == clips  # there are no photographs in motion
    assert (still > 0) == (stills > 0)
    assert material._shares(recipe) == (clips, 0)


@pytest.mark.skipif(os.name == "nt", reason="there are no such signals on Windows")
def test_a_signal_ends_the_step_and_saves(network: DenseSTTrack, material: Material, tmp_path: Path) -> None:
    told: list[str] = []

    def hear(text: str) -> None:
        told.append(text)
        if len(told) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    frozen = frozen_part(network, lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        train(network, frozen, material, RECIPE, tmp_path, report=hear, report_every=1)
    assert told[-1] == "stopped at step 2; the same command goes on from there"
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"] == 2


@pytest.mark.parametrize("content", [b"torn", None])
def test_a_checkpoint_that_is_no_runs_is_told(
    network: DenseSTTrack, material: Material, tmp_path: Path, content: bytes | None
) -> None:
    """A torn one, and somebody else's."""
    torch.save({"network": {"weight": torch.zeros(1)}}, tmp_path / CHECKPOINT)
    if content is not None:
        (tmp_path / CHECKPOINT).write_bytes(content)
    frozen = frozen_part(network, lambda _: None)
    with pytest.raises(UserError, match=r"checkpoint\.pt holds no checkpoint that this run can go on from"):
        train(network, frozen, material, RECIPE, tmp_path)
    assert not (tmp_path / "log.csv").exists()


def test_the_recipe_of_the_documentation_is_read(tmp_path: Path) -> None:
    text = (REPOSITORY / "docs" / "train.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "recipe.toml").write_text(block)
    _, recipe = read_closed_loop(tmp_path / "recipe.toml")
    assert recipe.trains == "confidence"


def test_the_tracked_recipe_is_read() -> None:
    config, recipe = read_closed_loop(REPOSITORY / "models" / "sttrack-nano" / "closed-loop.toml")
    assert config == preset("sttrack-nano")
    assert recipe.steps > 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[closed_loop]\nstep = 3\n", "step"),
        ('[model]\npreset = "sttrack-plain"\n[closed_loop]\n', "dense head"),
        ("[closed_loop]\n[data]\n", "unknown keys"),
        ("closed_loop = 3\n", "closed_loop"),
        ("[closed_loop]\nsteps = -1\n", "steps is from 1 to 1e"),
        ("[closed_loop]\nclips = 100000\n", "clips is from 1 to 4096, not 100000"),
        ("[closed_loop]\nframes = []\n", "frames is a list of one or more lengths"),
        ("[closed_loop]\nframes = [4, 1]\n", "frames is from 2 to 1000, not 1"),
        ("[closed_loop]\non_target = [0.5, 0.5]\n", "on_target is two overlaps, the less first"),
        ("[closed_loop]\non_target = [0.5]\n", "on_target"),
        ("[closed_loop]\nmisled = 2\n", "misled is from 0 to 1, not 2"),
        ('[closed_loop]\ntrains = "score"\n', "trains"),
        ("[closed_loop]\nlearning_rate = nan\n", "learning_rate must be a number, not nan"),
        ("model = 3\n[closed_loop]\n", "model"),
        ('[model]\npreset = ["x"]\n[closed_loop]\n', "preset"),
    ],
)
def test_a_wrong_recipe_is_told_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        read_closed_loop(path)
