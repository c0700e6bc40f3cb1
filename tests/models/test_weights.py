"""Our own weights files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import TINY

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.config import ModelConfig, preset
from sttrack_deploy.models.corner_network import STTrack
from sttrack_deploy.models.weights import load_weights, read_config, save_weights


def test_round_trip_and_determinism(tiny_network: STTrack, tiny_weights: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    save_weights(again, tiny_network.config, tiny_network.state_dict())
    assert again.read_bytes() == tiny_weights.read_bytes()
    assert read_config(again) == TINY
    loaded = load_weights(again).state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in tiny_network.state_dict().items())


def test_another_memory_takes_the_same_weights(tiny_weights: Path) -> None:
    network = load_weights(tiny_weights, TINY.with_memory(9, "train"))
    assert network.config.memory_capacity == 9
    assert network.config.memory_semantics == "train"


def test_bad_files(tiny_network: STTrack, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(UserError, match="there is no weights file"):
        load_weights(path)
    path.write_bytes(b"\x08\0\0\0\0\0\0\0garbage!")
    with pytest.raises(UserError, match="not a safetensors file"):
        load_weights(path)
    for metadata in ({"config": "{broken"}, {"config": "[" * 100_000}, {"config": "[]"}):
        save_file({"a": torch.zeros(1)}, str(path), metadata)
        with pytest.raises(UserError, match=r"x\.safetensors"):
            load_weights(path)
    save_file({"a": torch.zeros(1)}, str(path))
    with pytest.raises(UserError, match="not written by sttrack-deploy"):
        load_weights(path)
    state = dict(tiny_network.state_dict())
    state["surplus"] = state.pop("window_penalty")
    save_weights(path, TINY, state)
    with pytest.raises(UserError, match=r"unexpected key surplus; missing key window_penalty \(1,\)"):
        load_weights(path)


def test_configurations_check_themselves() -> None:
    assert ModelConfig.from_dict(TINY.to_dict()) == TINY
    with pytest.raises(UserError, match="multiples of the stride"):
        ModelConfig(name="x", search_size=100)
    with pytest.raises(UserError, match="divisible"):
        ModelConfig(name="x", hidden_dim=30)
    with pytest.raises(UserError, match="memory_capacity is from 1 to 4096, not 0"):
        TINY.with_memory(0, None)
    with pytest.raises(UserError, match="unknown keys"):
        ModelConfig.from_dict({"name": "x", "depth": 3})
    with pytest.raises(UserError, match="presets are sttrack-nano, sttrack-plain, sttrack-r50"):
        preset("sttrack-huge")
