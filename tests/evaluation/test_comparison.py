"""Several trackers on the same sequences."""

from __future__ import annotations

import dataclasses
import io
import json
import re

import numpy as np
import pytest
from fake_reports import PICKY, PYTRACKING, report, run, sequence, three_trackers
from rich.console import Console

from sttrack_deploy.errors import UserError
from sttrack_deploy.evaluation.comparison import Comparison
from sttrack_deploy.evaluation.confidence_summary import confidence_summaries
from sttrack_deploy.evaluation.reporting.tables import comparison_notes, comparison_tables


def printed(comparison: Comparison, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    for table in comparison_tables(comparison, console):
        console.print(table)
    return console.export_text()


def test_only_sequences_that_all_trackers_have_are_compared() -> None:
    a, b, c = (sequence(name) for name in "abc")
    first = report("first", [(a, run(a)), (b, run(b, 8.0)), (c, run(c))])
    second = report("second", [(c, run(c)), (b, run(b))])
    compared = Comparison.of([first, second])
    assert compared.names == ("b", "c")
    assert compared.own == (3, 2)
    assert [[s.name for s in r.sequences] for r in compared.reports] == [["b", "c"], ["b", "c"]]
    expected = PYTRACKING.overall([first.sequences[i].measured["pytracking"] for i in (1, 2)])
    by_label = {row.label: row for row in compared.ranking(PYTRACKING)}
    assert by_label["first"].score == expected
    assert by_label["first"].own == 3
    assert "left out, because another tracker lacks them: first 1" in comparison_notes(compared)[0]


def test_the_number_of_a_row_is_its_rank() -> None:
    compared = three_trackers()
    tables = comparison_tables(compared, Console(width=160))
    for protocol, table in zip(compared.protocols, tables, strict=False):
        numbers, labels = (list(column.cells) for column in table.columns[:2])
        assert numbers == ["1", "2", "3"]
        assert labels == [row.label for row in compared.ranking(protocol)]


def test_the_best_comes_first_and_numberless_trackers_last() -> None:
    compared = three_trackers()
    for protocol in compared.protocols:
        rows = compared.ranking(protocol)
        scores = [row.score[protocol.headline] for row in rows]
        assert scores == sorted(scores, reverse=True)
        assert rows[0].label == "good"
        assert rows[0].interval.low <= scores[0] <= rows[0].interval.high
    unseen = sequence("a", attributes=("UNSEEN",))
    blank = Comparison.of([report(label, [(unseen, run(unseen))]) for label in ("x", "y")])
    assert [row.label for row in blank.ranking(PICKY)] == ["x", "y"]
    assert np.isnan(blank.ranking(PICKY)[0].score["ao"])
    (difference,) = blank.differences(PICKY)
    assert difference.sequences == 0
    assert np.isnan(difference.interval.difference)
    assert blank.worst(5, PICKY) == []


def test_differences_are_those_of_the_scores_and_say_how_sure_they_are() -> None:
    compared = three_trackers()
    for protocol in compared.protocols:
        scores = {row.label: row.score[protocol.headline] for row in compared.ranking(protocol)}
        rows = compared.differences(protocol)
        assert [row.label for row in rows] == ["shifted", "failing"]
        for row in rows:
            assert row.sequences == 3
            assert row.interval.difference == pytest.approx(scores[row.label] - scores["good"])
            assert row.interval.low <= row.interval.difference <= row.interval.high < 0
            assert row.interval.probability == 0


def test_a_tracker_does_not_differ_from_itself() -> None:
    data = [sequence(name) for name in "abc"]
    same = [report("same", [(d, run(d, shift)) for d, shift in zip(data, (1, 4, 9), strict=True)])] * 2
    compared = Comparison.of(same)
    assert compared.labels == ("same", "same (2)")
    (row,) = compared.differences(PYTRACKING)
    assert (row.interval.difference, row.interval.low, row.interval.high) == (0, 0, 0)


def test_attributes_have_the_score_of_their_sequences() -> None:
    compared = three_trackers()
    rows = compared.by_attribute(PYTRACKING)
    assert [(row.attribute, row.sequences) for row in rows] == [("FM", 2), ("OCC", 1), ("OV", 1)]
    with_fm = [s.measured["pytracking"] for s in compared.reports[2].sequences[:2]]
    assert rows[0].values[2] == PYTRACKING.overall(with_fm)["auc"]


def test_sequences_are_listed_in_order_and_the_worst_are_found() -> None:
    compared = three_trackers()
    rows = compared.by_sequence(PYTRACKING)
    assert [(row.name, row.frames, row.absent) for row in rows] == [
        ("open", 12, 0),
        ("gone", 12, 3),
        ("long", 40, 0),
    ]
    assert rows[1].values[0] == compared.reports[0].sequences[1].scores["pytracking"]["auc"]
    means = {row.name: sum(row.values) for row in rows}
    assert compared.worst(2) == sorted(means, key=means.__getitem__)[:2]
    assert compared.sequence("gone")[2].name == "gone"
    with pytest.raises(KeyError):
        compared.sequence("elsewhere")


def test_json_has_every_table_and_no_nan() -> None:
    unseen = sequence("a", attributes=("UNSEEN",))
    seen = sequence("b")
    compared = Comparison.of(
        [
            report(label, [(unseen, run(unseen)), (seen, run(seen, confidences=False, fps=0))])
            for label in "xy"
        ]
    )
    content = json.loads(json.dumps(compared.to_dict(), allow_nan=False))
    assert content["baseline"] == "x"
    assert content["common_sequences"] == 2
    picky = content["protocols"]["picky"]
    assert picky["headline"] == "ao"
    assert [row["label"] for row in picky["ranking"]] == ["x", "y"]
    assert picky["differences"][0]["sequences"] == 1
    assert picky["differences"][0]["low"] is None
    assert picky["attributes"] == [{"attribute": "UNSEEN", "sequences": 1, "values": [None, None]}]
    assert picky["sequences"][0]["values"] == [None, None]


def test_one_report_is_a_comparison_with_nothing() -> None:
    data = sequence("a")
    compared = Comparison.of([report("alone", [(data, run(data))])])
    assert compared.differences(PYTRACKING) == []
    assert "difference" not in printed(compared, 100)


def test_what_cannot_be_compared_says_why() -> None:
    data = sequence("a")
    first = report("first", [(data, run(data))])
    with pytest.raises(UserError, match="no report"):
        Comparison.of([])
    other_set = dataclasses.replace(first, label="second", dataset="circles")
    with pytest.raises(UserError, match=r"first was measured on 'squares' and second on 'circles'"):
        Comparison.of([first, other_set])
    other_protocols = report("second", [(data, run(data))], protocols=(PYTRACKING,))
    with pytest.raises(UserError, match="scored by pytracking, picky and second by pytracking"):
        Comparison.of([first, other_protocols])
    elsewhere = sequence("b")
    with pytest.raises(UserError, match=r"no sequence was scored for every tracker \(first: 1, second: 1\)"):
        Comparison.of([first, report("second", [(elsewhere, run(elsewhere))])])
    longer = sequence("a", frames=13)
    with pytest.raises(UserError, match=r"ground truth of a .*first \(12 frames\) and second \(13 frames\)"):
        Comparison.of([first, report("second", [(longer, run(longer))])])


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_tables_fit_the_terminal_and_cut_no_number(width: int) -> None:
    compared = three_trackers(good="good [bold]tracker[/bold] with a long name")
    text = printed(compared, width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "[bold]" in text
    assert not re.search(r"\d…", text)
    for protocol in compared.protocols:
        assert f"protocol {protocol.name}" in text
        for row in compared.ranking(protocol):
            assert f"{row.score[protocol.headline]:.3f}" in text
    assert ("OP75" in text) == (width >= 80)
    assert ("on target" in text) == (width >= 100)
    assert "OCC" in text


def test_the_first_column_is_the_rank() -> None:
    data = sequence("a", attributes=("OCC",))
    worse, better = report("worse", [(data, run(data, 9.0))]), report("better", [(data, run(data))])
    lines = printed(Comparison.of([worse, better]), 100).splitlines()
    ranked = [line.split()[:2] for line in lines if line.split()[:1] in (["1"], ["2"])]
    assert ranked == [["1", "better"], ["2", "worse"]] * 2  # the same under both protocols
    long = [dataclasses.replace(r, label=f"{r.label} {'x' * 50}") for r in (worse, better)]
    narrow = printed(Comparison.of(long), 60).splitlines()
    (heading,) = [line.split() for line in narrow if line.split()[:1] == ["attribute"]]
    assert heading == ["attribute", "sequences", "#2", "#1"]


def test_notes_explain_only_what_is_there() -> None:
    data = sequence("a")
    known = Comparison.of([report("x", [(data, run(data))])])
    unknown = Comparison.of([report("x", [(data, run(data, confidences=False, fps=0))])])
    assert len(comparison_notes(known)) == 3
    assert comparison_notes(unknown) == ["scores are over the 1 sequence that all trackers have"]


def test_confidence_is_summed_up_for_those_that_gave_one() -> None:
    good, shifted = confidence_summaries(three_trackers())
    assert (good.index, good.label, shifted.index) == (0, "good", 1)
    assert good.presence_auroc == 1.0
    assert good.lost is not None
    assert (good.lost.absent, good.lost.absent_flagged, good.lost.on_target_flagged) == (3, 3, 0)
    assert shifted.lost is not None
    assert shifted.lost.absent_rate == 0.0
    assert good.long_term.f_score > shifted.long_term.f_score
    assert good.calibration is not None
    assert good.calibration.count.sum() == 11 + 11 + 39


def test_a_confidence_that_is_no_probability_has_no_calibration() -> None:
    data = sequence("a", absent=(4,))
    result = run(data)
    assert result.confidences is not None
    scaled = dataclasses.replace(result, confidences=100 * result.confidences)
    (summary,) = confidence_summaries(Comparison.of([report("x", [(data, scaled)])]))
    assert summary.calibration is None
    assert summary.presence_auroc == 1.0
