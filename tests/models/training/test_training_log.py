"""The log of a run, and the pictures made of it."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from noise_clips import NoiseClips

from sttrack_deploy.errors import MissingDependencyError
from sttrack_deploy.models.training.training_log import (
    COLUMNS,
    LOG,
    TENSORBOARD,
    LogLine,
    TrainingLog,
    Validation,
    draw_curves,
    read_log,
)
from sttrack_deploy.models.training.validation import Predictions, draw_validation_strip, grade_predictions

LINE = LogLine(
    step=10,
    steps=100,
    loss=3.25,
    giou=0.5,
    l1=0.125,
    corner=1.5,
    foreground=0.75,
    iou=0.5,
    frames_per_second=50.0,
    bare_frames_per_second=60.0,
    waiting=1 / 6,
    learning_rate=1e-3,
    skipped=1,
    seconds_left=90.0,
    validation=None,
)


def write(folder: Path, start: int, steps: list[int]) -> list[dict[str, float]]:
    log = TrainingLog(folder, start)
    for step in steps:
        log.write(dataclasses.replace(LINE, step=step))
    log.close()
    return read_log(folder / LOG)


def test_lines_are_read_back(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path, 0)
    log.write(LINE)
    log.write(dataclasses.replace(LINE, step=20, validation=Validation(0.625, 0.75)))
    first, second = read_log(tmp_path / LOG)
    assert first["loss"] == 3.25
    assert first["frames_per_second"] == 50
    assert first["bare_frames_per_second"] == 60
    assert "val_iou" not in first
    assert (second["val_iou"], second["val_auroc"]) == (0.625, 0.75)
    assert set(COLUMNS) == set(second)


def test_lines_after_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    write(tmp_path, 0, [1, 2, 3, 4])
    with (tmp_path / LOG).open("a") as file:
        file.write("5,1.2,")  # the process was killed in the middle of a line
    assert [row["step"] for row in write(tmp_path, 2, [3, 6])] == [1, 2, 3, 6]


def test_the_curves_are_drawn(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path, 0)
    for step in (10, 20, 30):
        validation = Validation(0.5, float("nan")) if step > 10 else None
        log.write(dataclasses.replace(LINE, step=step, validation=validation))
    draw_curves(tmp_path / LOG, tmp_path / "curves.png")
    height, width = np.asarray(cv2.imread(str(tmp_path / "curves.png"))).shape[:2]
    assert (width, height) == (990, 660)
    (tmp_path / LOG).write_text("step\n")
    draw_curves(tmp_path / LOG, tmp_path / "empty.png")


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = TrainingLog(tmp_path, 0, tensorboard=True)
    log.write(dataclasses.replace(LINE, validation=Validation(0.625, float("nan"))))
    log.close()
    events = EventAccumulator(str(tmp_path / TENSORBOARD)).Reload()
    assert events.Scalars("training/loss")[0].value == 3.25
    assert events.Scalars("training/loss")[0].step == 10
    assert events.Scalars("validation/iou")[0].value == 0.625
    assert "validation/auroc" not in events.Tags()["scalars"]


def test_tensorboard_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingDependencyError, match="pip install tensorboard"):
        TrainingLog(tmp_path, 0, tensorboard=True)


def test_predictions_are_graded_where_the_target_is(tmp_path: Path) -> None:
    clips = NoiseClips().sample(9, 3, torch.Generator().manual_seed(0))
    clips.present[0] = False
    perfect = Predictions(clips.box.clamp(0, 1), clips.present.float())
    found = grade_predictions(perfect, clips)
    assert list(dataclasses.astuple(found)) == pytest.approx([1.0, 1.0])
    out = tmp_path / "strip.png"
    draw_validation_strip(clips, Predictions(clips.box * 1e7, clips.present.float()), out)
    picture = np.asarray(cv2.imread(str(out)))
    assert picture.shape == (8 * (192 + 18), 4 * 192, 3)
    green = np.all(picture == (70, 220, 60), axis=2)
    assert green[210:400, 192:].any()
    assert not green[:192].any()  # nothing to find in the first clip
