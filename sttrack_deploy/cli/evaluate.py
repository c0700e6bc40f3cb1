"""``sttrack-eval``: how well does a bundle track, on annotated sequences."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sttrack_deploy import __version__
from sttrack_deploy.bundle import MANIFEST
from sttrack_deploy.cli.common import (
    INTERRUPTED,
    bundle_option,
    command,
    console,
    engine_options,
    tracking_options,
)
from sttrack_deploy.engines.registry import DEFAULT_BACKEND
from sttrack_deploy.errors import UserError
from sttrack_deploy.evaluation.dataset import DATASETS, Sequence, select
from sttrack_deploy.evaluation.metrics import PYTRACKING
from sttrack_deploy.evaluation.report import Report, SequenceReport, score_run, write_json
from sttrack_deploy.evaluation.results import write_run
from sttrack_deploy.evaluation.runner import (
    BundleTracker,
    SequenceFailure,
    SingleTargetTracker,
    run_sequences,
    threads_each,
)
from sttrack_deploy.files import sha256_of
from sttrack_deploy.runtime.tracker import Tracker

__all__ = ["evaluate", "main", "show"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--dataset",
    type=click.Choice(list(DATASETS)),
    default="folder",
    show_default=True,
    help="Layout of the data.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="The data's folder: <name>.mp4 (or a folder of images) and <name>.txt, one x,y,w,h line a frame.",
)
@bundle_option
@engine_options
@tracking_options
@click.option("--sequences", metavar="GLOB", help="Only these, for example 'otb_*' or 'a,b'.")
@click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Write everything for programs; - for standard output.",
)
@click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write boxes, confidences and times here.",
)
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes, a sequence each."
)
@command
def main(
    dataset: str,
    data: Path,
    bundle: Path | None,
    engine: str,
    threads: int | None,
    lost_below: float | None,
    recover: bool | None,
    sequences: str | None,
    json_path: Path | None,
    results: Path | None,
    workers: int,
) -> None:
    """Measure tracking accuracy and speed on annotated sequences.

    Tracking starts on each sequence's first true box and is never helped again. Exits with 1 if a sequence
    failed; the others are measured all the same. Ctrl-C keeps what is done.
    """
    chosen = select(DATASETS[dataset](data), sequences)
    maker = BundleTracker(bundle, engine, threads_each(threads, workers), lost_below, recover)
    tracker = maker()  # made here even for workers, so that a bad bundle ends the run before it starts
    report, interrupted = evaluate(
        maker if workers > 1 else lambda: tracker,
        chosen,
        label=f"{tracker.bundle.manifest.name} ({engine})",
        dataset=data.name or str(data),
        subject=_subject(tracker, maker, workers),
        results=results,
        workers=workers,
    )
    show(report)
    if workers > 1:
        _say(f"these FPS are of {workers} workers side by side; measure speed with --workers 1")
    if json_path is not None:
        text = write_json(report.to_dict(), None if str(json_path) == "-" else json_path)
        if str(json_path) == "-":
            click.echo(text, nl=False)
    _say_what_next(report, chosen, bundle, engine, json_path, results)
    if interrupted:
        sys.exit(INTERRUPTED)
    if report.failures:
        sys.exit(1)


def evaluate(
    make_tracker: Callable[[], SingleTargetTracker],
    sequences: list[Sequence],
    *,
    label: str,
    dataset: str,
    subject: dict[str, Any],
    results: Path | None = None,
    workers: int = 1,
) -> tuple[Report, bool]:
    """Run and score under a progress bar; result files are written as each sequence ends.

    Returns:
        The report, its sequences in the order given, and whether Ctrl-C cut it short.
    """
    by_name = {sequence.name: sequence for sequence in sequences}
    done: dict[str, SequenceReport] = {}
    failures: dict[str, SequenceFailure] = {}
    interrupted = False
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("frames, ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=sum(len(sequence) for sequence in sequences))
        runs = run_sequences(make_tracker, sequences, workers, lambda frames: bar.advance(task, frames))
        try:
            for run in runs:
                if isinstance(run, SequenceFailure):
                    failures[run.name] = run
                else:
                    if results is not None:
                        write_run(run, results)
                    try:
                        done[run.name] = score_run(run, by_name[run.name], PYTRACKING)
                    except UserError as error:
                        failures[run.name] = SequenceFailure(run.name, str(error))
                if run.name in failures:
                    _complain(f"{run.name} failed: {failures[run.name].error}")
        except KeyboardInterrupt:
            interrupted = True
            _complain(f"interrupted: {len(done)} of {len(sequences)} sequences are done")
        finally:
            runs.close()
    order = [sequence.name for sequence in sequences]
    return (
        Report(
            label=label,
            dataset=dataset,
            protocol=PYTRACKING,
            sequences=tuple(done[name] for name in order if name in done),
            failures=tuple(failures[name] for name in order if name in failures),
            planned=len(sequences),
            subject=subject,
        ),
        interrupted,
    )


def show(report: Report) -> None:
    """Print the table and its notes, if anything was measured."""
    if report.sequences:
        console.print(report.table())
        for note in report.notes():
            console.print(note, markup=False, soft_wrap=True)


def _subject(tracker: Tracker, maker: BundleTracker, workers: int) -> dict[str, Any]:
    """What was measured, for the JSON."""
    bundle = tracker.bundle
    return {
        "sttrack_deploy": __version__,
        "bundle": {
            "name": bundle.manifest.name,
            "path": str(bundle.path),
            "precision": bundle.manifest.precision.get("name"),
            "template_sha256": bundle.manifest.template.sha256,
            "search_sha256": bundle.manifest.search.sha256,
            "manifest_sha256": sha256_of(bundle.path / MANIFEST),
        },
        "engine": {"name": tracker.engine.name, **tracker.engine.describe()},
        "tracking": dataclasses.asdict(tracker.policy),
        "threads": maker.threads,
        "workers": workers,
    }


def _say_what_next(
    report: Report,
    sequences: list[Sequence],
    bundle: Path | None,
    engine: str,
    json_path: Path | None,
    results: Path | None,
) -> None:
    """The end of the command: what was made, where, how good, and what to type next."""
    made = len(report.sequences)
    if report.failures:
        _complain(
            f"{len(report.failures)} of {report.planned} sequences failed: "
            f"{', '.join(failure.name for failure in report.failures)}"
        )
    if json_path is not None and str(json_path) != "-":
        _say(f"made {json_path}")
    if not made:
        return
    if results is not None:
        _say(f"made {3 * made} result files in {results}")
    score = report.score
    _say(
        f"{report.label}: AUC {score.auc:.3f}, precision {score.precision:.3f} by {report.protocol.name}, "
        f"{report.frames} frames, {report.fps:.1f} FPS"
    )
    worst = min(report.sequences, key=lambda s: s.score.auc)
    sequence = next(s for s in sequences if s.name == worst.name)
    box = ",".join(f"{value:g}" for value in sequence.truth[0])
    words = ["sttrack-run", str(sequence.source), "--init-box", box]
    words += [] if bundle is None else ["--bundle", str(bundle)]
    words += [] if engine == DEFAULT_BACKEND else ["--engine", engine]
    _say(f"next, see the hardest one ({worst.name}, AUC {worst.score.auc:.3f}): {shlex.join(words)}")


def _say(text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


def _complain(text: str) -> None:
    console.print(text, markup=False, soft_wrap=True, style="red")
