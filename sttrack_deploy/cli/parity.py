"""``sttrack-parity``: is an exported, quantized or built network still the one in PyTorch?"""

from __future__ import annotations

import contextlib
import math
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from rich.markup import escape

from sttrack_deploy.engines.registry import load_engine
from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.evaluation.reporting.tables import plain_table
from sttrack_deploy.files import atomic_path
from sttrack_deploy.sequences.sequence import VideoSequence
from sttrack_deploy.terminal.help import GroupedCommand, heading
from sttrack_deploy.terminal.options import (
    DATA,
    RESULTS,
    check_reports,
    chosen_bundles,
    chosen_engines,
    data_options,
    dataset_title,
    emit_json,
    json_option,
    load_sequences,
    overwrite_option,
    subject_options,
    threads_option,
)
from sttrack_deploy.terminal.program import command, complain, console, progress_bar, say
from sttrack_deploy.terminal.types import FILE, MOST_FRAMES, Integer, Number
from sttrack_deploy.verification.closed_loop import DEMO, Beginning, demo_sequence
from sttrack_deploy.verification.gates import DIVERGED_BELOW, ON_TARGET
from sttrack_deploy.verification.parity.report import NotRun, ParityResult, parity_document
from sttrack_deploy.verification.parity.run import (
    Deployment,
    DeploymentParity,
    Reference,
    compare,
    run_reference,
)

__all__ = ["main", "show", "write_plot"]

SHOWN_FRAMES = (1, 3, 10, 30, 100, 300, 1000)


def show(results: Sequence[ParityResult], data: str) -> None:
    """The closed loop of all, then tensors, growth and bisect of each."""
    table = plain_table(f"closed loop beside PyTorch, {data}")
    table.add_column("bundle, engine", no_wrap=True)
    for title in ("mean IoU", "least", "diverged", "AUC", "PyTorch", "gate"):
        table.add_column(title, justify="right", no_wrap=True)
    for result in results:
        name = escape(result.deployment.label)
        if isinstance(result, NotRun):
            table.add_row(name, *["-"] * 5, "not run")
            continue
        a = result.agreement
        gate = "[green]pass[/]" if result.verdict.passed else "[red]FAIL[/]"
        table.add_row(
            name,
            f"{a.mean_iou:.4f}",
            f"{a.least_iou:.3f}",
            f"{len(a.diverged)}/{len(a.sequences)}",
            f"{a.auc:.4f}",
            f"{a.auc_reference:.4f}",
            gate,
        )
    console.print(table)
    for result in results:
        if isinstance(result, NotRun):
            complain(f"{result.deployment.label} was not run: {result.reason}")
        else:
            _show_one(result)


def write_plot(results: Sequence[ParityResult], data: str, path: Path | None) -> None:
    """The plot as PNG; nothing without a path or a result.

    Raises:
        UserError: it cannot be written.
    """
    measured = [result for result in results if isinstance(result, DeploymentParity)]
    if path is None or not measured:
        return
    from sttrack_deploy.verification.parity.report import parity_plot

    with atomic_path(path) as temporary:
        temporary.write_bytes(parity_plot(measured, data).png())
    say(f"made {path}")


def _show_one(result: DeploymentParity) -> None:
    label = result.deployment.label
    say(f"{label}: {result.verdict.detail}: {'passed' if result.verdict.passed else 'FAILED'}")
    if result.agreement.diverged:
        a = result.agreement
        say(
            f"  mean IoU up to where boxes diverge (IoU under {DIVERGED_BELOW}): {a.mean_iou_before_divergence:.4f}; "
            f"where PyTorch is on the target (IoU over {ON_TARGET}): {a.mean_iou_on_target:.4f}"
        )
    for s in result.agreement.diverged[:10]:
        points = 100 * (s.auc - s.auc_reference)
        say(
            f"  {s.name}: boxes diverge at frame {s.diverged_at}, mean IoU {s.mean_iou:.4f}, AUC {points:+.2f} points"
        )
    if len(result.agreement.diverged) > 10:
        say(f"  … and {len(result.agreement.diverged) - 10} more sequences")
    replayed = result.replay
    table = plain_table(
        f"{label}: tensors over {replayed.frames} frames, same crops, each step from PyTorch's state"
    )
    table.add_column("tensor")
    for title in ("max |error|", "mean |error|", "relative", "cosine"):
        table.add_column(title, justify="right", no_wrap=True)
    for t in replayed.tensors:
        cosine = "" if math.isnan(t.cosine) else f"{t.cosine:.7f}"
        table.add_row(escape(t.name), f"{t.largest:.2e}", f"{t.mean:.2e}", f"{t.relative:.2e}", cosine)
    console.print(table)
    curves = replayed.growth
    frames = [n for n in SHOWN_FRAMES if n <= len(curves.box)]
    for name, values in (("box", curves.box), ("confidence", curves.confidence), ("state", curves.state)):
        shown = "  ".join(f"{n}: {values[n - 1]:.1e}" for n in frames)
        say(f"  {name} error by frame, state carried: {shown}")
    _show_divergence(result)


def _show_divergence(result: DeploymentParity) -> None:
    d = result.divergence
    if d is None:
        say(f"  {result.note or f'no tensor diverges by more than {result.tolerance:g} of its magnitude'}")
        return
    where = f"{d.sequence} frame {d.frame}, {d.graph} graph beside {d.compared_with}"
    number = len(d.steps)
    if d.first is not None:
        place = d.steps.index(d.first) + 1
        say(
            f"  diverges first at {where}: tensor {d.first.tensor} ({d.first.operator}, {place} of {number}), "
            f"relative error {d.first.relative:.1e} (tolerance {d.tolerance:g})"
        )
    else:
        say(f"  beyond the tolerance {d.tolerance:g} at {where}, but none of its {number} tensors alone is")
    if d.worst is not None and d.worst != d.first:
        w = d.worst
        say(f"  greatest: tensor {w.tensor} ({w.operator}), relative error {w.relative:.1e}")
    if d.missing:
        say(f"  {d.missing} tensors of the reference graph have no counterpart by name")


RECORDED_SEQUENCES = 8
"""Sequences whose beginnings are replayed; their crops are kept in memory."""


@click.command(cls=GroupedCommand)
@subject_options
@data_options
@threads_option
@heading(DATA)
@click.option("--frames", type=Integer(2, MOST_FRAMES), help="Only the first N frames of each sequence.")
@heading("Errors of tensors", more=True)
@click.option(
    "--replay",
    "replayed",
    type=Integer(1, MOST_FRAMES),
    default=100,
    show_default=True,
    help=f"Frames replayed for tensor errors, in each of at most {RECORDED_SEQUENCES} sequences.",
)
@click.option(
    "--tolerance",
    type=Number(0, min_open=True, max=1e9),
    help="Relative error from which a tensor has diverged.  [default: by precision]",
)
@json_option
@heading(RESULTS)
@click.option("--plot", type=FILE, help="Draw IoU over time (PNG).")
@overwrite_option
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
    overwrite: bool,
) -> None:
    """Hold bundles on engines against PyTorch: tensor by tensor, and in closed loop on annotated video.

    PyTorch runs the weights that lie in the bundle, once for all deployments. Exits with 1 if a gate fails or a
    deployment cannot be run. Without --data only the demo clip is tracked.
    """
    check_reports((json_path,), plot=plot, overwrite=overwrite, inputs=bundles, data=(data,))
    names = chosen_engines(engines, engine_list)
    opened = chosen_bundles(bundles, precisions)
    deployments = [Deployment(bundle, name) for bundle in opened for name in names]
    with _material(dataset, data, sequences, partial, frames) as (chosen, title):
        beginnings = [Beginning.of(sequence, frames) for sequence in chosen]
        results, facts = _measure(deployments, beginnings, threads, replayed, tolerance)
    count = sum(b.frames for b in beginnings)
    setting = {
        "threads": threads,
        "frames": count,
        "sequences": len(beginnings),
        "frames_limit": frames,
        "replayed_frames": replayed,
        "reference": facts,
    }
    show(results, f"{title}: {len(beginnings)} sequence{'s' * (len(beginnings) != 1)}, {count} frames")
    if title == DEMO:
        say("gated on the demo clip only; name annotated videos with --data DIR")
    emit_json(parity_document(results, title, setting), json_path)
    write_plot(results, title, plot)
    failed = [o for o in results if isinstance(o, NotRun) or not o.verdict.passed]
    if failed:
        names_failed = ", ".join(o.deployment.label for o in failed)
        say(f"not proven: {names_failed} ({len(failed)} of {len(results)})")
        sys.exit(1)
    say(f"proven: {len(results)} of {len(results)} pass their gates")
    shown = " ".join(shlex.quote(str(bundle.path)) for bundle in opened)
    say(f"next: sttrack-bench {shown} " + " ".join(f"--engine {name}" for name in ("torch", *names)))


@contextlib.contextmanager
def _material(
    dataset: str, data: Path | None, pattern: str | None, partial: bool, frames: int | None
) -> Iterator[tuple[list[VideoSequence], str]]:
    """The sequences and what to call them."""
    if data is None and dataset == "folder":
        if pattern is not None:
            raise UsageError("--sequences chooses from a data set: name it with --data DIR or --dataset NAME")
        with demo_sequence(frames) as sequence:
            yield [sequence], DEMO
        return
    chosen = load_sequences(dataset, data, pattern, partial)
    if not all(s.scorable for s in chosen):
        raise UsageError(f"only a server can score {dataset}; name a data set whose truth is published")
    yield chosen, dataset_title(dataset, data)


def _measure(
    deployments: list[Deployment],
    beginnings: list[Beginning],
    threads: int | None,
    replayed: int,
    tolerance: float | None,
) -> tuple[list[ParityResult], dict[str, str]]:
    """Run the reference once for all that share it, then each deployment."""
    obstacles = [_obstacle(deployment, threads) for deployment in deployments]
    if None not in obstacles:
        raise UserError("nothing could be run: " + "; ".join(dict.fromkeys(filter(None, obstacles))))
    recorded = _spread([b.whole.name for b in beginnings], RECORDED_SEQUENCES)
    closed = sum(b.frames for b in beginnings)
    again = sum(min(replayed, b.frames - 1) for b in beginnings if b.whole.name in recorded)
    exact = {c.reference_key: c.bundle for c in reversed(deployments) if c.precision == "fp32"}
    references: dict[tuple[str, str, str], Reference] = {}
    results: list[ParityResult] = []
    with progress_bar() as bar:
        for deployment, obstacle in zip(deployments, obstacles, strict=True):
            if obstacle is not None:
                results.append(NotRun(deployment, obstacle))
                continue
            key = deployment.reference_key
            if key not in references:
                bar.stage("PyTorch", closed)
                references[key] = run_reference(
                    deployment.bundle, beginnings, threads, recorded, replayed, bar
                )
            bar.stage(deployment.label, closed + again)
            try:
                results.append(compare(deployment, references[key], threads, exact.get(key), tolerance, bar))
            except UserError as error:
                results.append(NotRun(deployment, str(error)))
    return results, next(iter(references.values())).facts


def _obstacle(deployment: Deployment, threads: int | None) -> str | None:
    """Why a deployment cannot run here, found out before the reference takes its minutes."""
    try:
        load_engine(deployment.engine, deployment.bundle, threads)
    except UserError as error:
        return str(error)
    return None


def _spread(names: list[str], count: int) -> frozenset[str]:
    """``count`` of them, evenly."""
    if len(names) <= count:
        return frozenset(names)
    return frozenset(names[i * (len(names) - 1) // (count - 1)] for i in range(count))
