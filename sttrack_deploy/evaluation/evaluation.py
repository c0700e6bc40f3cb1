"""Measuring trackers over sequences: bundles on engines or result files of any tracker; resumed, written, scored."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sttrack_deploy import __version__
from sttrack_deploy.bundle import MANIFEST
from sttrack_deploy.engines.registry import DEFAULT_BACKEND
from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.evaluation.comparison import Comparison
from sttrack_deploy.evaluation.confidence_summary import summarize_confidence
from sttrack_deploy.evaluation.protocols import DEFAULT_PROTOCOL, PROTOCOLS
from sttrack_deploy.evaluation.protocols.base import Protocol
from sttrack_deploy.evaluation.results import (
    DEFAULT_LAYOUT,
    Layout,
    ResultFolder,
    as_written,
    find_results,
    read_run,
)
from sttrack_deploy.evaluation.runner import BundleTracker, SingleTargetTracker, run_sequences
from sttrack_deploy.evaluation.scores import Report, SequenceReport, score_run, without_nan
from sttrack_deploy.files import sha256_of
from sttrack_deploy.policy import NO_CHANGES, PolicyChanges
from sttrack_deploy.progress import SILENT, Progress
from sttrack_deploy.runtime.tracker import Tracker
from sttrack_deploy.sequences.datasets import DATASETS
from sttrack_deploy.sequences.datasets.locations import locate
from sttrack_deploy.sequences.sequence import SequenceFailure, TrackRun, VideoSequence, select

__all__ = [
    "REPORT_SCHEMA",
    "Evaluation",
    "Subject",
    "evaluate",
    "evaluate_files",
    "evaluate_tracker",
    "other_results",
    "report_document",
    "subjects_of",
]


@dataclass(frozen=True)
class Subject:
    """One bundle on one engine.

    Attributes:
        label: differs from those of the others that are measured.
        maker: makes it anew, in a worker process too.
        tracker: made once here, so that a bad bundle ends the run before it starts.
    """

    label: str
    maker: BundleTracker
    tracker: Tracker

    def make(self, workers: int) -> Callable[[], SingleTargetTracker]:
        """Makes a tracker for each worker; one process needs no second one."""
        return self.maker if workers > 1 else lambda: self.tracker

    def identity(self) -> dict[str, Any]:
        """What decides the boxes."""
        manifest = self.tracker.bundle.manifest
        return {
            "template_sha256": manifest.template.sha256,
            "search_sha256": manifest.search.sha256,
            "engine": self.tracker.engine.name,
            "tracking": dataclasses.asdict(self.tracker.policy),
        }

    def facts(self, workers: int) -> dict[str, Any]:
        """What was measured, for the JSON and the HTML."""
        bundle, engine = self.tracker.bundle, self.tracker.engine
        return {
            "sttrack_deploy": __version__,
            "bundle": {
                "name": bundle.manifest.title,
                "path": str(bundle.path),
                "precision": bundle.manifest.precision.get("name"),
                "template_sha256": bundle.manifest.template.sha256,
                "search_sha256": bundle.manifest.search.sha256,
                "manifest_sha256": sha256_of(bundle.path / MANIFEST),
            },
            "engine": {"name": engine.name, **engine.describe()},
            "tracking": dataclasses.asdict(self.tracker.policy),
            "threads": self.maker.threads,
            "workers": workers,
        }

    def store(self, root: Path, layout: Layout, dataset: str) -> ResultFolder:
        """Where its result files lie below ``root``."""
        parameters = re.sub(r"[^A-Za-z0-9._]+", "-", self.label).strip("-")
        return ResultFolder(layout.run_folder(root, "sttrack", parameters, dataset), layout, self.identity())


def subjects_of(
    bundles: Sequence[Path | None],
    engines: Sequence[str],
    threads: int | None,
    changes: PolicyChanges,
) -> list[Subject]:
    """Every bundle on every engine.

    Raises:
        UserError: a bundle cannot be opened, or an engine not be made.
    """
    pairs = list(itertools.product(bundles, engines))
    if len(set(pairs)) != len(pairs):
        raise UsageError("a bundle or an engine is named twice; name each once")
    made = []
    for bundle, engine in pairs:
        maker = BundleTracker(bundle, engine, threads, changes)
        made.append((maker, maker()))
    names = [tracker.bundle.manifest.title for _, tracker in made]
    subjects: list[Subject] = []
    for (maker, tracker), name in zip(made, names, strict=True):
        # The folder tells apart two bundles of one name (two precisions, say).
        namesakes = {str(t.bundle.path) for (_, t), other in zip(made, names, strict=True) if other == name}
        shown = name if len(namesakes) == 1 else f"{name} {tracker.bundle.path.name}"
        label = f"{shown} ({maker.engine})"
        if any(s.label == label for s in subjects):
            label = f"{name} {tracker.bundle.path} ({maker.engine})"
        subjects.append(Subject(label, maker, tracker))
    return subjects


def other_results(
    given: Sequence[str], sequences: list[VideoSequence], dataset: str
) -> dict[str, tuple[Path, Layout]]:
    """The trackers that ``--results [LABEL=]DIR`` names, by label.

    Raises:
        UserError: a folder is not there or holds no results.
        UsageError: a label comes twice, or is given to a folder that holds several trackers.
    """
    found: dict[str, tuple[Path, Layout]] = {}
    for text in given:
        label, equals, folder = text.partition("=")
        if not equals or Path(text).is_dir():
            label, folder = "", text
        here = find_results(Path(folder), sequences, dataset)
        if label and len(here) > 1:
            raise UsageError(
                f"{folder} holds {len(here)} trackers ({', '.join(sorted(here)[:3])}); one label cannot name them"
            )
        for name, place in here.items():
            if (label or name) in found:
                raise UsageError(
                    f"two results are called {label or name!r}; tell them apart with --results LABEL=DIR"
                )
            found[label or name] = place
    return found


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
