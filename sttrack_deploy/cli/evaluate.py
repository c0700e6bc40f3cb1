"""``sttrack-eval``: how well do bundles and other trackers track, on annotated sequences."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from sttrack_deploy.bundle import MANIFEST
from sttrack_deploy.cli.evaluate_commands import merge_command, pack_command, vot_command
from sttrack_deploy.engines.registry import BACKENDS, DEFAULT_BACKEND
from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.evaluation.evaluation import (
    Evaluation,
    Subject,
    evaluate_files,
    evaluate_tracker,
    other_results,
    report_document,
    subjects_of,
)
from sttrack_deploy.evaluation.lost_thresholds import describe, fit_lost, write_thresholds
from sttrack_deploy.evaluation.protocols import DEFAULT_PROTOCOL, PROTOCOLS
from sttrack_deploy.evaluation.protocols.base import Protocol
from sttrack_deploy.evaluation.results import DEFAULT_LAYOUT, LAYOUTS
from sttrack_deploy.evaluation.runner import Shard
from sttrack_deploy.files import check_folder
from sttrack_deploy.policy import NO_CHANGES, PolicyChanges
from sttrack_deploy.records import parse_number
from sttrack_deploy.runtime.worker_pool import threads_each
from sttrack_deploy.sequences.datasets.locations import write_config as write_dataset_config
from sttrack_deploy.sequences.sequence import VideoSequence
from sttrack_deploy.terminal.help import GroupedGroup, heading, under
from sttrack_deploy.terminal.options import (
    ENGINE,
    RESULTS,
    check_reports,
    data_options,
    dataset_title,
    emit_json,
    json_option,
    load_sequences,
    threads_option,
    tracking_options,
)
from sttrack_deploy.terminal.program import command, complain, progress_bar, say
from sttrack_deploy.terminal.reports import (
    exit_by,
    hardest_sequence,
    require_pictures,
    show_evaluations,
    write_pictures,
)
from sttrack_deploy.terminal.types import FILE, FOLDER, Integer

__all__ = ["check_fit", "fit_options", "fit_thresholds", "main"]


F = TypeVar("F", bound=Callable[..., Any])


class Percentage(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A share above 0 and below 1, as ``1%`` or ``0.01``."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        try:
            share = parse_number(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
        except ValueError:
            self.fail(f"{value!r} is not a share such as 1% or 0.01.", param, ctx)
        if not 0.0 < share < 1.0:
            self.fail(
                f"{value!r} is not above 0 and below 100%; write one percent as 1% or 0.01.", param, ctx
            )
        return share


def fit_options(function: F) -> F:
    """``--fit-lost RATE`` and ``--write-manifest``."""
    return under(
        "When a target is LOST",
        click.option(
            "--fit-lost",
            type=Percentage(),
            metavar="RATE",
            help="Propose when to say LOST, so that at most this share of the frames on the target are: 1% or 0.01.",
        ),
        click.option(
            "--write-manifest", is_flag=True, help="Put that proposal into the bundle that --bundle names."
        ),
        more=True,
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


CONFIG_FILE = Path("sttrack-datasets.toml")


@click.group(cls=GroupedGroup, invoke_without_command=True)
@data_options
@heading(ENGINE)
@click.option(
    "--bundle",
    "bundles",
    type=FOLDER,
    multiple=True,
    help="Exported bundle; several are compared.  [default: the shipped sttrack-nano]",
)
@click.option(
    "--engine",
    "engines",
    type=click.Choice(list(BACKENDS)),
    multiple=True,
    metavar="NAME",
    help=f"Back end that runs the network: {', '.join(BACKENDS)}; several are compared.  "
    f"[default: {DEFAULT_BACKEND}]",
)
@threads_option
@tracking_options
@heading("Scores")
@click.option(
    "--results",
    metavar="[LABEL=]DIR",
    multiple=True,
    help="Score these result files, of any tracker, instead of running one; with --bundle or --engine: beside it.",
)
@click.option(
    "--protocol",
    "protocol_names",
    type=click.Choice([*PROTOCOLS, "all"]),
    multiple=True,
    help=f"Whose rules make the numbers; the first leads.  [default: {DEFAULT_PROTOCOL.name}]",
)
@heading(RESULTS)
@click.option(
    "--out",
    type=FOLDER,
    help="Write result files here as sequences end; the same command goes on where it stopped.",
)
@heading("Result files of --out", more=True)
@click.option(
    "--layout",
    "layout_name",
    type=click.Choice(list(LAYOUTS)),
    default=DEFAULT_LAYOUT.name,
    show_default=True,
    help="Toolkit whose file layout --out writes.",
)
@click.option("--integer-boxes", is_flag=True, help="Truncate boxes to whole pixels, as older tools do.")
@heading("Runs", more=True)
@click.option("--restart", is_flag=True, help="Run finished sequences again.")
@heading(RESULTS)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace results of another export or policy under --out, and reports that sttrack-deploy did not write.",
)
@heading("Runs", more=True)
@click.option(
    "--workers",
    type=Integer(1, 1024),
    default=1,
    show_default=True,
    help="Worker processes; each runs one sequence at a time.",
)
@click.option("--shard", "shard_text", metavar="I/N", help="Only part I of N, for N machines; then: merge.")
@json_option
@heading(RESULTS)
@click.option("--html", type=FILE, help="Write a report to look at.")
@heading("Plots and the HTML report", more=True)
@click.option("--plots", type=FOLDER, help="Write the plots as PNG and SVG here.")
@click.option(
    "--worst", type=Integer(0, 1000), default=5, show_default=True, help="Sequences shown in the HTML."
)
@fit_options
@heading("Where data sets lie", more=True)
@click.option(
    "--write-config", is_flag=True, help=f"Write {CONFIG_FILE}, which says where data sets lie, and end."
)
@click.pass_context
@command
def main(
    context: click.Context,
    dataset: str,
    data: Path | None,
    sequences: str | None,
    partial: bool,
    bundles: tuple[Path, ...],
    engines: tuple[str, ...],
    threads: int | None,
    changes: PolicyChanges,
    results: tuple[str, ...],
    protocol_names: tuple[str, ...],
    out: Path | None,
    layout_name: str,
    integer_boxes: bool,
    restart: bool,
    overwrite: bool,
    workers: int,
    shard_text: str | None,
    json_path: Path | None,
    html: Path | None,
    plots: Path | None,
    worst: int,
    fit_lost: float | None,
    write_manifest: bool,
    write_config: bool,
) -> None:
    """Measure tracking accuracy and speed on annotated sequences, by the protocol that is named.

    Tracking starts on each sequence's first true box and is never helped again. Exits with 1 if a sequence
    failed; the others are measured all the same. Ctrl-C keeps what is done.
    """
    if context.invoked_subcommand is not None:
        return
    if write_config:
        _write_config()
        return
    check_fit(fit_lost, write_manifest, bundles, engines, results, changes, shard_text)
    check_reports((json_path, html), plots, overwrite=overwrite, inputs=bundles, data=(data,))
    if out is not None:
        check_folder(out)
    if html is not None or plots is not None:
        require_pictures()
    shard = None if shard_text is None else Shard.parse(shard_text)
    chosen = _choose(load_sequences(dataset, data, sequences, partial), shard)
    if out is None and not all(s.scorable for s in chosen):
        raise UsageError(
            f"only a server can score {dataset}: give --out DIR for the results, then sttrack-eval pack"
        )
    title, protocols, layout = dataset_title(dataset, data), _protocols(protocol_names), LAYOUTS[layout_name]
    layout = dataclasses.replace(layout, decimals=0) if integer_boxes else layout
    others = other_results(results, chosen, title)
    subjects: list[Subject] = []
    if bundles or engines or not results:
        subjects = subjects_of(
            bundles or (None,),
            engines or (DEFAULT_BACKEND,),
            threads_each(threads, workers),
            changes,
        )
    if out is not None and not overwrite:
        for subject in subjects:
            subject.store(out, layout, title).check_replaceable(chosen)
    evaluations = []
    for subject in subjects:
        store = None if out is None else subject.store(out, layout, title)
        make = subject.make(workers)
        with progress_bar() as bar:
            evaluation = Evaluation(
                subject.label, title, chosen, protocols, subject.facts(workers), progress=bar
            )
            evaluate_tracker(make, evaluation, store=store, layout=layout, workers=workers, restart=restart)
        evaluations.append(evaluation)
        if evaluation.interrupted:
            break
    for label, (folder, found_layout) in others.items():
        with progress_bar() as bar:
            evaluation = Evaluation(label, title, chosen, protocols, {"results": str(folder)}, progress=bar)
            evaluations.append(evaluate_files(folder, found_layout, evaluation))
    show_evaluations(evaluations, workers)
    emit_json(report_document(evaluations, title), json_path)
    write_pictures(evaluations, html, plots, worst)
    if fit_lost is not None:
        fit_thresholds(evaluations[0], subjects[0], fit_lost, write=write_manifest)
    _say_what_next(evaluations, subjects, dataset, data, out, shard)
    exit_by(evaluations)


def _choose(sequences: list[VideoSequence], shard: Shard | None) -> list[VideoSequence]:
    """This machine's part of the sequences."""
    chosen = sequences if shard is None else shard.take(sequences)
    if not chosen:
        raise UserError("this part has no sequence: there are fewer sequences than parts")
    return chosen


def _protocols(names: tuple[str, ...]) -> tuple[Protocol, ...]:
    """Each once, in the order given; ``all`` is those that are not named, at its place."""
    wanted = [p for name in names for p in (PROTOCOLS if name == "all" else (name,))]
    return tuple(PROTOCOLS[name] for name in dict.fromkeys(wanted)) or (DEFAULT_PROTOCOL,)


def _write_config() -> None:
    write_dataset_config(CONFIG_FILE)
    say(f"made {CONFIG_FILE}: say there where your data sets lie")
    say("next: sttrack-eval --dataset lasot")


def _say_what_next(
    evaluations: list[Evaluation],
    subjects: list[Subject],
    dataset: str,
    data: Path | None,
    out: Path | None,
    shard: Shard | None,
) -> None:
    """The end of the command: where the results are, and what to type next."""
    if out is not None:
        say(f"result files are in {out}")
    where = [] if data is None else ["--data", str(data)]
    where += [] if dataset == "folder" else ["--dataset", dataset]
    if shard is not None and out is not None:
        merge = shlex.join(["sttrack-eval", "merge", str(out), "OTHER_PART", "--out", "merged"])
        score = shlex.join(["sttrack-eval", "--results", "merged", *where])
        say(f"next, when all {shard.count} parts are done: {merge}; then {score}")
        return
    if out is not None and any(e.unscored for e in evaluations):
        say(f"next: sttrack-eval pack {shlex.quote(str(out))} --format {dataset.partition('_')[0]}")
        return
    if evaluations[0].report.sequences and subjects:
        maker = subjects[0].maker
        engine = [] if maker.engine == DEFAULT_BACKEND else ["--engine", maker.engine]
        say(hardest_sequence(evaluations[0].report, maker.bundle, engine))


main.add_command(pack_command)
main.add_command(merge_command)
main.add_command(vot_command)
