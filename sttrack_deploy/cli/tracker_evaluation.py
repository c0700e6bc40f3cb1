"""Run one tracker over sequences under a progress bar: resumed, written as it goes, scored."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sttrack_deploy.cli.common import INTERRUPTED, complain, console, say
from sttrack_deploy.errors import UserError
from sttrack_deploy.evaluation.layouts import DEFAULT_LAYOUT, Layout
from sttrack_deploy.evaluation.protocols.base import Protocol
from sttrack_deploy.evaluation.report import Report, SequenceReport, score_run
from sttrack_deploy.evaluation.results import ResultFolder, as_written, read_run
from sttrack_deploy.evaluation.runner import SingleTargetTracker, run_sequences
from sttrack_deploy.evaluation.sequence import Sequence
from sttrack_deploy.evaluation.sequence_run import SequenceFailure, SequenceRun

__all__ = ["Evaluation", "evaluate_files", "evaluate_tracker", "exit_by", "progress_bar"]


@dataclass
class Evaluation:
    """Collects one tracker's results on a data set until the report is made.

    Attributes:
        unscored: sequences that were tracked but whose truth only a server has.
        interrupted: Ctrl-C came before all were done.
    """

    label: str
    dataset: str
    sequences: list[Sequence]
    protocols: tuple[Protocol, ...]
    subject: dict[str, Any] = field(default_factory=dict)
    unscored: int = 0
    interrupted: bool = False
    _done: dict[str, SequenceReport] = field(default_factory=dict)
    _failures: dict[str, SequenceFailure] = field(default_factory=dict)

    def add(self, result: SequenceRun | SequenceFailure, sequence: Sequence) -> None:
        """Score a run, or note why there is none."""
        if isinstance(result, SequenceRun):
            if not sequence.scorable:
                self.unscored += 1
                return
            try:
                self._done[result.name] = score_run(result, sequence, self.protocols)
                return
            except UserError as error:
                result = SequenceFailure(result.name, str(error))
        self._failures[result.name] = result
        complain(f"{self.label}: {result.name} failed: {result.error}")

    @property
    def report(self) -> Report:
        """The sequences in the order given, whatever the order they came in."""
        order = [sequence.name for sequence in self.sequences]
        return Report(
            label=self.label,
            dataset=self.dataset,
            protocols=self.protocols,
            sequences=tuple(self._done[name] for name in order if name in self._done),
            failures=tuple(self._failures[name] for name in order if name in self._failures),
            planned=len(self.sequences) - self.unscored,
            subject=self.subject,
        )


def progress_bar() -> Progress:
    """The bar of a command that goes over frames; silent where nobody looks."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("frames, ETA"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def evaluate_tracker(
    make_tracker: Callable[[], SingleTargetTracker],
    evaluation: Evaluation,
    *,
    store: ResultFolder | None = None,
    layout: Layout = DEFAULT_LAYOUT,
    workers: int = 1,
    restart: bool = False,
) -> Evaluation:
    """Track what is not finished yet in ``store``, write each result as it comes, and score all.

    Boxes are scored as ``layout`` writes them, whether they are written or not.
    """
    by_name = {sequence.name: sequence for sequence in evaluation.sequences}
    finished: dict[str, SequenceRun] = {}
    if store is not None:
        layout = store.layout
        if not restart:
            finished = {s.name: run for s in evaluation.sequences if (run := store.finished(s)) is not None}
        if finished:
            say(
                f"{evaluation.label}: {len(finished)} of {len(by_name)} sequences are finished in "
                f"{store.folder}; going on with the others (--restart runs all again)"
            )
    for run in finished.values():
        evaluation.add(run, by_name[run.name])
    left = [s for s in evaluation.sequences if s.name not in finished]
    if not left:
        return evaluation
    with progress_bar() as bar:
        task = bar.add_task(
            evaluation.label,
            total=sum(len(s) for s in evaluation.sequences),
            completed=sum(len(by_name[name]) for name in finished),
        )
        runs = run_sequences(make_tracker, left, workers, lambda frames: bar.advance(task, frames))
        try:
            for result in runs:
                sequence = by_name[result.name]
                if isinstance(result, SequenceRun):
                    if store is not None:
                        store.write(result, sequence)
                    result = as_written(result, layout)
                evaluation.add(result, sequence)
        except KeyboardInterrupt:
            evaluation.interrupted = True
            done = len(evaluation.report.sequences) + evaluation.unscored
            rest = (
                "the same command goes on from there"
                if store
                else "with --out DIR the same command could go on"
            )
            complain(f"interrupted: {done} of {len(by_name)} sequences are done; {rest}")
        finally:
            runs.close()
    return evaluation


def evaluate_files(folder: Path, layout: Layout, evaluation: Evaluation) -> Evaluation:
    """Score the result files of any tracker; a sequence without a readable file is a failure."""
    for sequence in evaluation.sequences:
        try:
            result: SequenceRun | SequenceFailure = read_run(folder, layout, sequence)
        except UserError as error:
            result = SequenceFailure(sequence.name, str(error))
        evaluation.add(result, sequence)
    return evaluation


def exit_by(evaluations: Iterable[Evaluation]) -> None:
    """End the command with the exit code for an interruption or a failed sequence; return if there was none."""
    evaluations = list(evaluations)
    if any(e.interrupted for e in evaluations):
        sys.exit(INTERRUPTED)
    if any(e.report.failures for e in evaluations):
        sys.exit(1)
