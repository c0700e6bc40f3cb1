"""Checkpoints on the disk: the newest ones stay, and a damaged one is passed over."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from noise_clips import noise_recipe

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.training.checkpoints import CheckpointFolder, check_belongs


def save(folder: CheckpointFolder, step: int) -> Path:
    return folder.save({"step": step, "weights": torch.arange(5000) * step})


def step_of(content: bytes | None) -> int:
    assert content is not None
    return int(torch.load(io.BytesIO(content), weights_only=True)["step"])


def test_the_newest_stay(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    assert folder.newest(pytest.fail) is None
    for step in (9, 10, 100):
        save(folder, step)
    assert [file.name for file in folder.files()] == ["step-00000100.pt", "step-00000010.pt"]
    assert step_of(folder.newest(pytest.fail)) == 100
    assert sorted(file.name for file in folder.folder.iterdir()) == ["step-00000010.pt", "step-00000100.pt"]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text"])
def test_a_damaged_one_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    folder = CheckpointFolder(tmp_path)
    for step in (1, 2, 3):
        path = save(folder, step)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 4  # among the weights: torch.load would not notice
    damaged = {"cut": bytes(content[:-700]), "flip": bytes(content), "empty": b"", "text": b"hello"}
    path.write_bytes(damaged[damage])
    notes: list[str] = []
    assert step_of(folder.newest(notes.append)) == 2
    assert len(notes) == 1
    assert "step-00000003.pt is cut short or corrupt" in notes[0]
    assert "\n" not in notes[0]
    # The run goes on from 2: what it saves next is the newest, although the damaged one has a later step.
    save(folder, 3)
    save(folder, 4)
    assert step_of(folder.newest(pytest.fail)) == 4


def test_the_damaged_one_does_not_outlive_those_saved_after_it(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    save(folder, 10)
    save(folder, 20).write_bytes(b"broken")
    save(folder, 15)
    assert [file.name for file in folder.files()] == ["step-00000015.pt", "step-00000010.pt"]


def test_settings_that_came_later_count_as_their_defaults(tmp_path: Path) -> None:
    recipe = noise_recipe()
    kept = recipe.to_dict()
    del kept["optimizer"]["truncate"], kept["losses"]["over_frames"], kept["model"]["memory_semantics"]
    kept["data"]["workers"] += 3  # changes nothing that is learned
    state = {"recipe": json.dumps(kept), "shares": 1}
    check_belongs(state, recipe, 1, tmp_path, changed=False)
    with pytest.raises(UserError, match=r"optimizer\.truncate: 0 there, 2 here"):
        check_belongs(state, noise_recipe(truncate=2), 1, tmp_path, changed=False)


def test_all_damaged(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for step in (1, 2):
        save(folder, step).write_bytes(b"")
    notes: list[str] = []
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read; delete"):
        folder.newest(notes.append)
    assert len(notes) == 2
