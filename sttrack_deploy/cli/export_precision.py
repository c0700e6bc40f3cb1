"""The part of ``sttrack-export`` that makes bundles of another precision."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich import box
from rich.table import Table

from sttrack_deploy.bundle import open_bundle
from sttrack_deploy.cli.bar import Bar, rich_progress
from sttrack_deploy.cli.common import FOLDER, FiniteFloat, complain, console, say
from sttrack_deploy.errors import UsageError
from sttrack_deploy.export.precision.thresholds import METHODS

if TYPE_CHECKING:
    from sttrack_deploy.export.precision.options import Outcome, PrecisionOptions
    from sttrack_deploy.export.precision.sensitivity import SearchResult

__all__ = ["PRECISIONS", "convert", "default_out", "precision_options", "precision_options_of"]

PRECISIONS = ("fp32", "fp16", "int8", "int8-fp16")

F = TypeVar("F", bound=Callable[..., Any])


def precision_options(function: F) -> F:
    """``--precision`` and what goes with it; they arrive as one dictionary's worth of keywords."""
    for option in reversed(
        (
            click.option(
                "--precision",
                type=click.Choice(PRECISIONS),
                default="fp32",
                show_default=True,
                help="Of the graphs.",
            ),
            click.option(
                "--from",
                "source",
                type=FOLDER,
                metavar="BUNDLE",
                help="Convert this fp32 bundle; --checkpoint is then not needed.",
            ),
            click.option(
                "--calib",
                "calibration",
                type=FOLDER,
                metavar="SET",
                help="Recorded inputs (sttrack-calibrate); needed for int8.",
            ),
            click.option(
                "--layers",
                default="auto",
                show_default=True,
                metavar="auto|all|backbone|FILE",
                help="INT8: what to quantize. auto searches; a file names one group a line.",
            ),
            click.option(
                "--qdq",
                "layout",
                type=click.Choice(["portable", "cpu"]),
                default="portable",
                show_default=True,
                help="INT8: portable for TensorRT and OpenVINO, cpu for ONNX Runtime's integer kernels.",
            ),
            click.option(
                "--ranges",
                "method",
                type=click.Choice(["auto", *METHODS]),
                default="auto",
                show_default=True,
                help="INT8: how activations' ranges come from the calibration set; auto measures.",
            ),
            click.option(
                "--int8-template", "template", is_flag=True, help="INT8: quantize the template graph too."
            ),
            click.option(
                "--budget",
                type=FiniteFloat(0, 1),
                default=0.004,
                show_default=True,
                help="INT8 search: AUC (mean IoU with the truth, 0..1) that may be lost, beyond one standard error.",
            ),
            click.option(
                "--step-budget",
                type=FiniteFloat(0, 1),
                default=0.01,
                show_default=True,
                help="INT8 search: mean 1 - IoU to fp32 of single steps from recorded states that is allowed.",
            ),
            click.option(
                "--search-window",
                type=click.IntRange(0, 1_000_000),
                default=20,
                show_default=True,
                help="INT8 search: start again on the true box after so many frames, so that chance does not pile up; "
                "0: never.",
            ),
            click.option(
                "--search-data",
                type=FOLDER,
                multiple=True,
                metavar="DIR",
                help="INT8 search: annotated videos, never those of the evaluation; may be given several times.  "
                "[default: the demo clip]",
            ),
            click.option(
                "--gate-data",
                type=FOLDER,
                multiple=True,
                metavar="DIR",
                help="Annotated videos of the gate.  [default: the demo clip]",
            ),
            click.option(
                "--force",
                is_flag=True,
                help="Write a bundle that fails its gate, and say so in its manifest.",
            ),
        )
    ):
        function = option(function)
    return function


def default_out(source: Path, precision: str) -> Path:
    """``<bundle>-<precision>`` beside the bundle."""
    return source.resolve().with_name(f"{source.resolve().name}-{precision}")


def precision_options_of(precision: str, given: dict[str, Any]) -> PrecisionOptions:
    """The options as they came from the command line.

    Raises:
        UsageError: an option for INT8 with another precision.
    """
    from sttrack_deploy.export.precision.options import CONVERTED, PrecisionOptions

    name = next((n for n in CONVERTED if n == precision), None)
    if name is None:
        raise UsageError("--from converts to another precision; add --precision fp16, int8 or int8-fp16")
    return PrecisionOptions(name, **given)


def convert(source_path: Path, out: Path, options: PrecisionOptions) -> None:
    """Convert under a progress bar and say what came of it."""
    from sttrack_deploy.export.precision.convert import convert_bundle

    source = open_bundle(source_path)
    started = time.monotonic()
    with rich_progress() as bar:
        outcome = convert_bundle(source, out, options, _Watch(bar))
    _show(outcome, options, time.monotonic() - started)


class _Watch(Bar):
    """Also shows what the search found."""

    def note(self, text: str) -> None:
        say(f"  {text}")

    def searched(self, result: SearchResult) -> None:
        console.print(sensitivity_table(result))


def sensitivity_table(result: SearchResult) -> Table:
    """Every group alone; behind the arrow, when it was added to those that were kept before it."""
    table = Table(
        title=f"sensitivity (budget: {100 * result.budget:.1f} points of AUC, step error {result.step_budget})",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("group", no_wrap=True)
    for name in ("error %", "cost", "IoU", "AUC", "-> cost", "AUC"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    steps = {step.added: step for step in result.steps}
    for group in result.groups:
        step = steps[group.group]
        tracked = step.auc_change == step.auc_change  # not NaN
        table.add_row(
            group.group,
            f"{100 * group.step_error:.2f}",
            f"{group.cost:.2f}",
            f"{group.mean_iou:.3f}",
            f"{100 * group.auc_change:+.2f}",
            f"{step.cost:.2f}",
            f"{100 * step.auc_change:+.2f}" if tracked else "",
            "INT8" if step.kept else step.why,
        )
    return table


def _show(outcome: Outcome, options: PrecisionOptions, seconds: float) -> None:
    """What was made, where, how big, how good, and what to type next."""
    bundle, m = outcome.bundle, outcome.bundle.manifest
    for graph in (m.template, m.search):
        say(f"  {bundle.path / graph.file}  {graph.bytes / 1e6:.1f} MB")
    say(
        f"wrote the bundle {bundle.path} in {seconds:.0f} s: {options.precision}, opset {m.opset}, batch {m.batch}"
    )
    (say if outcome.passed else complain)(
        f"gate {'passed' if outcome.passed else 'FAILED (written because of --force)'}: {outcome.detail}"
    )
    if not options.gate_data:
        say("gated on the demo clip only; name videos with --gate-data")
    say(f"search graph: {outcome.time_ratio:.2f} of fp32's time in ONNX Runtime on this CPU, one thread")
    if options.precision != "fp16" and options.layout == "portable" and outcome.time_ratio > 1:
        say(
            "the portable layout is for TensorRT and OpenVINO; for ONNX Runtime on a CPU export with --qdq cpu"
        )
    say(f"next: sttrack-eval --data DIR --bundle {shlex.quote(str(bundle.path))}")
