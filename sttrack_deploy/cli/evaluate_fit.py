"""``sttrack-eval --fit-lost``: when to say LOST, from the data that was just measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from sttrack_deploy.bundle import MANIFEST, NO_CHANGES, PolicyChanges
from sttrack_deploy.cli.common import complain, say
from sttrack_deploy.errors import UsageError
from sttrack_deploy.evaluation.evaluation import Evaluation, Subject
from sttrack_deploy.evaluation.lost_thresholds import describe, fit_lost, write_thresholds

__all__ = ["check_fit", "fit_options", "fit_thresholds"]

F = TypeVar("F", bound=Callable[..., Any])


class Percentage(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A share above 0 and below 1, as ``1%`` or ``0.01``."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        try:
            number = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
        except ValueError:
            self.fail(f"{value!r} is not a share such as 1% or 0.01.", param, ctx)
        if not 0.0 < number < 1.0:
            self.fail(
                f"{value!r} is not above 0 and below 100%; write one percent as 1% or 0.01.", param, ctx
            )
        return number


def fit_options(function: F) -> F:
    """``--fit-lost RATE`` and ``--write-manifest``."""
    function = click.option(
        "--write-manifest", is_flag=True, help="Put that proposal into the bundle that --bundle names."
    )(function)
    return click.option(
        "--fit-lost",
        type=Percentage(),
        metavar="RATE",
        help="Propose when to say LOST, so that at most this share of the frames on the target are: 1% or 0.01.",
    )(function)


def check_fit(
    rate: float | None,
    write: bool,
    bundles: tuple[Path, ...],
    engines: tuple[str, ...],
    results: tuple[str, ...],
    changes: PolicyChanges,
    shard: str | None,
) -> None:
    """Raises UsageError where LOST cannot be fitted."""
    if write and rate is None:
        raise UsageError("--write-manifest writes what --fit-lost RATE proposes: give both")
    if rate is None:
        return
    if len(bundles) > 1 or len(engines) > 1 or results or shard is not None:
        raise UsageError("--fit-lost is for one bundle on one engine, on all of the data")
    if write and not bundles:
        raise UsageError("name the bundle that --write-manifest changes with --bundle DIR")
    if write and changes != NO_CHANGES:
        raise UsageError(
            "--write-manifest takes the bundle's own tracking policy: leave the tracking options out, "
            "or put them into the bundle first"
        )


def fit_thresholds(evaluation: Evaluation, subject: Subject, rate: float, *, write: bool) -> None:
    """Propose thresholds, and write them where asked for and everything was measured."""
    if evaluation.interrupted:
        return
    bundle = subject.tracker.bundle
    fit = fit_lost(evaluation.report, subject.tracker.policy, rate)
    say(describe(fit))
    if not write:
        say("to keep it: the same command with --bundle DIR --write-manifest")
    elif evaluation.report.complete:
        say(
            f"made {write_thresholds(bundle, fit)}: lost_below {fit.lost_below:g}, found_above {fit.found_above:g}"
        )
    else:
        complain(f"{bundle.path / MANIFEST} is left as it was, because sequences failed")
