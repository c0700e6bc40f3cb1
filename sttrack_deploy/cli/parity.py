"""``sttrack-parity``: is an exported, quantized or built network still the one in PyTorch?"""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from sttrack_deploy.cli.candidates import candidate_options, chosen_bundles, chosen_engines
from sttrack_deploy.cli.common import command, json_option, say, threads_option
from sttrack_deploy.cli.data import data_options, dataset_title, load_sequences
from sttrack_deploy.cli.evaluate_outcome import emit_json
from sttrack_deploy.cli.parity_outcome import show, write_plot
from sttrack_deploy.cli.tracker_evaluation import progress_bar
from sttrack_deploy.engines.registry import create_engine
from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.evaluation.reporting.plot_style import drawing
from sttrack_deploy.evaluation.sequence import Sequence
from sttrack_deploy.verification.closed_loop import DEMO, Beginning, demo_sequence
from sttrack_deploy.verification.parity import Candidate, Reference, compare, run_reference
from sttrack_deploy.verification.parity_document import NotRun, Outcome, parity_document

__all__ = ["main"]

RECORDED_SEQUENCES = 8
"""Sequences whose beginnings are replayed; their crops are kept in memory."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@candidate_options
@data_options
@threads_option
@click.option("--frames", type=click.IntRange(min=2), help="Only the first N frames of each sequence.")
@click.option(
    "--replay",
    "replayed",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help=f"Frames replayed for tensor errors, in each of at most {RECORDED_SEQUENCES} sequences.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, min_open=True),
    help="Relative error from which a tensor has parted.  [default: by precision]",
)
@json_option
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw IoU over time (PNG).")
@command
def main(
    bundles: tuple[Path, ...],
    engines: tuple[str, ...],
    engine_list: str | None,
    precisions: str | None,
    dataset: str,
    data: Path | None,
    sequences: str | None,
    partial: bool,
    threads: int | None,
    frames: int | None,
    replayed: int,
    tolerance: float | None,
    json_path: Path | None,
    plot: Path | None,
) -> None:
    """Hold bundles on engines against PyTorch: tensor by tensor, and in closed loop on annotated video.

    PyTorch runs the weights that lie in the bundle, once for all candidates. Exits with 1 if a gate fails or a
    candidate cannot be run. Without --data only the demo clip is tracked.
    """
    if plot is not None:
        with drawing():  # refuses now, and not after the measurement, where matplotlib is missing
            pass
    names = chosen_engines(engines, engine_list)
    opened = chosen_bundles(bundles, precisions)
    candidates = [Candidate(bundle, name) for bundle in opened for name in names]
    with _material(dataset, data, sequences, partial, frames) as (chosen, title):
        beginnings = [Beginning.of(sequence, frames) for sequence in chosen]
        outcomes, facts = _measure(candidates, beginnings, threads, replayed, tolerance)
    count = sum(b.frames for b in beginnings)
    setting = {
        "threads": threads,
        "frames": count,
        "sequences": len(beginnings),
        "frames_limit": frames,
        "replayed_frames": replayed,
        "reference": facts,
    }
    show(outcomes, f"{title}: {len(beginnings)} sequence{'s' * (len(beginnings) != 1)}, {count} frames")
    if title == DEMO:
        say("gated on the demo clip only; name annotated videos with --data DIR")
    emit_json(parity_document(outcomes, title, setting), json_path)
    write_plot(outcomes, title, plot)
    failed = [o for o in outcomes if isinstance(o, NotRun) or not o.verdict.passed]
    if failed:
        names_failed = ", ".join(o.candidate.label for o in failed)
        say(f"not proven: {names_failed} ({len(failed)} of {len(outcomes)})")
        sys.exit(1)
    say(f"proven: {len(outcomes)} of {len(outcomes)} pass their gates")
    shown = " ".join(shlex.quote(str(bundle.path)) for bundle in opened)
    say(f"next: sttrack-bench {shown} " + " ".join(f"--engine {name}" for name in ("torch", *names)))


@contextlib.contextmanager
def _material(
    dataset: str, data: Path | None, pattern: str | None, partial: bool, frames: int | None
) -> Iterator[tuple[list[Sequence], str]]:
    """The sequences and what to call them."""
    if data is None and dataset == "folder":
        with demo_sequence(frames) as sequence:
            yield [sequence], DEMO
        return
    chosen = load_sequences(dataset, data, pattern, partial)
    if not all(s.scorable for s in chosen):
        raise UsageError(f"only a server can score {dataset}; name a data set whose truth is published")
    yield chosen, dataset_title(dataset, data)


def _measure(
    candidates: list[Candidate],
    beginnings: list[Beginning],
    threads: int | None,
    replayed: int,
    tolerance: float | None,
) -> tuple[list[Outcome], dict[str, str]]:
    """Run the reference once for all that share it, then each candidate."""
    obstacles = [_obstacle(candidate, threads) for candidate in candidates]
    if None not in obstacles:
        raise UserError("nothing could be run: " + "; ".join(dict.fromkeys(filter(None, obstacles))))
    recorded = _spread([b.whole.name for b in beginnings], RECORDED_SEQUENCES)
    closed = sum(b.frames for b in beginnings)
    again = sum(min(replayed, b.frames - 1) for b in beginnings if b.whole.name in recorded)
    exact = {c.reference_key: c.bundle for c in reversed(candidates) if c.precision == "fp32"}
    references: dict[tuple[str, str, str], Reference] = {}
    outcomes: list[Outcome] = []
    with progress_bar() as bar:

        def ticker(description: str, total: int) -> Callable[[], None]:
            task = bar.add_task(description, total=total)
            return lambda: bar.advance(task)

        for candidate, obstacle in zip(candidates, obstacles, strict=True):
            if obstacle is not None:
                outcomes.append(NotRun(candidate, obstacle))
                continue
            key = candidate.reference_key
            if key not in references:
                tick = ticker("PyTorch", closed)
                references[key] = run_reference(
                    candidate.bundle, beginnings, threads, recorded, replayed, tick
                )
            tick = ticker(candidate.label, closed + again)
            try:
                outcomes.append(compare(candidate, references[key], threads, exact.get(key), tolerance, tick))
            except UserError as error:
                outcomes.append(NotRun(candidate, str(error)))
    return outcomes, next(iter(references.values())).facts


def _obstacle(candidate: Candidate, threads: int | None) -> str | None:
    """Why a candidate cannot run here, found out before the reference takes its minutes."""
    try:
        create_engine(candidate.engine, candidate.bundle, threads)
    except UserError as error:
        return str(error)
    return None


def _spread(names: list[str], count: int) -> frozenset[str]:
    """``count`` of them, evenly."""
    if len(names) <= count:
        return frozenset(names)
    return frozenset(names[i * (len(names) - 1) // (count - 1)] for i in range(count))
