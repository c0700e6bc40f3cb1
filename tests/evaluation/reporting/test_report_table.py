from __future__ import annotations

import io
from pathlib import Path

import pytest
from moving_square import truth_of
from rich.console import Console

from sttrack_deploy.evaluation.protocols import DEFAULT_PROTOCOL, PROTOCOLS
from sttrack_deploy.evaluation.reporting.tables import report_notes, report_table
from sttrack_deploy.evaluation.scores import Report, score_run
from sttrack_deploy.sequences.sequence import TrackRun, VideoSequence


def report(name: str) -> Report:
    sequence = VideoSequence(name, Path("x"), truth_of(12))
    scored = score_run(TrackRun(name, sequence.truth), sequence, [DEFAULT_PROTOCOL])
    return Report("a tracker", "data", (DEFAULT_PROTOCOL,), (scored,), planned=1)


def printed(table_of: Report, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(report_table(table_of, console))
    return console.export_text()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_word_is_cut_and_the_headline_stays(width: int) -> None:
    text = printed(report("tinytlp_motorcyclechase"), width)
    assert "…" not in text
    assert "tinytlp_motorcyclechase" in text
    assert "AUC" in text
    assert all(len(line) <= width for line in text.splitlines())
    assert ("OP75" in text) == (width > 60)
    assert ("e2e" in text) == (width == 120)


def test_other_protocols_are_named_below() -> None:
    both = (DEFAULT_PROTOCOL, PROTOCOLS["trackingnet"])
    sequence = VideoSequence("a", Path("x"), truth_of(5))
    scored = score_run(TrackRun("a", sequence.truth), sequence, both)
    notes = report_notes(Report("a tracker", "data", both, (scored,), planned=1))
    assert notes == ["by protocol trackingnet: AUC 1.000  P 1.000  NP 1.000  OP50 1.000  OP75 1.000"]
