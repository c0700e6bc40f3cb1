"""Plots of a comparison."""

from __future__ import annotations

import dataclasses
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from fake_reports import PICKY, PYTRACKING, report, run, sequence, three_trackers

from sttrack_deploy.errors import MissingDependencyError
from sttrack_deploy.evaluation.comparison import Comparison
from sttrack_deploy.evaluation.reporting.plots import (
    attribute_plot,
    calibration_plot,
    curve_plots,
    every_plot,
    speed_plot,
    timeline_plot,
    write_plots,
)
from sttrack_deploy.plotting import tracker_style

pytest.importorskip("matplotlib")

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()).strip() for node in ET.fromstring(svg).iter(f"{SVG}text")]


@pytest.fixture(scope="module")
def compared() -> Comparison:
    return three_trackers(good="cost $1 & <b>$2")


def test_curves_name_the_protocol_and_rank_the_trackers(compared: Comparison) -> None:
    success, precision, normalized = curve_plots(compared, PYTRACKING)
    assert success.title == "Success, pytracking"
    for plot, key in ((success, "auc"), (precision, "precision"), (normalized, "normalized_precision")):
        words = texts(plot.svg())
        assert plot.title in words
        legend = [
            word for word in words if any(word.endswith(label.split()[-1]) for label in compared.labels)
        ]
        scores = sorted((row.score[key] for row in compared.ranking(PYTRACKING)), reverse=True)
        assert [word.split()[0] for word in legend] == [f"{score:.3f}" for score in scores]
        assert all(word in plot.alt for word in legend)
    assert any(word.endswith("cost $1 & <b>$2") for word in texts(success.svg()))


def test_the_curves_are_the_pooled_ones(compared: Comparison) -> None:
    success = curve_plots(compared, PYTRACKING)[0]
    drawn = {line.get_color(): line.get_ydata() for line in success.figure.axes[0].lines}
    for index, each in enumerate(compared.reports):
        np.testing.assert_array_equal(drawn[tracker_style(index).color], each.pooled(PYTRACKING).success)


def test_a_protocol_without_a_number_has_no_curve_for_it(compared: Comparison) -> None:
    assert [plot.title for plot in curve_plots(compared, PICKY)] == ["Success, picky"]


def test_equal_plots_are_equal_files_whatever_the_configuration(compared: Comparison) -> None:
    import matplotlib as mpl

    def files(comparison: Comparison) -> list[bytes | str]:
        timeline = timeline_plot(comparison, "gone")
        curve = curve_plots(comparison, PYTRACKING)[0]
        return [timeline.svg(), curve.svg(), curve.png()]

    timeline, curve, picture = first = files(compared)
    kept = []
    for number in range(4):
        # Rounding in the layout depends on where its variables happen to lie.
        kept.append([object() for _ in range(1000 * number)])
        with mpl.rc_context({"font.size": 22, "axes.facecolor": "red", "svg.fonttype": "path"}):
            assert files(three_trackers(good="cost $1 & <b>$2")) == first
            assert mpl.rcParams["font.size"] == 22
    assert isinstance(picture, bytes)
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    for svg in (timeline, curve):
        assert "date" not in str(svg)
        assert mpl.__version__ not in str(svg)


def test_attributes_are_bars_of_their_scores(compared: Comparison) -> None:
    from matplotlib.patches import Rectangle

    plot = attribute_plot(compared, PYTRACKING)
    assert plot is not None
    widths = [bar.get_width() for bar in plot.figure.axes[0].patches if isinstance(bar, Rectangle)]
    rows = compared.by_attribute(PYTRACKING)
    assert widths == [row.values[index] for index in range(3) for row in rows]
    assert {"FM (2)", "OCC (1)", "OV (1)"} <= set(texts(plot.svg()))
    plain = sequence("plain")
    assert attribute_plot(Comparison.of([report("x", [(plain, run(plain))])]), PYTRACKING) is None


def test_calibration_needs_a_confidence_that_is_a_probability(compared: Comparison) -> None:
    plot = calibration_plot(compared)
    assert plot is not None
    legend = [word for word in texts(plot.svg()) if word.startswith("0.") and " " in word]
    assert len(legend) == 2  # the third tracker has no confidence
    data = sequence("a")
    result = run(data)
    assert result.confidences is not None
    scaled = dataclasses.replace(result, confidences=10 * result.confidences)
    for unusable in (scaled, run(data, confidences=False)):
        assert calibration_plot(Comparison.of([report("x", [(data, unusable)])])) is None


def test_speed_shows_those_that_were_timed(compared: Comparison) -> None:
    plot = speed_plot(compared, PYTRACKING)
    assert plot is not None
    starts = [np.asarray(line.get_xydata())[0] for line in plot.figure.axes[0].lines]
    points = {(round(float(x)), float(y)) for x, y in starts}
    scores = [each.score(PYTRACKING)["auc"] for each in compared.reports]
    assert points == {(50, scores[0]), (20, scores[1])}
    data = sequence("a")
    untimed = Comparison.of([report("x", [(data, run(data, fps=0))])])
    assert speed_plot(untimed, PYTRACKING) is None


def test_a_timeline_shows_absence_and_what_was_called_lost(compared: Comparison) -> None:
    gone = timeline_plot(compared, "gone", pictured=[4])
    words = texts(gone.svg())
    assert {"target absent", "lost", "IoU", "confidence", "gone: IoU and confidence over time"} <= set(words)
    assert "The target is absent in 3 frames." in gone.alt
    assert "called lost in 3" in gone.alt
    seen = texts(timeline_plot(compared, "open").svg())
    assert "target absent" not in seen
    assert "lost" not in seen
    data = sequence("a")
    silent = Comparison.of([report("x", [(data, run(data, confidences=False))])])
    assert "confidence" not in texts(timeline_plot(silent, "a").svg())
    with pytest.raises(KeyError):
        timeline_plot(compared, "elsewhere")


def test_a_long_timeline_stays_small_and_keeps_every_dip() -> None:
    data = sequence("long", frames=20_000)
    result = run(data, 1.0, (9_000, 9_001))
    plot = timeline_plot(Comparison.of([report("x", [(data, result)])]), "long")
    (line,) = plot.figure.axes[0].lines
    assert np.nanmin(line.get_ydata()) == 0.0
    assert 9_000 in np.asarray(line.get_xdata())
    assert len(plot.svg()) < 200_000


def test_trackers_can_be_told_apart_without_color() -> None:
    styles = [tracker_style(index) for index in range(28)]
    assert len({(style.color, style.dashes) for style in styles}) == 28
    assert len({(style.color, style.marker) for style in styles}) == 28
    assert len({(style.color, style.hatch) for style in styles}) == 28
    assert len({style.dashes for style in styles[:4]}) == 4
    assert tracker_style(0).bgr == (0xB2, 0x72, 0x20)


def test_files_are_written_twice_alike(compared: Comparison, tmp_path: Path) -> None:
    written = write_plots(compared, tmp_path / "plots")
    names = {plot.name for plot in every_plot(compared)}
    assert {path.name for path in written} == {
        f"{name}{suffix}" for name in names for suffix in (".svg", ".png")
    }
    assert {"success_pytracking", "success_picky", "attributes_picky", "calibration"} <= names
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == sorted(p.name for p in written)
    before = {path.name: path.read_bytes() for path in written}
    for path in written:
        if path.suffix == ".svg":
            ET.fromstring(path.read_text(encoding="utf-8"))
    write_plots(compared, tmp_path / "plots")
    assert {path.name: path.read_bytes() for path in written} == before


def test_without_matplotlib_the_install_line_is_said(
    compared: Comparison, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'sttrack-deploy\[report\]'"):
        write_plots(compared, tmp_path / "plots")
    assert list(tmp_path.iterdir()) == []
