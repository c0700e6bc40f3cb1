"""``sttrack-train``, on clips of noise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from noise_clips import NoiseClips

from sttrack_deploy.cli import train
from sttrack_deploy.cli.train import main
from sttrack_deploy.models.training.clips.batch import ClipBatch
from sttrack_deploy.models.training.recipe import Recipe
from sttrack_deploy.models.weights import load_weights, read_config

RECIPE = """
autocast = "none"
[model]
preset = "sttrack-plain"
name = "tiny"
plain_channels = [8, 8, 16, 16]
plain_blocks = [0, 1, 0, 1]
hidden_dim = 32
heads = 2
feedforward_dim = 48
encoder_layers = 2
decoder_layers = 2
memory_layers = 2
memory_heads = 2
memory_feedforward_dim = 48
head_dim = 32
template_size = 64
search_size = 128
memory_capacity = 4
[data]
frames = 2
clips = 2
[optimizer]
steps = 4
warmup = 1
"""

Run = Callable[..., Result]


class Noise(NoiseClips):
    """On the ``signal_at``th call the process gets a signal."""

    signal_at, calls, signal = 0, 0, signal.SIGTERM

    def sample(self, batch: int, frames: int, generator: torch.Generator) -> ClipBatch:
        self.calls += 1
        if self.calls == self.signal_at:
            os.kill(os.getpid(), self.signal)
        return super().sample(batch, frames, generator)


@pytest.fixture
def noise() -> Noise:
    return Noise()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: Noise) -> Run:
    """Runs the command in ``tmp_path / "run"``, with more arguments."""

    def material(recipe: Recipe, *_: Any) -> tuple[Noise, ClipBatch]:
        held_out = Noise().sample(4, recipe.data.frames, torch.Generator().manual_seed(0))
        return noise, held_out

    monkeypatch.setattr("sttrack_deploy.cli.train.load_material", material)
    monkeypatch.setattr("sttrack_deploy.models.training.trainer.draw_curves", lambda log, out: None)
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)

    def invoke(*arguments: str) -> Result:
        line = ["--recipe", str(path), "--out", str(tmp_path / "run"), "--device", "cpu", *arguments]
        return CliRunner().invoke(main, line)

    return invoke


def test_it_trains_and_says_what_it_made(run: Run, tmp_path: Path) -> None:
    first = run("--until", "1", "--ahead", "1")
    assert first.exit_code == 0, first.output
    assert "from step 0 of 4" in first.output
    second = run("--report-every", "1", "--validate-every", "2")
    assert second.exit_code == 0, second.output
    assert "tiny: 0.10 M parameters" in second.output
    assert "from step 1 of 4, 2 clips of 2 frames a batch, on cpu" in second.output
    out = tmp_path / "run"
    for text in (
        "step      4  loss",
        "left 0.0 min",
        "held out: IoU",
        f"wrote {out / 'weights.safetensors'} (",
        "averaged weights at step 4 of 4)",
        "held out, at step 4: IoU",
        f"wrote {out / 'best.safetensors'}, the best by held-out IoU",
        f"wrote {out / 'log.csv'}, {out / 'validation.png'}",
        "without waiting for clips",
        f"next: sttrack-export --checkpoint {out / 'best.safetensors'} --out export/tiny",
    ):
        assert text in second.output
    assert read_config(out / "best.safetensors").name == "tiny"
    again = run()
    assert again.exit_code == 0, again.output
    assert "from step 4 of 4" in again.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves(run: Run, noise: Noise, number: signal.Signals) -> None:
    noise.signal = number
    """What a job scheduler sends; the same command goes on from there."""
    noise.signal_at = 3
    stopped = run("--validate-every", "100")
    assert stopped.exit_code == 130
    assert "stopped at step 2; the same command goes on from there" in stopped.output
    assert "from step 2 of 4" in run().output


def test_it_starts_from_weights(run: Run, tmp_path: Path) -> None:
    assert run("--until", "1").exit_code == 0
    weights = tmp_path / "run" / "weights.safetensors"
    weights.rename(tmp_path / "start.safetensors")
    again = run("--init", str(tmp_path / "start.safetensors"), "--until", "2")
    assert "is not used: the run goes on from its own checkpoint" in again.output
    (tmp_path / "run").rename(tmp_path / "old")
    fresh = run("--init", str(tmp_path / "start.safetensors"), "--minutes", "0.00001")
    assert fresh.exit_code == 0, fresh.output
    start = load_weights(tmp_path / "start.safetensors").state_dict()
    for name, value in load_weights(weights).state_dict().items():
        assert torch.equal(value, start[name]), name  # no time for a step


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--data", "nowhere"], 2, "--data nowhere: there is no folder lasot"),
        (["--init", "none.safetensors"], 1, "there is no weights file none.safetensors"),
        (["--init", "none.pth.tar"], 1, "there is no checkpoint none.pth.tar"),
        (["--config", "none.yaml"], 1, "cannot read the experiment file none.yaml"),
        (["--backbone", "none.pth"], 1, "there is no checkpoint none.pth"),
        (["--images", "nope"], 1, "nope is not a folder: name one with photographs (--images)"),
        (["--videos", "nope"], 1, "nope is not a folder"),
        (["--out", "/dev/null/x"], 1, "cannot write /dev/null/x: /dev/null is a file, not a folder"),
        (["--device", "warp9"], 1, "there is no device 'warp9'"),
        (["--recipe", "none.toml"], 1, "cannot read the recipe none.toml"),
    ],
)
def test_errors_are_one_line(run: Run, arguments: list[str], code: int, message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert result.output.startswith(f"error: {message}")
    assert result.output.count("\n") == 1


def test_one_folder_of_several_sets(tmp_path: Path) -> None:
    for name in ("lasot", "coco", "other"):
        (tmp_path / "all" / name).mkdir(parents=True)
    places = train._places((str(tmp_path / "all"), f"coco={tmp_path / 'mine'}"))
    assert places == {"lasot": tmp_path / "all" / "lasot", "coco": tmp_path / "mine"}


def test_a_run_of_another_recipe(run: Run, tmp_path: Path) -> None:
    assert run("--until", "1").exit_code == 0
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("steps = 4", "steps = 5"))
    refused = run()
    assert refused.exit_code == 1
    assert "optimizer.steps: 4 there, 5 here" in refused.output
    accepted = run("--changed-recipe", "--until", "2")
    assert accepted.exit_code == 0, accepted.output
    assert "from step 1 of 5" in accepted.output


def test_a_damaged_checkpoint_is_told(run: Run, tmp_path: Path) -> None:
    assert run("--validate-every", "1", "--until", "2").exit_code == 0
    (tmp_path / "run" / "checkpoints" / "step-00000002.pt").write_bytes(b"torn")
    result = run("--until", "2")
    assert result.exit_code == 0, result.output
    assert "step-00000002.pt is cut short or corrupt" in result.output
    assert "from step 1 of 4" in result.output


@pytest.mark.parametrize("content", [[1], {"format": 2, "step": "x"}, {"a": torch.zeros(1)}])
def test_a_foreign_checkpoint_is_told(run: Run, tmp_path: Path, content: object) -> None:
    path = tmp_path / "run" / "checkpoints" / "step-00000002.pt"
    path.parent.mkdir(parents=True)
    torch.save(content, path)
    result = run("--until", "2")
    assert result.exit_code == 1
    assert result.output.startswith(
        f"error: {tmp_path / 'run'} holds no checkpoint that this run can go on from"
    )
    assert result.output.count("\n") == 1


def test_the_launcher_can_start_it() -> None:
    command = [sys.executable, "-m", "sttrack_deploy.cli.train", "--help"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "torchrun --nproc_per_node N -m sttrack_deploy.cli.train" in " ".join(done.stdout.split())
