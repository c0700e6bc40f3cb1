"""Measuring a tracker over sequences: resumed, written as it goes, scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sttrack_deploy import __version__
from sttrack_deploy.bundle import NO_CHANGES
from sttrack_deploy.engines.registry import DEFAULT_BACKEND
from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.evaluation.comparison import Comparison
from sttrack_deploy.evaluation.confidence_summary import summarize_confidence
from sttrack_deploy.evaluation.layouts import DEFAULT_LAYOUT, Layout
from sttrack_deploy.evaluation.protocols import DEFAULT_PROTOCOL, PROTOCOLS
from sttrack_deploy.evaluation.protocols.base import Protocol
from sttrack_deploy.evaluation.report import Report, SequenceReport, score_run, without_nan
from sttrack_deploy.evaluation.results import ResultFolder, as_written, read_run
from sttrack_deploy.evaluation.runner import SingleTargetTracker, run_sequences
from sttrack_deploy.evaluation.subjects import subjects_of
from sttrack_deploy.progress import SILENT, Progress
from sttrack_deploy.sequences.datasets import DATASETS
from sttrack_deploy.sequences.datasets.locations import locate
from sttrack_deploy.sequences.sequence import SequenceFailure, TrackRun, VideoSequence, select

__all__ = ["REPORT_SCHEMA", "Evaluation", "evaluate", "evaluate_files", "evaluate_tracker", "report_document"]

REPORT_SCHEMA = 3
"""Of the JSON."""


@dataclass
class Evaluation:
    """Collects one tracker's results on a data set until the report is made.

    Attributes:
        unscored: sequences that were tracked but whose truth only a server has.
        interrupted: Ctrl-C came before all were done.
        progress: steps are frames; failures and interruptions are its notes.
    """

    label: str
    dataset: str
    sequences: list[VideoSequence]
    protocols: tuple[Protocol, ...]
    subject: dict[str, Any] = field(default_factory=dict)
    unscored: int = 0
    interrupted: bool = False
    progress: Progress = SILENT
    _done: dict[str, SequenceReport] = field(default_factory=dict)
    _failures: dict[str, SequenceFailure] = field(default_factory=dict)

    def add(self, result: TrackRun | SequenceFailure, sequence: VideoSequence) -> None:
        """Score a run, or note why there is none."""
        if isinstance(result, TrackRun):
            if not sequence.scorable:
                self.unscored += 1
                return
            try:
                self._done[result.name] = score_run(result, sequence, self.protocols)
                return
            except UserError as error:
                result = SequenceFailure(result.name, str(error))
        self._failures[result.name] = result
        self.progress.note(f"{self.label}: {result.name} failed: {result.error}")

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
    finished: dict[str, TrackRun] = {}
    if store is not None:
        layout = store.layout
        if not restart:
            finished = {s.name: run for s in evaluation.sequences if (run := store.finished(s)) is not None}
        if finished:
            evaluation.progress.note(
                f"{evaluation.label}: {len(finished)} of {len(by_name)} sequences are finished in "
                f"{store.folder}; going on with the others (--restart runs all again)"
            )
    for run in finished.values():
        evaluation.add(run, by_name[run.name])
    left = [s for s in evaluation.sequences if s.name not in finished]
    if not left:
        return evaluation
    evaluation.progress.stage(evaluation.label, sum(len(s) for s in evaluation.sequences))
    evaluation.progress.advance(sum(len(by_name[name]) for name in finished))
    runs = run_sequences(make_tracker, left, workers, evaluation.progress)
    try:
        for result in runs:
            sequence = by_name[result.name]
            if isinstance(result, TrackRun):
                if store is not None:
                    store.write(result, sequence)
                result = as_written(result, layout)
            evaluation.add(result, sequence)
    except KeyboardInterrupt:
        evaluation.interrupted = True
        done = len(evaluation.report.sequences) + evaluation.unscored
        rest = (
            "the same command goes on from there" if store else "with --out DIR the same command could go on"
        )
        evaluation.progress.note(f"interrupted: {done} of {len(by_name)} sequences are done; {rest}")
    finally:
        runs.close()
    return evaluation


def evaluate(
    data: Path | str,
    *,
    bundle: Path | str | None = None,
    engine: str = DEFAULT_BACKEND,
    dataset: str = "folder",
    sequences: str | None = None,
    protocols: Sequence[str] = (DEFAULT_PROTOCOL.name,),
    threads: int | None = None,
    progress: Progress = SILENT,
) -> Report:
    """Measure a bundle on annotated video, as ``sttrack-eval`` does.

    >>> report = evaluate("videos/", engine="openvino")                           # doctest: +SKIP
    >>> report.to_dict()["overall"]                                               # doctest: +SKIP

    Args:
        data: the data set's folder; for ``folder``: ``<name>.mp4`` with ``<name>.txt``, one x,y,w,h line a frame.
        bundle: folder of a bundle; ``None`` for the shipped one.
        dataset: its layout, a name of ``sequences.datasets.DATASETS``.
        sequences: only those whose names match, such as ``otb_*`` or ``a,b``.
        protocols: whose rules make the numbers; the first leads.
        threads: CPU threads for inference; ``None`` for all.

    Raises:
        UsageError: there is no such data set, protocol or engine.
        UserError: the data or the bundle cannot be used. A sequence that fails is in the report's ``failures``.
    """
    if dataset not in DATASETS:
        raise UsageError(f"there is no data set {dataset!r}; there are {', '.join(DATASETS)}")
    if unknown := [name for name in protocols if name not in PROTOCOLS]:
        raise UsageError(f"there is no protocol {unknown[0]!r}; there are {', '.join(PROTOCOLS)}")
    chosen = select(DATASETS[dataset].read(locate(dataset, Path(data)), False), sequences)
    (subject,) = subjects_of([None if bundle is None else Path(bundle)], [engine], threads, NO_CHANGES)
    title = Path(data).resolve().name if dataset == "folder" else dataset
    evaluation = Evaluation(
        subject.label,
        title,
        chosen,
        tuple(PROTOCOLS[name] for name in protocols),
        subject.facts(1),
        progress=progress,
    )
    evaluate_tracker(subject.make(1), evaluation)
    if evaluation.interrupted:
        raise KeyboardInterrupt
    return evaluation.report


def evaluate_files(folder: Path, layout: Layout, evaluation: Evaluation) -> Evaluation:
    """Score the result files of any tracker; a sequence without a readable file is a failure."""
    for sequence in evaluation.sequences:
        try:
            result: TrackRun | SequenceFailure = read_run(folder, layout, sequence, evaluation.progress.note)
        except UserError as error:
            result = SequenceFailure(sequence.name, str(error))
        evaluation.add(result, sequence)
    return evaluation


def report_document(evaluations: Sequence[Evaluation], dataset: str) -> dict[str, Any]:
    """Everything for programs: each tracker's report, and the comparison if several have sequences in common."""
    reports = [e.report for e in evaluations]
    scored = [report for report in reports if report.sequences]
    names = [{s.name for s in report.sequences} for report in scored]
    compared = len(scored) > 1 and bool(set.intersection(*names))
    return {
        "schema": REPORT_SCHEMA,
        "sttrack_deploy": __version__,
        "dataset": dataset,
        "protocol": reports[0].protocol.name,
        "trackers": [{**report.to_dict(), "confidence": _confidence(report)} for report in reports],
        "comparison": Comparison.of(scored).to_dict() if compared else None,
    }


def _confidence(report: Report) -> Any:
    summary = summarize_confidence(report)
    return None if summary is None else without_nan(summary.to_dict())
