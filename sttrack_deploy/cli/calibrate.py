"""``sttrack-calibrate``: record what the search graph is fed in real tracking, for INT8."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

import click
from click.core import ParameterSource
from rich.table import Table

from sttrack_deploy.bundle import Bundle, open_bundle
from sttrack_deploy.calib.calibration_set import ADVISED_SAMPLES, CalibrationSet
from sttrack_deploy.engines.registry import BACKENDS, DEFAULT_BACKEND, load_engine
from sttrack_deploy.errors import UsageError
from sttrack_deploy.files import atomic_path
from sttrack_deploy.geometry import parse_box
from sttrack_deploy.policy import PolicyChanges
from sttrack_deploy.sequences.datasets import DATASETS
from sttrack_deploy.sequences.sequence import VideoSequence, select
from sttrack_deploy.terminal.help import GroupedCommand, heading
from sttrack_deploy.terminal.options import (
    ENGINE,
    bundle_option,
    check_reports,
    json_option,
    overwrite_option,
    tracking_options,
)
from sttrack_deploy.terminal.program import command, complain, console, progress_bar, say
from sttrack_deploy.terminal.types import FOLDER, PATH, THREADS, Integer

__all__ = ["main"]

MOST_ROWS = 30
"""Sequences in the table."""

NOT_OF_THE_SET = ("bundle", "out", "json_path", "overwrite")
"""Parameters that are not repeated in the command that the set keeps."""


@click.command(cls=GroupedCommand)
@click.argument("sources", nargs=-1, type=PATH)
@heading("Input")
@click.option("--init-box", metavar="X,Y,W,H", help="Target on the first frame, where SOURCE is one video.")
@click.option(
    "--dataset",
    type=click.Choice([name for name in DATASETS if name != "folder"]),
    metavar="NAME",
    help=f"Record from a published data set instead of SOURCES: {', '.join(n for n in DATASETS if n != 'folder')}.",
)
@click.option(
    "--data",
    type=PATH,
    help="That data set's folder.  [default: as sttrack-eval has it]",
)
@click.option("--sequences", metavar="GLOB", help="Only these, for example 'street_*' or 'a,b'.")
@click.option("--partial", is_flag=True, help="Take what is there of a data set that is not complete.")
@click.option(
    "--results",
    type=FOLDER,
    help="Follow the boxes of this evaluation run (sttrack-eval --out) of the sources; others are left out.",
)
@heading("Output")
@click.option(
    "--out",
    type=FOLDER,
    help="Folder of the set.  [default: calib/ and the bundle's name]",
)
@click.option(
    "--samples", type=Integer(1, 1_000_000), default=512, show_default=True, help="Samples to record."
)
@heading("Choice of samples", more=True)
@click.option(
    "--starts",
    type=Integer(1, 10_000),
    default=5,
    show_default=True,
    help="Tracks started in each sequence, for other templates; the first runs through all of it.",
)
@click.option(
    "--seed",
    type=Integer(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Seed of the choice of samples.",
)
@bundle_option
@heading(ENGINE)
@click.option(
    "--engine",
    type=click.Choice(list(BACKENDS)),
    default=DEFAULT_BACKEND,
    show_default=True,
    metavar="NAME",
    help="Back end that tracks, one that exports its state: as in sttrack-run.",
)
@click.option(
    "--threads",
    type=THREADS,
    default=1,
    show_default=True,
    help="CPU threads for inference; with more than one the set may not come out the same again.",
)
@tracking_options
@json_option
@overwrite_option
@click.pass_context
@command
def main(
    context: click.Context,
    sources: tuple[Path, ...],
    init_box: str | None,
    dataset: str | None,
    data: Path | None,
    sequences: str | None,
    partial: bool,
    results: Path | None,
    out: Path | None,
    samples: int,
    starts: int,
    seed: int,
    bundle: Path | None,
    engine: str,
    threads: int,
    changes: PolicyChanges,
    json_path: Path | None,
    overwrite: bool,
) -> None:
    """Record a calibration set: inputs of the search graph, state included, from tracking real video.

    SOURCES are folders with <name>.mp4 (or a folder of images) and <name>.txt, one x,y,w,h line a frame; for several
    targets in a video <name>__track1.txt and so on. Or one video, with --init-box.

    Never record from videos that you evaluate on: INT8 would be fitted to them, and its accuracy there would prove
    nothing. No program can tell which these are.
    """
    from sttrack_deploy.calib.recorder import Recording, check_output, record

    check_reports((json_path,), overwrite=overwrite, inputs=(bundle,), data=(*sources, data, results))
    opened = open_bundle(bundle)
    _require_fp32(opened)
    out = Path("calib") / opened.manifest.name if out is None else out
    check_output(out)
    chosen = select(_load(sources, init_box, dataset, data, partial), sequences)
    runs = {}
    if results is not None:
        from sttrack_deploy.calib.sources import evaluated

        runs = evaluated(results, chosen, dataset or sources[0].resolve().name)
        chosen = [s for s in chosen if s.name in runs]
    recording = Recording(
        samples=samples,
        starts=starts,
        seed=seed,
        policy=opened.manifest.tracking.override(changes),
        command=_command_line(context),
        runs=runs,
    )
    started = time.monotonic()
    with progress_bar() as bar:
        made = record(opened, load_engine(engine, opened, threads), chosen, recording, out, bar)
    seconds = time.monotonic() - started
    _show(made)
    _say_end(made, samples, seconds, bundle)
    _emit(made, seconds, json_path)


def _load(
    sources: Sequence[Path], init_box: str | None, dataset: str | None, data: Path | None, partial: bool
) -> list[VideoSequence]:
    from sttrack_deploy.calib.sources import one_video, read_annotated_videos
    from sttrack_deploy.sequences.datasets.locations import locate

    if bool(sources) == bool(dataset):
        raise UsageError(
            "name what to record from: a folder of annotated videos, a video with --init-box X,Y,W,H, or --dataset NAME"
        )
    if data is not None and dataset is None:
        raise UsageError(
            "--data goes with --dataset; a folder of annotated videos is named without an option"
        )
    if init_box is not None:
        if len(sources) != 1:
            raise UsageError(f"--init-box belongs to one video, but {len(sources)} sources are named")
        return [one_video(sources[0], parse_box(init_box))]
    if dataset is not None:
        return DATASETS[dataset].read(locate(dataset, data), partial)
    if videos := [path for path in sources if path.is_file()]:
        raise UsageError(f"{videos[0]} is a video: say where its target is with --init-box X,Y,W,H")
    found = [sequence for folder in sources for sequence in read_annotated_videos(folder)]
    names = [sequence.name for sequence in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(
            f"{twice[0]} is in two of the folders; rename one, or record from one folder at a time"
        )
    return found


def _require_fp32(bundle: Bundle) -> None:
    precision = bundle.manifest.precision.get("name")
    if precision != "fp32":
        raise UsageError(
            f"{bundle.path} is {precision}; a set is recorded with the fp32 bundle that the others are made from"
        )


def _command_line(context: click.Context) -> str:
    """What was typed, less what says with what and where to; the arguments come first."""
    words: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        typed = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if name in NOT_OF_THE_SET or not typed:
            continue
        value = context.params[name]
        if isinstance(parameter, click.Argument):
            words = [*map(str, value), *words]
        elif isinstance(value, bool):
            words.append(parameter.opts[0] if value else parameter.secondary_opts[0])
        else:
            words += [parameter.opts[0], str(value)]
    return shlex.join(["sttrack-calibrate", *words])


def _show(made: CalibrationSet) -> None:
    manifest = made.manifest
    table = Table(box=None, pad_edge=False)
    for column in ("sequence", "tracked", "samples"):
        table.add_column(column, justify="left" if column == "sequence" else "right")
    for source in manifest.sources[:MOST_ROWS]:
        table.add_row(source.sequence, str(source.tracked), str(source.samples))
    if len(manifest.sources) > MOST_ROWS:
        table.add_row(f"… and {len(manifest.sources) - MOST_ROWS} more", "", "")
    console.print(table)
    spread = manifest.confidence
    table = Table(box=None, pad_edge=False)
    for column in ("confidence", "tracked", "samples"):
        table.add_column(column, justify="left" if column == "confidence" else "right")
    for low, high, there, taken in zip(
        spread.edges, spread.edges[1:], spread.available, spread.taken, strict=False
    ):
        note = " (lost)" if low == 0.0 else ""
        table.add_row(f"{low:.2f} to {high:.2f}{note}", str(there), str(taken))
    console.print(table)


def _say_end(made: CalibrationSet, wanted: int, seconds: float, bundle: Path | None) -> None:
    manifest = made.manifest
    say(
        f"recorded {len(made)} samples from {len(manifest.sources)} sequence(s), {made.templates} template(s), in "
        f"{seconds:.0f} s: {made.path}, {manifest.bytes / 1e6:.1f} MB"
    )
    confidence = sorted(sample.confidence for sample in manifest.samples)
    say(
        f"confidence {confidence[0]:.2f} to {confidence[-1]:.2f}, median {confidence[len(confidence) // 2]:.2f}; "
        f"{manifest.padded_share:.0%} of the crops reach over the image's border"
    )
    if len(made) < wanted:
        complain(f"only {len(made)} of {wanted} samples: the sources have no more frames; name more of them")
    if len(made) < ADVISED_SAMPLES:
        complain(
            f"{len(made)} samples are few: under {ADVISED_SAMPLES}, rare large activations are missed and INT8 may "
            "lose accuracy"
        )
    source = bundle if bundle is not None else manifest.bundle["name"]
    words = ["sttrack-convert", str(source), "--precision", "int8", "--calib", str(made.path)]
    say(f"next: {shlex.join(words)}")


def _emit(made: CalibrationSet, seconds: float, json_path: Path | None) -> None:
    if json_path is None:
        return
    document = {
        "path": str(made.path),
        "sha256": made.sha256,
        "seconds": round(seconds, 3),
        "bytes": made.manifest.bytes,
        "manifest": json.loads(made.manifest.to_json()),
    }
    text = json.dumps(document, indent=1) + "\n"
    if str(json_path) == "-":
        click.echo(text, nl=False)
        return
    with atomic_path(json_path) as temporary:
        temporary.write_text(text, encoding="utf-8")
