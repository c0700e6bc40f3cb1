"""Several trackers on the same sequences: who is better, by how much, and how sure that is."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UserError
from sttrack_deploy.evaluation.bootstrap import (
    Interval,
    MeanInterval,
    bootstrap_interval,
    paired_bootstrap,
)
from sttrack_deploy.evaluation.protocols.base import Protocol, Score
from sttrack_deploy.evaluation.scores import FPS_NOTE, Report, SequenceReport, without_nan

__all__ = [
    "AttributeScores",
    "Comparison",
    "Difference",
    "Ranked",
    "SequenceScores",
]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ranked:
    """One tracker's line in the ranking, over the common sequences.

    Attributes:
        index: of the tracker in the comparison, 0 for the baseline.
        score: by the protocol of the ranking.
        interval: of the headline number, from resampling sequences; NaN limits where there are too few to say.
        own: sequences that this tracker was scored on, those that others lack included.
    """

    index: int
    label: str
    score: Score
    interval: MeanInterval
    fps: float
    fps_end_to_end: float
    presence_auroc: float
    on_target_auroc: float
    own: int


@dataclass(frozen=True, slots=True)
class Difference:
    """A tracker's headline number less the baseline's, with the interval from resampling sequences.

    Attributes:
        interval: NaN limits where there are too few sequences to say.
        sequences: how many were resampled: those that count by the protocol.
    """

    index: int
    label: str
    interval: Interval
    sequences: int


@dataclass(frozen=True, slots=True)
class AttributeScores:
    """The headline number over the sequences that have one attribute, a value a tracker."""

    attribute: str
    sequences: int
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SequenceScores:
    """The headline number of one sequence, a value a tracker."""

    name: str
    frames: int
    absent: int
    values: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Reports over exactly the same sequences, by the same protocols; make it with :meth:`of`.

    Attributes:
        reports: the first is the baseline; each holds the common sequences only, in the baseline's order,
            under a label that no other has.
        own: how many sequences each tracker was scored on before that.
    """

    reports: tuple[Report, ...]
    own: tuple[int, ...]

    @classmethod
    def of(cls, reports: Iterable[Report]) -> Comparison:
        """Compare reports; the first is the baseline. One alone is compared with nothing.

        Raises:
            UserError: there is none, they are of different data sets, protocols or frames, or no sequence
                is in all of them.
        """
        given = tuple(reports)
        if not given:
            raise UserError("there is no report to compare; at least one is needed")
        for other in given[1:]:
            _check_comparable(given[0], other)
        by_name = [{s.name: s for s in report.sequences} for report in given]
        names = [s.name for s in given[0].sequences if all(s.name in known for known in by_name)]
        if not names:
            counts = ", ".join(f"{report.label}: {len(report.sequences)}" for report in given)
            raise UserError(
                f"no sequence was scored for every tracker ({counts}); there is nothing to compare"
            )
        _check_frames(names, by_name, [report.label for report in given])
        restricted = (
            dataclasses.replace(report, label=label, sequences=tuple(known[name] for name in names))
            for report, label, known in zip(given, _unique(r.label for r in given), by_name, strict=True)
        )
        return cls(tuple(restricted), tuple(len(report.sequences) for report in given))

    @property
    def baseline(self) -> Report:
        return self.reports[0]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(report.label for report in self.reports)

    @property
    def dataset(self) -> str:
        return self.baseline.dataset

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """The first is the one that everything leads with."""
        return self.baseline.protocols

    @property
    def names(self) -> tuple[str, ...]:
        """The sequences that all trackers have."""
        return tuple(s.name for s in self.baseline.sequences)

    def sequence(self, name: str) -> tuple[SequenceReport, ...]:
        """One sequence by each tracker.

        Raises:
            KeyError: not a common sequence.
        """
        if name not in self.names:
            raise KeyError(name)
        index = self.names.index(name)
        return tuple(report.sequences[index] for report in self.reports)

    def ranking(self, protocol: Protocol) -> list[Ranked]:
        """Best headline first; trackers without a number last."""
        return self._rankings[protocol.name]

    def differences(self, protocol: Protocol) -> list[Difference]:
        """Every tracker but the baseline, in the order given."""
        return self._differences[protocol.name]

    @cached_property
    def _rankings(self) -> dict[str, list[Ranked]]:
        figures = [report.confidence_figures for report in self.reports]
        return {protocol.name: self._ranking_by(protocol, figures) for protocol in self.protocols}

    def _ranking_by(self, protocol: Protocol, figures: list[dict[str, float]]) -> list[Ranked]:
        rows = [
            Ranked(
                index=index,
                label=report.label,
                score=report.score(protocol),
                interval=bootstrap_interval(*_headlines(report, protocol)),
                fps=report.fps,
                fps_end_to_end=report.fps_end_to_end,
                presence_auroc=figures[index]["presence_auroc"],
                on_target_auroc=figures[index]["on_target_auroc"],
                own=self.own[index],
            )
            for index, report in enumerate(self.reports)
        ]
        return sorted(rows, key=lambda row: _descending(row.score[protocol.headline]))

    @cached_property
    def _differences(self) -> dict[str, list[Difference]]:
        return {protocol.name: self._differences_by(protocol) for protocol in self.protocols}

    def _differences_by(self, protocol: Protocol) -> list[Difference]:
        baseline, weights = _headlines(self.baseline, protocol)
        rows = []
        for index, report in enumerate(self.reports[1:], 1):
            values, _ = _headlines(report, protocol)
            counted = int((np.isfinite(values - baseline) & (weights > 0)).sum())
            rows.append(Difference(index, report.label, paired_bootstrap(values, baseline, weights), counted))
        return rows

    def by_attribute(self, protocol: Protocol) -> list[AttributeScores]:
        """In alphabetical order; empty where the data set names no attributes."""
        counts = Counter(a for s in self.baseline.sequences for a in set(s.sequence.attributes))
        return [
            AttributeScores(
                attribute,
                counts[attribute],
                tuple(_headline_of(report, protocol, attribute) for report in self.reports),
            )
            for attribute in sorted(counts)
        ]

    def by_sequence(self, protocol: Protocol) -> list[SequenceScores]:
        """In the data set's order."""
        columns = np.stack([_headlines(report, protocol)[0] for report in self.reports], axis=1)
        return [
            SequenceScores(s.name, s.frames, s.absent, tuple(values))
            for s, values in zip(self.baseline.sequences, columns.tolist(), strict=True)
        ]

    def worst(self, count: int, protocol: Protocol | None = None) -> list[str]:
        """Names of the sequences with the lowest headline number, mean over trackers; the lowest first."""
        rows = self.by_sequence(protocol or self.protocols[0])
        means = [(float(np.mean(row.values)), row.name) for row in rows]
        return [name for mean, name in sorted(m for m in means if math.isfinite(m[0]))[:count]]

    def to_dict(self) -> dict[str, Any]:
        """Every table, in types that JSON knows; NaN is None. The reports' own numbers are not repeated."""
        result: dict[str, Any] = without_nan(
            {
                "dataset": self.dataset,
                "baseline": self.baseline.label,
                "trackers": list(self.labels),
                "common_sequences": len(self.names),
                "protocols": {protocol.name: self._protocol_dict(protocol) for protocol in self.protocols},
                "fps_means": FPS_NOTE,
            }
        )
        return result

    def _protocol_dict(self, protocol: Protocol) -> dict[str, Any]:
        return {
            "headline": protocol.headline,
            "ranking": [dataclasses.asdict(row) for row in self.ranking(protocol)],
            "differences": [
                {"label": row.label, "sequences": row.sequences, **dataclasses.asdict(row.interval)}
                for row in self.differences(protocol)
            ],
            "attributes": [dataclasses.asdict(row) for row in self.by_attribute(protocol)],
            "sequences": [dataclasses.asdict(row) for row in self.by_sequence(protocol)],
        }


def _check_comparable(first: Report, other: Report) -> None:
    if first.dataset != other.dataset:
        raise UserError(
            f"{first.label} was measured on {first.dataset!r} and {other.label} on {other.dataset!r}; "
            "only reports on one data set can be compared"
        )
    names, others = ([p.name for p in report.protocols] for report in (first, other))
    if names != others:
        raise UserError(
            f"{first.label} was scored by {', '.join(names)} and {other.label} by {', '.join(others)}; "
            "score both by the same protocols, in the same order"
        )


def _check_frames(names: list[str], by_name: list[dict[str, SequenceReport]], labels: list[str]) -> None:
    for name in names:
        first = by_name[0][name].sequence.truth
        for known, label in zip(by_name[1:], labels[1:], strict=True):
            truth = known[name].sequence.truth
            if not np.array_equal(first, truth, equal_nan=True):
                raise UserError(
                    f"the ground truth of {name} is not the same for {labels[0]} ({len(first)} frames) and "
                    f"{label} ({len(truth)} frames); score both on one copy of the data"
                )


def _unique(labels: Iterable[str]) -> list[str]:
    """The second of two equal labels gets a number, so that every line says which tracker it is."""
    unique: list[str] = []
    for label in labels:
        candidate, number = label, 1
        while candidate in unique:
            number += 1
            candidate = f"{label} ({number})"
        unique.append(candidate)
    return unique


def _headlines(report: Report, protocol: Protocol) -> tuple[FloatArray, FloatArray]:
    """The headline number and the weight of each sequence, both ``(S,)``; NaN where no frame counts."""
    values = [s.scores[protocol.name][protocol.headline] for s in report.sequences]
    weights = [s.measured[protocol.name].weight for s in report.sequences]
    counted = np.array([s.measured[protocol.name].frames > 0 for s in report.sequences])
    return np.where(counted, np.array(values, np.float64), np.nan), np.array(weights, np.float64)


def _headline_of(report: Report, protocol: Protocol, attribute: str) -> float:
    chosen = [s.measured[protocol.name] for s in report.sequences if attribute in s.sequence.attributes]
    return float(protocol.overall(chosen)[protocol.headline])


def _descending(value: float) -> float:
    return math.inf if math.isnan(value) else -value
