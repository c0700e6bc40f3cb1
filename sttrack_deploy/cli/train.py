"""``sttrack-train``: train a network on moving photographs and annotated videos."""

from __future__ import annotations

import math
from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sttrack_deploy.cli.common import command, console
from sttrack_deploy.cli.train_material import load_material
from sttrack_deploy.errors import MissingDependencyError

FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--recipe",
    "recipe_path",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="TOML file with the run's settings.",
)
@click.option("--images", type=FOLDER, help="Photographs with index.csv; they are made into moving clips.")
@click.option(
    "--videos", type=FOLDER, multiple=True, help="Annotated videos (<name>.mp4 + <name>.txt); repeatable."
)
@click.option("--out", type=FOLDER, required=True, help="The run's folder; a run that lies there is resumed.")
@click.option("--init", type=click.Path(path_type=Path, dir_okay=False), help="Weights to start from.")
@click.option("--until", type=click.IntRange(min=1), help="Stop at this step; resume later.")
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), help="Stop after this time; resume later."
)
@click.option("--device", default="cpu", show_default=True, help="torch device.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all]")
@click.option("--image-limit", type=click.IntRange(min=1), help="Use only so many photographs (for a trial).")
@click.option(
    "--report-every", type=click.IntRange(min=1), default=50, show_default=True, help="Steps a log line."
)
@click.option("--validate-every", type=click.IntRange(min=1), default=1000, show_default=True, help="Steps.")
@click.option(
    "--validation-clips", type=click.IntRange(min=2), default=128, show_default=True, help="Held out."
)
@command
def main(
    recipe_path: Path,
    images: Path | None,
    videos: tuple[Path, ...],
    out: Path,
    init: Path | None,
    until: int | None,
    minutes: float | None,
    device: str,
    threads: int | None,
    image_limit: int | None,
    report_every: int,
    validate_every: int,
    validation_clips: int,
) -> None:
    """Train from a recipe; stop at any time (Ctrl-C) and run the same line again to go on."""
    try:
        import torch

        from sttrack_deploy.models.training.recipe import read_recipe
        from sttrack_deploy.models.training.trainer import BEST, WEIGHTS, Trainer
        from sttrack_deploy.models.training.trainer import Progress as Line
        from sttrack_deploy.models.weights import load_weights
    except ImportError as error:
        name = error.name or "torch"
        raise MissingDependencyError(name, "training", 'pip install "sttrack-deploy[train]"') from error
    recipe = read_recipe(recipe_path)
    if threads:
        torch.set_num_threads(threads)
    with console.status("reading the training material"):
        source, held_out = load_material(recipe, images, videos, out, device, image_limit, validation_clips)
    initial = load_weights(init, recipe.model) if init else None
    trainer = Trainer(recipe, source, out, held_out, initial, device)
    parameters = sum(p.numel() for p in trainer.network.parameters())
    console.print(
        f"{recipe.model.name}: {parameters / 1e6:.2f} M parameters, from step {trainer.step} of "
        f"{recipe.optimizer.steps}, {recipe.data.clips} clips of {recipe.data.frames} frames a step, in {out}"
    )
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=until or recipe.optimizer.steps, completed=trainer.step)

        def show(line: Line) -> None:
            bar.update(task, completed=line.step)
            text = (
                f"step {line.step:>6}  loss {line.loss:6.3f}  IoU {line.iou:.3f}  "
                f"{line.frames_per_second:5.0f} frames/s  lr {line.learning_rate:.2e}"
            )
            if line.validation:
                text += f"  | held out: IoU {line.validation.iou:.3f}, AUROC {line.validation.auroc:.3f}"
            bar.console.print(text)

        try:
            trainer.run(
                show, until, report_every, validate_every, math.inf if minutes is None else 60 * minutes
            )
        except KeyboardInterrupt:
            console.print(f"stopped at step {trainer.step}; the same command goes on from there")
            raise SystemExit(130) from None
    weights = out / WEIGHTS
    console.print(
        f"wrote {weights} ({weights.stat().st_size / 1e6:.1f} MB, averaged weights at step {trainer.step}) "
        f"and the best by held-out IoU, {out / BEST}"
        if (out / BEST).exists()
        else f"wrote {weights}"
    )
    console.print(
        f"next: sttrack-export --checkpoint {weights} --out export/{recipe.model.name}", soft_wrap=True
    )
