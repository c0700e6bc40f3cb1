"""Other trackers on annotated videos: the same data, metrics and timing as ``sttrack-eval``.

Run from the repository's root; ``--peers`` holds the files that :mod:`benchmarks.peer_trackers` names::

    python -m benchmarks.peers --data DIR --peers DIR --out peers
    sttrack-eval --data DIR --bundle export/sttrack-nano --results peers --html report.html
"""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from benchmarks.peer_trackers import available
from sttrack_deploy.evaluation.evaluation import Evaluation, evaluate_tracker, report_document
from sttrack_deploy.evaluation.protocols import DEFAULT_PROTOCOL
from sttrack_deploy.evaluation.results import DEFAULT_LAYOUT, ResultFolder
from sttrack_deploy.terminal.options import (
    data_options,
    dataset_title,
    emit_json,
    json_option,
    load_sequences,
)
from sttrack_deploy.terminal.program import command, progress_bar, say
from sttrack_deploy.terminal.reports import exit_by, show_evaluations
from sttrack_deploy.terminal.types import FOLDER, THREADS


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@data_options
@click.option("--peers", type=FOLDER, help="Folder of the networks; without it OpenCV's trackers alone.")
@click.option("--trackers", metavar="A,B", help="Only these, by name.  [default: all]")
@click.option("--threads", type=THREADS, default=2, show_default=True)
@click.option(
    "--out",
    type=FOLDER,
    help="Write result files here as sequences end; the same command goes on where it stopped.",
)
@click.option("--restart", is_flag=True, help="Run finished sequences again.")
@json_option
@command
def main(
    dataset: str,
    data: Path | None,
    sequences: str | None,
    partial: bool,
    peers: Path | None,
    trackers: str | None,
    threads: int,
    out: Path | None,
    restart: bool,
    json_path: Path | None,
) -> None:
    """Measure NanoTrack v2, NanoTrack v3, FEAR-XS, CSRT and KCF exactly as sttrack-eval measures a bundle."""
    makers = available(peers, trackers, threads)
    chosen, title = load_sequences(dataset, data, sequences, partial), dataset_title(dataset, data)
    evaluations = []
    for maker in makers:
        facts = maker.identity()
        evaluation = Evaluation(maker.name, title, chosen, (DEFAULT_PROTOCOL,), {**facts, "threads": threads})
        store = None
        if out is not None:
            folder = DEFAULT_LAYOUT.run_folder(out, "peers", maker.name.replace(" ", "_"), title)
            store = ResultFolder(folder, DEFAULT_LAYOUT, facts)
        with progress_bar() as evaluation.progress:
            evaluations.append(evaluate_tracker(maker, evaluation, store=store, restart=restart))
        if evaluation.interrupted:
            break
    show_evaluations(evaluations)
    emit_json(report_document(evaluations, title), json_path)
    words = ["sttrack-eval", "--threads", str(threads)] + ([] if data is None else ["--data", str(data)])
    words += [] if dataset == "folder" else ["--dataset", dataset]
    words += [] if out is None else ["--bundle", "export/sttrack-nano", "--results", str(out)]
    say(f"next, the same for a bundle: {shlex.join(words)}")
    exit_by(evaluations)


if __name__ == "__main__":
    main()
