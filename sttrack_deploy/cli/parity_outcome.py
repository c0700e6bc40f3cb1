"""What ``sttrack-parity`` shows and writes at its end."""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from pathlib import Path

from rich.markup import escape

from sttrack_deploy.cli.common import complain, console, say
from sttrack_deploy.evaluation.reporting.tables import plain_table
from sttrack_deploy.files import atomic_path
from sttrack_deploy.verification.agreement import ON_TARGET, PARTED_BELOW
from sttrack_deploy.verification.parity import CandidateParity
from sttrack_deploy.verification.parity_document import NotRun, Outcome

__all__ = ["show", "write_plot"]

SHOWN_FRAMES = (1, 3, 10, 30, 100, 300, 1000)


def show(outcomes: Seq[Outcome], data: str) -> None:
    """The closed loop of all, then tensors, growth and bisect of each."""
    table = plain_table(f"closed loop beside PyTorch, {data}")
    table.add_column("candidate", no_wrap=True)
    for heading in ("mean IoU", "least", "parted", "AUC", "PyTorch", "gate"):
        table.add_column(heading, justify="right", no_wrap=True)
    for outcome in outcomes:
        name = escape(outcome.candidate.label)
        if isinstance(outcome, NotRun):
            table.add_row(name, *["-"] * 5, "not run")
            continue
        a = outcome.agreement
        gate = "[green]pass[/]" if outcome.verdict.passed else "[red]FAIL[/]"
        table.add_row(
            name,
            f"{a.mean_iou:.4f}",
            f"{a.least_iou:.3f}",
            f"{len(a.parted)}/{len(a.sequences)}",
            f"{a.auc:.4f}",
            f"{a.auc_reference:.4f}",
            gate,
        )
    console.print(table)
    for outcome in outcomes:
        if isinstance(outcome, NotRun):
            complain(f"{outcome.candidate.label} was not run: {outcome.reason}")
        else:
            _show_one(outcome)


def write_plot(outcomes: Seq[Outcome], data: str, path: Path | None) -> None:
    """The plot as PNG; nothing without a path or a result.

    Raises:
        UserError: it cannot be written.
    """
    results = [o for o in outcomes if isinstance(o, CandidateParity)]
    if path is None or not results:
        return
    from sttrack_deploy.verification.parity_plot import parity_plot

    with atomic_path(path) as temporary:
        temporary.write_bytes(parity_plot(results, data).png())
    say(f"made {path}")


def _show_one(result: CandidateParity) -> None:
    label = result.candidate.label
    say(f"{label}: {result.verdict.detail}: {'passed' if result.verdict.passed else 'FAILED'}")
    if result.agreement.parted:
        a = result.agreement
        say(
            f"  mean IoU up to where boxes part (IoU under {PARTED_BELOW}): {a.mean_iou_before_parting:.4f}; "
            f"where PyTorch is on the target (IoU over {ON_TARGET}): {a.mean_iou_on_target:.4f}"
        )
    for s in result.agreement.parted[:10]:
        points = 100 * (s.auc - s.auc_reference)
        say(
            f"  {s.name}: boxes part at frame {s.parted_at}, mean IoU {s.mean_iou:.4f}, AUC {points:+.2f} points"
        )
    if len(result.agreement.parted) > 10:
        say(f"  … and {len(result.agreement.parted) - 10} more sequences")
    replayed = result.replay
    whose = "each step from PyTorch's state" if replayed.single_step else "with its own state carried"
    table = plain_table(f"{label}: tensors over {replayed.frames} frames, same crops, {whose}")
    table.add_column("tensor")
    for heading in ("max |error|", "mean |error|", "relative", "cosine"):
        table.add_column(heading, justify="right", no_wrap=True)
    for t in replayed.tensors:
        cosine = "" if math.isnan(t.cosine) else f"{t.cosine:.7f}"
        table.add_row(escape(t.name), f"{t.largest:.2e}", f"{t.mean:.2e}", f"{t.relative:.2e}", cosine)
    console.print(table)
    curves = replayed.growth
    frames = [n for n in SHOWN_FRAMES if n <= len(curves.box)]
    for name, values in (("box", curves.box), ("confidence", curves.confidence), ("state", curves.state)):
        shown = "  ".join(f"{n}: {values[n - 1]:.1e}" for n in frames)
        say(f"  {name} error by frame, state carried: {shown}")
    _show_parting(result)


def _show_parting(result: CandidateParity) -> None:
    parting = result.parting
    if parting is None:
        say(f"  {result.note or f'no tensor parts by more than {result.tolerance:g} of its magnitude'}")
        return
    where = f"{parting.sequence} frame {parting.frame}, {parting.graph} graph beside {parting.compared_with}"
    number = len(parting.steps)
    if parting.first is not None:
        place = parting.steps.index(parting.first) + 1
        say(
            f"  parts first at {where}: tensor {parting.first.tensor} ({parting.first.operator}, {place} of {number}), "
            f"relative error {parting.first.relative:.1e} (tolerance {parting.tolerance:g})"
        )
    else:
        say(
            f"  beyond the tolerance {parting.tolerance:g} at {where}, but none of its {number} tensors alone is"
        )
    if parting.worst is not None and parting.worst != parting.first:
        w = parting.worst
        say(f"  greatest: tensor {w.tensor} ({w.operator}), relative error {w.relative:.1e}")
    if parting.missing:
        say(f"  {parting.missing} tensors of the reference graph have no counterpart by name")
