"""The training loop on a miniature: it learns, resumes exactly, and survives being stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from tiny import TINY, lively_network

from sttrack_deploy.cli.train import main
from sttrack_deploy.errors import UserError
from sttrack_deploy.models.training.clip_forward import LikenessProbe, forward_clip
from sttrack_deploy.models.training.clips import ClipBatch, ClipGeometry
from sttrack_deploy.models.training.image_bank import ImageBank
from sttrack_deploy.models.training.losses import LossWeights
from sttrack_deploy.models.training.recipe import DataRecipe, OptimizerRecipe, Recipe, read_recipe
from sttrack_deploy.models.training.synthetic import SyntheticSource
from sttrack_deploy.models.training.trainer import LAST, LOG, WEIGHTS, Progress, Trainer, learning_rate_at
from sttrack_deploy.models.weights import load_weights

GEOMETRY = ClipGeometry(TINY.template_size, 2.0, TINY.search_size, 4.0, 16)


def recipe(steps: int) -> Recipe:
    return Recipe(
        TINY,
        DataRecipe(frames=2, clips=4),
        OptimizerRecipe(steps=steps, warmup=5, learning_rate=3e-3, freeze_norm_at=0.7),
        LossWeights(corner=0.5, foreground=1.0),
        bfloat16=False,
    )


@pytest.fixture
def source(bank: ImageBank) -> SyntheticSource:
    return SyntheticSource(bank, GEOMETRY)


def silent(_: Progress) -> None:
    pass


class Fixed:
    """The same clips again and again."""

    def __init__(self, clip: ClipBatch) -> None:
        self.clip = clip

    def sample(self, batch: int, frames: int, generator: torch.Generator) -> ClipBatch:
        torch.rand(1, generator=generator)
        return self.clip


def test_a_clip_at_once_equals_frame_by_frame(source: SyntheticSource) -> None:
    network = lively_network(TINY)
    clip = source.sample(2, 3, torch.Generator().manual_seed(0))
    together = forward_clip(network, LikenessProbe(TINY.hidden_dim), clip).corners
    state = network.initial_state(clip.template, clip.template_mask)
    for frame in range(3):
        output, state = network.step(clip.search[:, frame], clip.search_mask[:, frame], state)
        assert torch.allclose(output.corners.box, together.box.view(2, 3, 4)[:, frame], atol=1e-5)


def test_it_learns_what_it_is_shown(source: SyntheticSource, tmp_path: Path) -> None:
    clip = source.sample(4, 2, torch.Generator().manual_seed(3))
    trainer = Trainer(recipe(60), Fixed(clip), tmp_path, held_out=clip)
    lines: list[Progress] = []
    trainer.run(lines.append, report_every=10, validate_every=1000)
    assert lines[-1].loss < 0.6 * lines[0].loss
    assert lines[-1].iou > lines[0].iou + 0.2
    assert lines[-1].validation is not None
    assert load_weights(tmp_path / WEIGHTS).config == TINY
    assert (tmp_path / LOG).read_text().count("\n") == len(lines) + 1


def test_the_query_carries_gradient_through_time(source: SyntheticSource) -> None:
    network = lively_network(TINY).requires_grad_(True).train()
    clip = source.sample(2, 3, torch.Generator().manual_seed(0))
    boxes = forward_clip(network, LikenessProbe(TINY.hidden_dim), clip).corners.box.view(2, 3, 4)
    boxes[:, 2].sum().backward()  # the last frame's box only: the embedding reaches it through two queries
    assert network.query_embed.grad is not None
    assert network.query_embed.grad.abs().sum() > 0


def test_a_stopped_run_resumes_to_the_same_weights(source: SyntheticSource, tmp_path: Path) -> None:
    whole = Trainer(recipe(8), source, tmp_path / "whole")
    whole.run(silent)
    Trainer(recipe(8), source, tmp_path / "parts").run(silent, until=3)
    resumed = Trainer(recipe(8), source, tmp_path / "parts")
    assert resumed.step == 3
    resumed.run(silent)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(resumed.network.state_dict()[name], value), name
    assert (tmp_path / "parts" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()


class Interrupted(SyntheticSource):
    """Ctrl-C on the third batch."""

    calls = 0

    def sample(self, batch: int, frames: int, generator: torch.Generator) -> ClipBatch:
        self.calls += 1
        if self.calls == 3:
            raise KeyboardInterrupt
        return super().sample(batch, frames, generator)


def test_ctrl_c_saves(bank: ImageBank, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Trainer(recipe(8), Interrupted(bank, GEOMETRY), tmp_path).run(silent)
    assert Trainer(recipe(8), SyntheticSource(bank, GEOMETRY), tmp_path).step == 2


def test_another_networks_run_is_not_resumed(source: SyntheticSource, tmp_path: Path) -> None:
    Trainer(recipe(2), source, tmp_path).run(silent)
    other = Recipe(TINY.with_memory(9, None), DataRecipe(), OptimizerRecipe(), LossWeights())
    with pytest.raises(UserError, match="a run of another network"):
        Trainer(other, source, tmp_path)


def test_the_schedule_warms_up_and_ends_at_zero() -> None:
    r = recipe(100)
    rates = [learning_rate_at(step, r) for step in range(101)]
    assert rates[0] == pytest.approx(3e-3 / 5, rel=0.01)
    assert max(rates) == pytest.approx(3e-3, rel=0.02)
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


RECIPE = """
bfloat16 = false
[model]
preset = "sttrack-nano"
template_size = 64
search_size = 128
plain_channels = [8, 8, 16, 16]
hidden_dim = 32
[data]
frames = 2
clips = 2
[optimizer]
steps = 3
"""


def command_line(recipe_text: str, images: Path, out: Path, clips: int) -> list[str]:
    """Arguments of a run in ``out``; the recipe is written beside it."""
    path = out.parent / "recipe.toml"
    path.write_text(recipe_text)
    options = {"--recipe": path, "--images": images, "--out": out, "--validation-clips": clips}
    return [str(part) for option in options.items() for part in option]


def test_the_command_trains_and_resumes(image_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    line = command_line(RECIPE, image_folder, out, clips=4)
    first = CliRunner().invoke(main, [*line, "--until", "1"])
    assert first.exit_code == 0, first.output
    second = CliRunner().invoke(main, line)
    assert second.exit_code == 0, second.output
    assert "from step 1 of 3" in second.output
    assert "next: sttrack-export" in second.output
    assert (out / WEIGHTS).is_file()
    assert (out / LAST).is_file()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model", "is not a TOML file"),
        ("[model]\npreset = 'huge'", "there is no preset 'huge'"),
        ("[optimizer]\nspeed = 3", "unknown keys ['speed']"),
        ("[extra]\na = 1", "unknown keys ['extra']"),
    ],
)
def test_bad_recipes(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_recipe(path)
    assert message in str(caught.value)


def test_nothing_to_train_on(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    result = CliRunner().invoke(main, ["--recipe", str(path), "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "--images" in result.output


def test_sigterm_saves(image_folder: Path, tmp_path: Path) -> None:
    """What a job scheduler sends; the run goes on from there."""
    out = tmp_path / "run"
    line = command_line(RECIPE.replace("steps = 3", "steps = 100000"), image_folder, out, clips=2)
    code = "from sttrack_deploy.cli.train import main; main()"
    command = [sys.executable, "-c", code, *line, "--report-every", "1", "--threads", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        seen = ""
        for text in process.stderr:
            seen += text
            if "loss" in text:
                process.send_signal(signal.SIGTERM)
                break
        seen += process.stderr.read()
    assert process.returncode == 130, seen
    assert "stopped at step" in seen
    assert (out / LAST).is_file()
