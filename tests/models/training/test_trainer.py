"""The training loop on a miniature: it learns, and it resumes to the same weights however it was stopped."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from noise_clips import NoiseClips, noise_recipe, same_weights, train
from tiny import TINY, lively_network

from sttrack_deploy.cli.train import main
from sttrack_deploy.errors import UserError
from sttrack_deploy.models.training.checkpoints import CheckpointFolder
from sttrack_deploy.models.training.clips.batch import ClipBatch, ClipGeometry
from sttrack_deploy.models.training.clips.synthetic.image_bank import ImageBank
from sttrack_deploy.models.training.clips.synthetic.source import SyntheticSource
from sttrack_deploy.models.training.recipe import read_recipe
from sttrack_deploy.models.training.trainer import BEST, WEIGHTS, RunOptions, Trainer
from sttrack_deploy.models.training.training_log import CURVES, LogLine, read_log
from sttrack_deploy.models.training.validation import STRIP, SimilarityProbe, forward_clip
from sttrack_deploy.models.weights import load_weights

MODELS = Path(__file__).parents[3] / "models"
GEOMETRY = ClipGeometry(TINY.template_size, 2.0, TINY.search_size, 4.0, 16)


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Drawing takes longer than all steps of such a run."""
    if "bank" not in request.fixturenames:
        monkeypatch.setattr("sttrack_deploy.models.training.trainer.draw_curves", lambda log, out: None)


def noise(batch: int, frames: int, seed: int = 0) -> ClipBatch:
    return NoiseClips().sample(batch, frames, torch.Generator().manual_seed(seed))


class Fixed:
    """The same clips again and again."""

    def __init__(self, clip: ClipBatch) -> None:
        self.clip = clip

    def sample(self, batch: int, frames: int, generator: torch.Generator) -> ClipBatch:
        return self.clip


class Failing(NoiseClips):
    """Raises on the call with this number."""

    def __init__(self, call: int, error: BaseException) -> None:
        self.left, self.error = call, error

    def sample(self, batch: int, frames: int, generator: torch.Generator) -> ClipBatch:
        self.left -= 1
        if self.left == 0:
            raise self.error
        return super().sample(batch, frames, generator)


# ---- a clip through the network ------------------------------------------------------------------------


def test_a_clip_at_once_equals_frame_by_frame() -> None:
    network = lively_network(TINY)
    clip = noise(2, 3)
    together = forward_clip(network, SimilarityProbe(TINY.hidden_dim), clip).corners
    state = network.initial_state(clip.template, clip.template_mask)
    for frame in range(3):
        output, state = network.step(clip.search[:, frame], clip.search_mask[:, frame], state)
        assert torch.allclose(output.corners.box, together.box.view(2, 3, 4)[:, frame], atol=1e-5)


@pytest.mark.parametrize(("truncate", "reaches"), [(0, True), (3, True), (2, False)])
def test_the_query_carries_gradient_through_time(truncate: int, reaches: bool) -> None:
    """From the last of three frames back to the embedding that the first one starts with."""
    # In evaluation mode, since batch norm in the head would connect the frames too.
    network = lively_network(TINY).requires_grad_(True)
    probe = SimilarityProbe(TINY.hidden_dim)
    boxes = forward_clip(network, probe, noise(2, 3), truncate).corners.box
    boxes.view(2, 3, 4)[:, 2].sum().backward()
    gradient = network.query_embed.grad
    assert (gradient is not None and bool(gradient.any())) is reaches
    assert torch.equal(forward_clip(network, probe, noise(2, 3)).corners.box, boxes)


# ---- learning --------------------------------------------------------------------------------------------


def test_it_learns_what_it_is_shown(bank: ImageBank, tmp_path: Path) -> None:
    clip = SyntheticSource(bank, GEOMETRY).sample(4, 2, torch.Generator().manual_seed(3))
    trainer = Trainer(noise_recipe(50, clips=4, warmup=5), Fixed(clip), tmp_path, held_out=clip)
    lines: list[LogLine] = []
    trainer.run(lines.append, report_every=10, validate_every=1000)
    assert lines[-1].loss < 0.6 * lines[0].loss
    assert lines[-1].iou > lines[0].iou + 0.2
    assert lines[-1].validation is not None
    assert lines[-1].validation.iou > lines[0].iou + 0.2
    for name in (WEIGHTS, BEST):
        assert load_weights(tmp_path / name).config == TINY
    assert [row["step"] for row in read_log(tmp_path / "log.csv")] == [10, 20, 30, 40, 50]
    for picture in (CURVES, STRIP):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


def test_the_shipped_recipe_cut_short_learns(bank: ImageBank, tmp_path: Path) -> None:
    """Its network and losses, a minute's worth: the loss falls, and clips that were not trained on are found."""
    whole = read_recipe(MODELS / "sttrack-nano" / "recipe.toml")
    recipe = dataclasses.replace(
        whole,
        data=dataclasses.replace(whole.data, frames=2, clips=4),
        optimizer=dataclasses.replace(whole.optimizer, steps=50, warmup=10, ema=0.9),
    )
    m = recipe.model
    geometry = ClipGeometry(m.template_size, m.template_factor, m.search_size, m.search_factor, m.stride)
    source = SyntheticSource(bank, geometry)
    held_out = source.sample(16, 2, torch.Generator().manual_seed(99))
    lines: list[LogLine] = []
    Trainer(recipe, source, tmp_path, held_out=held_out).run(lines.append, report_every=10, validate_every=10)
    first, last = lines[0].validation, lines[-1].validation
    assert first is not None
    assert last is not None
    assert last.iou > first.iou + 0.1
    assert lines[-1].loss < 0.9 * lines[0].loss


def test_frozen_parts_stay_as_they_are(tmp_path: Path) -> None:
    start = lively_network(TINY)
    before = {name: value.clone() for name, value in start.state_dict().items()}
    recipe = noise_recipe(2, freeze=("backbone.stages.0", "head"))
    trainer = Trainer(recipe, NoiseClips(), tmp_path, initial=start)
    trainer.run(lambda _: None)
    for name, value in trainer.network.state_dict().items():
        if name.startswith(("backbone.stages.0.", "head.")):
            assert torch.equal(value, before[name]), name  # batch norm statistics too
        elif name.startswith("backbone.stages.1.") and "num_batches" not in name:
            assert not torch.equal(value, before[name]), name


def test_accumulated_batches_count_as_one_step(tmp_path: Path) -> None:
    """Twice the same batch changes the weights as once."""
    clip = noise(4, 2)
    once, _ = train(noise_recipe(2, clips=4), tmp_path / "once", source=Fixed(clip))
    twice, lines = train(noise_recipe(2, clips=4, accumulate=2), tmp_path / "twice", source=Fixed(clip))
    for name, value in once.network.named_parameters():
        assert torch.allclose(twice.network.get_parameter(name), value, atol=1e-6), name
    assert [line.step for line in lines] == [1, 2]


def test_fp16_scales_the_loss(tmp_path: Path) -> None:
    """From 2**16 down by half at each step whose gradients overflow; at which scale they fit is the CPU's matter."""
    steps = 20
    recipe = dataclasses.replace(noise_recipe(steps, clips=1), autocast="fp16")
    trainer, lines = train(recipe, tmp_path, validate_every=1000)
    scale, skipped = trainer.optimizer.scaler.get_scale(), sum(line.skipped for line in lines)
    assert scale == 2.0 ** (16 - skipped)
    assert skipped < steps
    assert {int(m["step"]) for m in trainer.optimizer.state()["moments"].values()} == {steps - skipped}
    resumed = Trainer(recipe, NoiseClips(), tmp_path)
    assert resumed.optimizer.scaler.get_scale() == scale


class Poisoned(NoiseClips):
    """Boxes that are no numbers, in all batches or in one."""

    def __init__(self, only: int | None = None) -> None:
        self.only, self.calls = only, 0

    def sample(self, batch: int, frames: int, generator: torch.Generator) -> ClipBatch:
        clip = super().sample(batch, frames, generator)
        self.calls += 1
        if self.only in (None, self.calls):
            clip.box[:] = torch.nan
        return clip


def test_a_step_without_a_finite_gradient_is_left_out(tmp_path: Path) -> None:
    _, lines = train(noise_recipe(3), tmp_path, source=Poisoned(only=2))
    assert [line.skipped for line in lines] == [0, 1, 0]
    assert lines[2].loss < 20


def test_a_run_without_gradients_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sttrack_deploy.models.training.training_log.HOPELESS", 4)
    with pytest.raises(UserError, match="the gradient was not finite for 4 steps up to step 4"):
        train(noise_recipe(8), tmp_path, source=Poisoned())


# ---- stopping and going on ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A run of 6 steps that nothing stopped, with dropout and two batches in each step."""
    return train(exacting_recipe(), tmp_path_factory.mktemp("whole"))[0]


def exacting_recipe() -> Any:
    return noise_recipe(6, dropout=0.1, accumulate=2)


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_run_in_legs_ends_with_the_same_weights(whole: Trainer, tmp_path: Path, ahead: int) -> None:
    """Whether or not batches are made ahead."""
    options = RunOptions(ahead=ahead)
    train(exacting_recipe(), tmp_path, options, until=3)
    torch.rand(7)  # other use of the global generator makes no difference
    resumed, lines = train(exacting_recipe(), tmp_path, options)
    assert [line.step for line in lines] == [4, 5, 6]
    assert same_weights(resumed, whole)
    assert (tmp_path / WEIGHTS).read_bytes() == (whole.folder / WEIGHTS).read_bytes()
    assert [row["step"] for row in read_log(tmp_path / "log.csv")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("ahead", "error"), [(0, UserError("no such picture")), (1, KeyboardInterrupt())])
def test_what_is_done_is_saved_when_the_clips_fail(
    whole: Trainer, tmp_path: Path, ahead: int, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        train(exacting_recipe(), tmp_path, RunOptions(ahead=ahead), source=Failing(6, error))
    resumed, lines = train(exacting_recipe(), tmp_path)
    assert lines[0].step == 3
    assert same_weights(resumed, whole)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path, number: signal.Signals) -> None:
    """SIGKILL loses what came after the last checkpoint, Ctrl-C nothing; both lead to the same end."""
    steps = {"steps": 400, "clips": 1, "dropout": 0.1}
    script = Path(__file__).with_name("run_worker.py")
    command = [sys.executable, str(script), str(tmp_path), json.dumps(steps), '{"validate_every": 4}']
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for text in process.stdout:
            if json.loads(text)["step"] == 6:
                process.send_signal(number)
                break
        rest = process.stdout.read()
    assert process.returncode == (-number if number == signal.SIGKILL else 130)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the worker: sums depend on how many there are
    try:
        recipe = noise_recipe(**steps)  # type: ignore[arg-type]
        resumed = Trainer(recipe, NoiseClips(), tmp_path)
        if number == signal.SIGKILL:
            assert resumed.step % 4 == 0
        else:
            assert f"stopped at {resumed.step}" in rest
        end = resumed.step + 3
        resumed.run(lambda _: None, until=end)
        unbroken, _ = train(recipe, tmp_path / "unbroken", until=end)
    finally:
        torch.set_num_threads(threads)
    assert same_weights(resumed, unbroken)
    steps_logged = [int(row["step"]) for row in read_log(tmp_path / "log.csv")]
    assert steps_logged == sorted(set(steps_logged))


def test_the_last_checkpoint_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    save = CheckpointFolder.save

    def count(folder: CheckpointFolder, state: Any) -> Path:
        written.append(state["step"])
        return save(folder, state)

    monkeypatch.setattr(CheckpointFolder, "save", count)
    train(noise_recipe(4), tmp_path, validate_every=2)
    assert written == [2, 4]
    _, lines = train(noise_recipe(4), tmp_path)
    assert not lines
    assert written == [2, 4]  # a run that is over is not written again


def test_time_runs_out(tmp_path: Path) -> None:
    trainer, _ = train(noise_recipe(10_000), tmp_path, seconds=0.2)
    assert 0 < trainer.step < 10_000
    assert CheckpointFolder(tmp_path).files()[0].name == f"step-{trainer.step:08d}.pt"


# ---- what must not be resumed --------------------------------------------------------------------------------


def test_another_networks_run_is_not_resumed(tmp_path: Path) -> None:
    train(noise_recipe(2), tmp_path)
    other = dataclasses.replace(noise_recipe(2), model=TINY.with_memory(9, None))
    for options in (RunOptions(), RunOptions(changed_recipe=True)):
        with pytest.raises(UserError, match=r"another network \(memory_capacity: 4 there, 9 here\)"):
            Trainer(other, NoiseClips(), tmp_path, options=options)


def test_another_recipes_run_is_resumed_on_request_only(tmp_path: Path) -> None:
    train(noise_recipe(4, learning_rate=1e-3), tmp_path, until=2)
    changed = noise_recipe(5, learning_rate=2e-3)
    with pytest.raises(UserError) as caught:
        Trainer(changed, NoiseClips(), tmp_path)
    assert "optimizer.learning_rate: 0.001 there, 0.002 here; optimizer.steps: 4 there, 5 here" in str(
        caught.value
    )
    assert "--changed-recipe" in str(caught.value)
    trainer, lines = train(changed, tmp_path, RunOptions(changed_recipe=True))
    assert [line.step for line in lines] == [3, 4, 5]
    assert trainer.optimizer.adamw.param_groups[0]["lr"] < 2e-3


def test_other_numbers_of_shares_are_another_run(tmp_path: Path) -> None:
    train(noise_recipe(4), tmp_path, until=1)
    with pytest.raises(UserError, match=r"batches side by side: 1 there, 2 here \(--shares\)"):
        Trainer(noise_recipe(4), NoiseClips(), tmp_path, options=RunOptions(shares=2))


# ---- runs of version 0.1 ---------------------------------------------------------------------------------------


def old_checkpoint(trainer: Trainer) -> dict[str, Any]:
    """What version 0.1 saved: one ``torch.optim.AdamW``, its parameters numbered, groups in their order."""
    groups: dict[tuple[bool, bool], list[tuple[str, torch.nn.Parameter]]] = {}
    for name, parameter in trainer.network.named_parameters():
        group = groups.setdefault((name.startswith("backbone."), parameter.ndim > 1), [])
        group.append((f"network.{name}", parameter))
    described = [{"params": [p for _, p in group]} for group in groups.values()]
    described.append({"params": list(trainer.probe.parameters())})
    adamw = torch.optim.AdamW(described, lr=1e-3)
    names = [name for group in groups.values() for name, _ in group] + ["probe.scale", "probe.offset"]
    for name, parameter in zip(names, (p for g in described for p in g["params"]), strict=True):
        adamw.state[parameter] = dict(trainer.optimizer.state()["moments"][name])
    return {
        "config": trainer.recipe.model.to_json(),
        "step": trainer.step,
        "best": 0.25,
        "network": trainer.network.state_dict(),
        "average": trainer.average.state_dict(),
        "probe": trainer.probe.state_dict(),
        "optimizer": adamw.state_dict(),
        "generator": torch.Generator().get_state(),
        "random": torch.get_rng_state(),
    }


def test_a_run_of_version_0_1_goes_on(tmp_path: Path) -> None:
    recipe = noise_recipe(6)
    unbroken, _ = train(recipe, tmp_path / "new")
    old = tmp_path / "old"
    stopped, _ = train(recipe, tmp_path / "stopped", until=3)
    old.mkdir()
    torch.save(old_checkpoint(stopped), old / "last.pt")
    (old / "log.csv").write_text(
        "step,loss,iou,frames_per_second,learning_rate,val_iou,val_auroc\n"
        "2,9.1,0.2,50.0,0.001,,\n3,9.0,0.3,50.0,0.001,0.2500,0.6000\n4,8.9,0.3,50.0,0.001,,\n"
    )
    resumed, lines = train(recipe, old)
    assert [line.step for line in lines] == [4, 5, 6]
    assert same_weights(resumed, unbroken)
    rows = read_log(old / "log.csv")
    assert [row["step"] for row in rows] == [2, 3, 4, 5, 6]
    assert rows[1]["val_iou"] == 0.25
    assert resumed.best == 0.25


# ---- the command, with real material -----------------------------------------------------------------------------

RECIPE = """
autocast = "none"
[model]
preset = "sttrack-plain"
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


def test_the_command_trains_on_photographs(image_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    options = {"--recipe": path, "--images": image_folder, "--out": tmp_path / "run", "--validation-clips": 4}
    line = [str(part) for option in options.items() for part in option]
    first = CliRunner().invoke(main, [*line, "--until", "1"])
    assert first.exit_code == 0, first.output
    second = CliRunner().invoke(main, line)
    assert second.exit_code == 0, second.output
    assert "from step 1 of 3" in second.output
    assert (tmp_path / "run" / WEIGHTS).is_file()
