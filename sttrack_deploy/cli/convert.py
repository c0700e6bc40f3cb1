"""``sttrack-convert``: an exported bundle in another precision, chosen by measurement and gated in closed loop."""

from __future__ import annotations

import functools
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich import box
from rich.table import Table

from sttrack_deploy.bundle import open_bundle
from sttrack_deploy.errors import MissingDependencyError, UsageError
from sttrack_deploy.export.precision import CONVERTED, METHODS
from sttrack_deploy.terminal.help import GroupedCommand, heading, under
from sttrack_deploy.terminal.program import command, complain, console, progress_bar, say
from sttrack_deploy.terminal.types import FOLDER, PATH, Integer, Number

if TYPE_CHECKING:
    from sttrack_deploy.export.precision.convert import Outcome, PrecisionOptions
    from sttrack_deploy.export.precision.sensitivity import SearchResult

__all__ = ["conversion_options", "convert", "default_out", "main", "options_of"]

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    (
        "Data",
        "--calib",
        "calibration",
        {
            "type": FOLDER,
            "metavar": "SET",
            "help": "Recorded inputs (sttrack-calibrate); needed for INT8.  [default for others: the demo clip]",
        },
    ),
    (
        "Data",
        "--gate-data",
        "gate_data",
        {
            "type": FOLDER,
            "multiple": True,
            "metavar": "DIR",
            "help": "Annotated videos of the gate; may be given several times.  [default: the demo clip]",
        },
    ),
    (
        "Output",
        "--force",
        "force",
        {
            "is_flag": True,
            "help": "Write a bundle that fails its gate, and say so in its manifest.",
        },
    ),
    (
        "INT8",
        "--layers",
        "layers",
        {
            "default": "auto",
            "show_default": True,
            "metavar": "auto|all|backbone|FILE",
            "help": "What becomes INT8. auto searches; a file names one group a line.",
        },
    ),
    ("INT8", "--int8-template", "template", {"is_flag": True, "help": "The template graph too."}),
    (
        "INT8",
        "--ranges",
        "method",
        {
            "type": click.Choice(["auto", *METHODS]),
            "default": "auto",
            "show_default": True,
            "help": "How activations' ranges come from the calibration set; auto measures.",
        },
    ),
    (
        "INT8, search for layers (--layers auto)",
        "--search-data",
        "search_data",
        {
            "type": FOLDER,
            "multiple": True,
            "metavar": "DIR",
            "help": "Annotated videos, never those of the evaluation; may be given several times.  "
            "[default: the demo clip]",
        },
    ),
    (
        "INT8, search for layers (--layers auto)",
        "--budget",
        "budget",
        {
            "type": Number(0, 1),
            "default": 0.004,
            "show_default": True,
            "help": "AUC (mean IoU with the truth, 0..1) that may be lost, beyond one standard error.",
        },
    ),
    (
        "INT8, search for layers (--layers auto)",
        "--step-budget",
        "step_budget",
        {
            "type": Number(0, 1),
            "default": 0.01,
            "show_default": True,
            "help": "Mean 1 - IoU to fp32 of single steps from recorded states that is allowed.",
        },
    ),
    (
        "INT8, search for layers (--layers auto)",
        "--search-window",
        "search_window",
        {
            "type": Integer(0, 1_000_000),
            "default": 20,
            "show_default": True,
            "help": "Start again on the true box after so many frames, so that chance does not pile up; 0: never.",
        },
    ),
)
"""Heading, option, field of ``PrecisionOptions``, the rest of ``click.option``."""


def conversion_options(*, hidden: bool = False) -> Callable[[F], F]:
    """What goes with ``--precision``, as one argument ``conversion``: the keywords of ``PrecisionOptions``."""

    def add(function: F) -> F:
        @functools.wraps(function)
        def gathered(*args: Any, **given: Any) -> Any:
            return function(*args, conversion={name: given.pop(name) for _, _, name, _ in _OPTIONS}, **given)

        wrapped: Any = gathered
        for place, option, name, settings in reversed(_OPTIONS):
            wrapped = under(place, click.option(option, name, hidden=hidden, **settings))(wrapped)
        wrapped = click.option("--qdq", hidden=True, expose_value=False, is_eager=True, callback=_no_layouts)(
            wrapped
        )
        return wrapped  # type: ignore[no-any-return]

    return add


def _no_layouts(_: click.Context, __: click.Parameter, value: str | None) -> None:
    if value is not None:
        raise click.UsageError(
            "--qdq is no more: an int8 bundle holds a layout for each kind of engine; leave it out"
        )


@click.command(cls=GroupedCommand)
@click.argument("bundle", type=FOLDER)
@heading("Output")
@click.option(
    "--precision", type=click.Choice(CONVERTED), required=True, help="Precision of the new bundle's graphs."
)
@click.option("--out", type=PATH, help="Folder of the new bundle.  [default: BUNDLE-PRECISION]")
@conversion_options()
@command
def main(bundle: Path, precision: str, out: Path | None, conversion: dict[str, Any]) -> None:
    """Convert an exported fp32 BUNDLE to another precision.

    What stays in FP32 is chosen by measurement, and the result is written only if its boxes pass the gate
    beside PyTorch's in closed loop.
    """
    convert(bundle, out or default_out(bundle, precision), options_of(precision, conversion))


def default_out(source: Path, precision: str) -> Path:
    """``<bundle>-<precision>`` beside the bundle."""
    return source.resolve().with_name(f"{source.resolve().name}-{precision}")


def options_of(precision: str, given: dict[str, Any]) -> PrecisionOptions:
    """The options as they came from the command line.

    Raises:
        MissingDependencyError: the conversion's packages are not installed.
        UsageError: nothing is converted to that precision.
    """
    try:
        import torch  # noqa: F401 (so that it is missed first)

        from sttrack_deploy.export.precision.convert import PrecisionOptions
    except ImportError as error:
        raise MissingDependencyError(
            error.name or "torch", "the conversion", 'pip install "sttrack-deploy[export]"'
        ) from error
    name = next((n for n in CONVERTED if n == precision), None)
    if name is None:
        raise UsageError(
            f"--from converts to another precision; add --precision {', '.join(CONVERTED[:-1])} or {CONVERTED[-1]}"
        )
    return PrecisionOptions(name, real_build=True, **given)


def convert(source_path: Path, out: Path, options: PrecisionOptions) -> None:
    """Convert under a progress bar and say what came of it."""
    from sttrack_deploy.export.precision.convert import convert_bundle

    source = open_bundle(source_path)
    started = time.monotonic()
    with progress_bar() as bar:
        outcome = convert_bundle(source, out, options, bar)
    if outcome.search is not None:
        console.print(_sensitivity_table(outcome.search))
    _show(outcome, options, time.monotonic() - started)


def _sensitivity_table(result: SearchResult) -> Table:
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
    for graph in m.graphs:
        say(f"  {bundle.path / graph.file}  {graph.bytes / 1e6:.1f} MB")
    say(
        f"wrote the bundle {bundle.path} in {seconds:.0f} s: {options.precision}, opset {m.opset}, batch {m.batch}"
    )
    (say if outcome.passed else complain)(
        f"gate {'passed' if outcome.passed else 'FAILED (written because of --force)'}: {outcome.detail}"
    )
    if not options.gate_data:
        say("gated on the demo clip only; name videos with --gate-data")
    if outcome.real_build:
        say(outcome.real_build)
    if outcome.time_ratio is not None:
        say(f"search graph: {outcome.time_ratio:.2f} of fp32's time in ONNX Runtime on this CPU, one thread")
    say(f"next: sttrack-eval --data DIR --bundle {shlex.quote(str(bundle.path))}")


if __name__ == "__main__":
    main()
