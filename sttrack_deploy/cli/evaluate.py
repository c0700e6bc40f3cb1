"""``sttrack-eval``: how well do bundles and other trackers track, on annotated sequences."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import click

from sttrack_deploy.cli.common import (
    command,
    json_option,
    say,
    threads_option,
    tracking_options,
)
from sttrack_deploy.cli.data import data_options, dataset_title, load_sequences
from sttrack_deploy.cli.evaluate_merge import merge_command
from sttrack_deploy.cli.evaluate_outcome import (
    emit_json,
    hardest_sequence,
    report_document,
    require_pictures,
    show,
    write_pictures,
)
from sttrack_deploy.cli.evaluate_pack import pack_command
from sttrack_deploy.cli.evaluate_subjects import Subject, other_results, subjects_of
from sttrack_deploy.cli.tracker_evaluation import Evaluation, evaluate_files, evaluate_tracker, exit_by
from sttrack_deploy.cli.vot import vot_command
from sttrack_deploy.engines.registry import BACKENDS, DEFAULT_BACKEND
from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.evaluation.datasets.locations import write_config as write_dataset_config
from sttrack_deploy.evaluation.layouts import DEFAULT_LAYOUT, LAYOUTS
from sttrack_deploy.evaluation.protocols import DEFAULT_PROTOCOL, PROTOCOLS
from sttrack_deploy.evaluation.protocols.base import Protocol
from sttrack_deploy.evaluation.runner import threads_each
from sttrack_deploy.evaluation.sequence import Sequence
from sttrack_deploy.evaluation.shards import Shard

__all__ = ["main"]

CONFIG_FILE = Path("sttrack-datasets.toml")


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@data_options
@click.option(
    "--bundle",
    "bundles",
    type=click.Path(path_type=Path, file_okay=False),
    multiple=True,
    help="Exported bundle; several are compared.  [default: the shipped sttrack-nano]",
)
@click.option(
    "--engine",
    "engines",
    type=click.Choice(list(BACKENDS)),
    multiple=True,
    help=f"Back end that runs the network; several are compared.  [default: {DEFAULT_BACKEND}]",
)
@threads_option
@tracking_options
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
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write result files here as sequences end; the same command goes on where it stopped.",
)
@click.option(
    "--layout",
    "layout_name",
    type=click.Choice(list(LAYOUTS)),
    default=DEFAULT_LAYOUT.name,
    show_default=True,
    help="Whose files --out writes.",
)
@click.option("--integer-boxes", is_flag=True, help="Truncate boxes to whole pixels, as older tools do.")
@click.option("--restart", is_flag=True, help="Run finished sequences again.")
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes, a sequence each."
)
@click.option("--shard", "shard_text", metavar="I/N", help="Only part I of N, for N machines; then: merge.")
@json_option
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a report to look at.")
@click.option(
    "--plots", type=click.Path(path_type=Path, file_okay=False), help="Write the plots as PNG and SVG here."
)
@click.option(
    "--worst", type=click.IntRange(min=0), default=5, show_default=True, help="Sequences shown in the HTML."
)
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
    lost_below: float | None,
    recover: bool | None,
    results: tuple[str, ...],
    protocol_names: tuple[str, ...],
    out: Path | None,
    layout_name: str,
    integer_boxes: bool,
    restart: bool,
    workers: int,
    shard_text: str | None,
    json_path: Path | None,
    html: Path | None,
    plots: Path | None,
    worst: int,
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
            lost_below,
            recover,
        )
    evaluations = []
    for subject in subjects:
        evaluation = Evaluation(subject.label, title, chosen, protocols, subject.facts(workers))
        store = None if out is None else subject.store(out, layout, title)
        make = subject.make(workers)
        evaluate_tracker(make, evaluation, store=store, layout=layout, workers=workers, restart=restart)
        evaluations.append(evaluation)
        if evaluation.interrupted:
            break
    for label, (folder, found_layout) in others.items():
        evaluation = Evaluation(label, title, chosen, protocols, {"results": str(folder)})
        evaluations.append(evaluate_files(folder, found_layout, evaluation))
    show(evaluations, workers)
    emit_json(report_document(evaluations, title), json_path)
    write_pictures(evaluations, html, plots, worst)
    _say_what_next(evaluations, subjects, dataset, data, out, shard)
    exit_by(evaluations)


def _choose(sequences: list[Sequence], shard: Shard | None) -> list[Sequence]:
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
