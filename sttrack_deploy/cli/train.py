"""``sttrack-train``: train a network on moving photographs and annotated videos."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from sttrack_deploy.bundle import open_bundle
from sttrack_deploy.errors import MissingDependencyError, UsageError, UserError
from sttrack_deploy.files import check_folder
from sttrack_deploy.locks import alone_in
from sttrack_deploy.models.training.material import LAYOUTS, load_material
from sttrack_deploy.terminal.help import GroupedCommand, heading
from sttrack_deploy.terminal.options import policy_options
from sttrack_deploy.terminal.program import INTERRUPTED, command, console, say
from sttrack_deploy.terminal.types import FILE, FOLDER, MOST_FRAMES, THREADS, Integer, Number

if TYPE_CHECKING:
    from sttrack_deploy.models.corner_network import STTrack
    from sttrack_deploy.models.training.recipe import Recipe
    from sttrack_deploy.models.training.trainer import Trainer
    from sttrack_deploy.models.training.training_log import LogLine


MANY_CORES = 4
"""From so many on, one thread makes clips while the others train."""

MUCH_WAITING = 0.2


@click.command(cls=GroupedCommand)
@heading("Input")
@click.option("--recipe", "recipe_path", type=FILE, required=True, help="TOML file with the run's settings.")
@click.option("--images", type=FOLDER, help="Photographs with index.csv; they are made into moving clips.")
@click.option(
    "--videos", type=FOLDER, multiple=True, help="Annotated videos (<name>.mp4 + <name>.txt); repeatable."
)
@click.option(
    "--data",
    "data_places",
    multiple=True,
    metavar="[NAME=]DIR",
    help="Where lasot, got10k, trackingnet or coco lies, or the folder that holds them; repeatable.",
)
@heading("Output")
@click.option("--out", type=FOLDER, required=True, help="The run's folder; a run that lies there is resumed.")
@heading("Start")
@click.option("--init", type=FILE, help="Start from .safetensors weights or a published checkpoint.")
@click.option("--config", type=FILE, help="Published experiment file (YAML); its network replaces [model].")
@click.option(
    "--backbone",
    type=FILE,
    help="Start the backbone from such weights: torchvision's ResNet, or NanoTrack v3 (.pth).",
)
@heading("Length")
@click.option("--until", type=Integer(1, MOST_FRAMES), help="Stop at this step; the same command resumes.")
@click.option(
    "--minutes",
    type=Number(0, min_open=True, max=1e9),
    help="Stop after this time; the same command resumes.",
)
@heading("Machine")
@click.option("--device", help="torch device.  [default: cuda if there is one, else cpu]")
@click.option("--threads", type=THREADS, help="CPU threads.  [default: all]")
@heading("Batches", more=True)
@click.option(
    "--ahead",
    type=Integer(0, 256),
    help=f"Batches made ahead, each in a thread.  [default: 1 on a GPU or {MANY_CORES} cores, else 0]",
)
@click.option(
    "--shares",
    type=Integer(1, 1024),
    help="Batches side by side in a step: go on with fewer processes.  [default: one for each process]",
)
@click.option(
    "--image-limit", type=Integer(1, MOST_FRAMES), help="Use only so many photographs (for a trial)."
)
@heading("Log and checkpoints", more=True)
@click.option(
    "--report-every",
    type=Integer(1, MOST_FRAMES),
    default=50,
    show_default=True,
    help="Steps between log lines.",
)
@click.option(
    "--validate-every",
    type=Integer(1, MOST_FRAMES),
    default=1000,
    show_default=True,
    help="Steps between validations; each writes a checkpoint.",
)
@click.option(
    "--validation-clips",
    type=Integer(2, 100_000),
    default=128,
    show_default=True,
    help="Held-out clips of a validation.",
)
@click.option("--keep", type=Integer(1, 10_000), default=3, show_default=True, help="Checkpoints to keep.")
@click.option("--tensorboard", is_flag=True, help="Also write a TensorBoard log.")
@click.option("--changed-recipe", is_flag=True, help="Go on although the recipe is not the run's any more.")
@command
def main(
    recipe_path: Path,
    images: Path | None,
    videos: tuple[Path, ...],
    data_places: tuple[str, ...],
    out: Path,
    init: Path | None,
    config: Path | None,
    backbone: Path | None,
    until: int | None,
    minutes: float | None,
    device: str | None,
    threads: int | None,
    ahead: int | None,
    shares: int | None,
    image_limit: int | None,
    report_every: int,
    validate_every: int,
    validation_clips: int,
    keep: int,
    tensorboard: bool,
    changed_recipe: bool,
) -> None:
    """Train from a recipe; stop at any time (Ctrl-C) and run the same line again to go on.

    On several GPUs or machines: torchrun --nproc_per_node N -m sttrack_deploy.cli.train, and the same options.
    """
    try:
        import torch

        from sttrack_deploy.models.training.closed_loop.run import is_closed_loop
        from sttrack_deploy.models.training.distributed import launched_processes
        from sttrack_deploy.models.training.recipe import read_recipe
        from sttrack_deploy.models.training.trainer import RunOptions, Trainer
    except ImportError as error:
        name = error.name or "torch"
        raise MissingDependencyError(name, "training", 'pip install "sttrack-deploy[train]"') from error
    check_folder(out)
    if is_closed_loop(recipe_path):
        if config is not None or data_places:
            raise UsageError(
                "closed-loop training takes --images and --videos; leave --config and --data out"
            )
        with alone_in(out):
            _train_closed_loop(
                recipe_path, images, videos, out, init, backbone, until, minutes, threads, image_limit
            )
        return
    recipe, places = read_recipe(recipe_path), _places(data_places)
    for folder in (images, *videos):
        if folder is not None and not folder.is_dir():
            raise UserError(
                f"{folder} is not a folder: name one with photographs (--images) or videos (--videos)"
            )
    if config is not None:
        recipe = _with_published_network(recipe, config)
    if threads:
        torch.set_num_threads(threads)
    with (
        launched_processes(device or ("cuda" if torch.cuda.is_available() else "cpu")) as processes,
        alone_in(out) if processes.is_main else contextlib.nullcontext(),
    ):
        console.quiet = not processes.is_main
        initial = _initial(recipe, init, backbone)
        with console.status("reading the training material"), processes.first_on_each_node():
            source, held_out = load_material(
                recipe, images, videos, out, processes.device, image_limit, validation_clips, places
            )
        if ahead is None:
            ahead = int(processes.device != "cpu" or (os.cpu_count() or 1) >= MANY_CORES)
        options = RunOptions(
            processes=processes,
            shares=shares,
            ahead=ahead,
            keep=keep,
            tensorboard=tensorboard,
            changed_recipe=changed_recipe,
            note=say,
        )
        trainer = Trainer(recipe, source, out, held_out, initial, options)
        _introduce(trainer, init or backbone)
        with _Display(trainer, until) as display:
            try:
                trainer.run(
                    display.show,
                    until,
                    report_every,
                    validate_every,
                    math.inf if minutes is None else 60 * minutes,
                )
            except KeyboardInterrupt:
                display.close()
                say(f"stopped at step {trainer.step}; the same command goes on from there")
                raise SystemExit(INTERRUPTED) from None
        _conclude(trainer, display, ahead)


def _train_closed_loop(
    recipe_path: Path,
    images: Path | None,
    videos: tuple[Path, ...],
    out: Path,
    init: Path | None,
    nanotrack: Path | None,
    until: int | None,
    minutes: float | None,
    threads: int | None,
    image_limit: int | None,
) -> None:
    """Train a network with a dense head: every crop follows its own boxes."""
    import torch

    from sttrack_deploy.models.training.closed_loop.run import (
        calibrate_inputs,
        frozen_part,
        load_material,
        network_to_train,
        read_closed_loop,
    )
    from sttrack_deploy.models.training.closed_loop.training import CHECKPOINT, train
    from sttrack_deploy.models.weights import save_weights

    model, recipe = read_closed_loop(recipe_path)
    if not videos:
        raise UsageError(
            "closed-loop training needs annotated video: --videos DIR, as often as there are folders"
        )
    if recipe.stills and images is None:
        raise UsageError("the recipe has stills, which are photographs: --images DIR, or leave stills out")
    if threads:
        torch.set_num_threads(threads)
    resumed = (out / CHECKPOINT).is_file()
    network = network_to_train(model, init, nanotrack, recipe.seed)
    with console.status("reading the training material"):
        bank = out / "bank-train.npz"
        material = load_material(images, videos, bank, image_limit, stills=recipe.stills > 0)
        frozen = frozen_part(network, say)
    if init is None and not resumed:
        calibrate_inputs(network, frozen, material, recipe)
    said = "goes on from its checkpoint" if resumed else f"begins with {init or nanotrack}"
    say(
        f"{model.name}: {len(material.tracks)} tracks, {recipe.clips} clips a step, {recipe.steps} steps; {said}"
    )
    seconds = math.inf if minutes is None else 60 * minutes
    weights = train(network, frozen, material, recipe, out, seconds, say, until=until)
    path = out / "weights.safetensors"
    save_weights(path, model, weights)
    say(
        f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB, averaged weights), {out / CHECKPOINT}, {out / 'log.csv'}"
    )
    shipped = open_bundle(verify=False).manifest
    policy = policy_options(shipped.tracking) if shipped.model["name"] == model.name else []
    wanted = " ".join(
        ("", *policy)
    )  # what the network was trained for; else nothing is smoothed, held or corrected
    say(f"next: sttrack-export --checkpoint {shlex.quote(str(path))} --out export/my-{model.name}{wanted}")


def _places(given: tuple[str, ...]) -> dict[str, Path]:
    """Where published sets lie, by name; a folder without a name holds several under theirs."""
    places: dict[str, Path] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if equals and folder:
            places[name] = Path(folder)
            continue
        found = {known: Path(text) / known for known in LAYOUTS if (Path(text) / known).is_dir()}
        if not found:
            raise UsageError(
                f"--data {text}: there is no folder {', '.join(LAYOUTS)} in it; or name one set, as in --data lasot=DIR"
            )
        places |= found
    return places


def _with_published_network(recipe: Recipe, config: Path) -> Recipe:
    """The recipe with the network of an experiment file, and the recipe's own memory."""
    from sttrack_deploy.models.published import config_from_yaml

    memory = recipe.model.memory_capacity, recipe.model.memory_semantics
    return dataclasses.replace(recipe, model=config_from_yaml(config, say).with_memory(*memory))


def _initial(recipe: Recipe, init: Path | None, backbone: Path | None) -> STTrack | None:
    from sttrack_deploy.models.training.checkpoints import fresh_network, load_backbone, load_initial

    network = load_initial(init, recipe.model) if init else None
    if backbone is not None:
        network = network or fresh_network(recipe.model, recipe.seed)
        load_backbone(network, backbone)
    return network


def _introduce(trainer: Trainer, started_from: Path | None) -> None:
    recipe, processes = trainer.recipe, trainer.processes
    trained = sum(p.numel() for p in trainer.optimizer.parameters.values())
    total = sum(p.numel() for p in trainer.network.parameters())
    frozen = f" ({(total - trained) / 1e6:.2f} M frozen)" if trained < total else ""
    side_by_side = f", {trainer.shares} batches a step" if trainer.shares > 1 else ""
    side_by_side += f" in {processes.count} processes" if processes.count > 1 else ""
    say(
        f"{recipe.model.name}: {total / 1e6:.2f} M parameters{frozen}, from step {trainer.step} of {trainer.steps}, "
        f"{recipe.data.clips} clips of {recipe.data.frames} frames a batch{side_by_side}, on {trainer.device}, "
        f"in {trainer.folder}"
    )
    if started_from is not None and trainer.step:
        say(f"{started_from} is not used: the run goes on from its own checkpoint")


class _Display(contextlib.AbstractContextManager["_Display"]):
    """Log lines, and a bar below them."""

    def __init__(self, trainer: Trainer, until: int | None) -> None:
        self.last: LogLine | None = None
        self.validated: LogLine | None = None
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = ProgressBar(*columns, console=console)
        self._task = self._bar.add_task("", total=until or trainer.steps, completed=trainer.step)

    def __enter__(self) -> _Display:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._bar.stop()

    def show(self, line: LogLine) -> None:
        self.last = line
        self.validated = line if line.validation else self.validated
        self._bar.update(self._task, completed=line.step)
        text = (
            f"step {line.step:>6}  loss {line.loss:6.3f}  IoU {line.iou:.3f}  "
            f"{line.frames_per_second:5.0f} frames/s  clips {line.waiting:4.0%}  lr {line.learning_rate:.2e}  "
            f"left {_duration(line.seconds_left)}"
        )
        if line.skipped:
            text += f"  skipped {line.skipped}"
        if line.validation:
            text += f"  | held out: IoU {line.validation.iou:.3f}, AUROC {line.validation.auroc:.3f}"
        say(text)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h" if minutes >= 60 else f"{seconds / 60:.1f} min"


def _conclude(trainer: Trainer, display: _Display, ahead: int) -> None:
    """What was made, where, how big, how good, and what to type next."""
    from sttrack_deploy.models.training.trainer import BEST, WEIGHTS
    from sttrack_deploy.models.training.training_log import CURVES, LOG
    from sttrack_deploy.models.training.validation import STRIP

    folder = trainer.folder
    weights, best = folder / WEIGHTS, folder / BEST
    say(
        f"wrote {weights} ({weights.stat().st_size / 1e6:.1f} MB, averaged weights at step {trainer.step} of "
        f"{trainer.steps})"
    )
    last, graded = display.last, display.validated
    if graded is not None and graded.validation is not None:
        v = graded.validation
        say(f"held out, at step {graded.step}: IoU {v.iou:.3f}, AUROC of the confidence {v.auroc:.3f}")
    if best.is_file():
        say(f"wrote {best}, the best by held-out IoU ({trainer.best:.3f})")
    pictures = ", ".join(str(folder / name) for name in (LOG, CURVES, STRIP) if (folder / name).is_file())
    say(f"wrote {pictures}")
    if last is not None:
        say(
            f"speed: {last.frames_per_second:.0f} frames/s, {last.bare_frames_per_second:.0f} without waiting for "
            f"clips ({last.waiting:.0%} of the time)"
        )
        if last.waiting > MUCH_WAITING:
            say(
                f"making clips ahead in more threads may be faster, if there are cores for it: --ahead {ahead + 2}"
            )
    chosen = best if best.is_file() else weights
    say(
        f"next: sttrack-export --checkpoint {shlex.quote(str(chosen))} --out export/{trainer.recipe.model.name}"
    )


if __name__ == "__main__":
    main()
