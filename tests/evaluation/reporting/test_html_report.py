"""The page about a comparison."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fake_reports import PICKY, PYTRACKING, report, run, sequence, three_trackers
from progress_log import ProgressLog

from sttrack_deploy import __version__
from sttrack_deploy.errors import MissingDependencyError, UserError
from sttrack_deploy.evaluation.comparison import Comparison
from sttrack_deploy.evaluation.reporting.html_report import write_html
from sttrack_deploy.evaluation.scores import FPS_NOTE
from sttrack_deploy.sequences.sequence import SequenceFailure

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

ROOT = Path(__file__).resolve().parents[3]
EVIL = '<script>alert("1")</script> --> </svg> &amp; id="x"'
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Elements with their attributes, the text of each, and whether what is opened is closed."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.rows: list[list[str]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data.strip()
        for tag in self.open:
            self.texts[tag][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(comparison: Comparison, path: Path, **options: object) -> Page:
    write_html(comparison, path, **{"made": "22 November 2026", "worst": 1, **options})  # type: ignore[arg-type]
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    comparison = three_trackers(tmp_path_factory.mktemp("data"), good=EVIL)
    first, second, third = comparison.reports
    return dataclasses.replace(
        comparison,
        reports=(
            dataclasses.replace(
                first,
                planned=5,
                failures=(SequenceFailure("street", "cannot read <street.mp4>"),),
                subject={"engine": {"name": "onnxruntime", "version": "1.22"}, "threads": 2},
            ),
            dataclasses.replace(second, subject={"threads": None, "results": "folder/of/boxes"}),
            third,
        ),
    )


@pytest.fixture(scope="module")
def page(compared: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(compared, tmp_path_factory.mktemp("page") / "report.html", worst=2)


def test_the_page_is_well_formed_and_has_every_section(page: Page) -> None:
    assert page.open == []
    assert page.texts["h2"] == [
        "Ranking",
        "Differences to the baseline",
        "Curves",
        "Protocols side by side",
        "Attributes",
        "Confidence",
        "Hardest sequences",
        "All sequences",
        "Failures",
        "What was measured",
    ]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {attributes["href"].removeprefix("#") for attributes in page.all("a")}
    assert links <= set(ids)
    assert page.all("meta")[1]["content"].startswith("width=device-width")


def test_nothing_is_fetched_from_elsewhere(page: Page) -> None:
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            if name in attributes:
                assert attributes[name].startswith(("data:image/", "#")), (tag, attributes)
    assert page.all("link") == []
    (style,) = page.texts["style"]
    assert "url(" not in style
    assert "@import" not in style
    references = re.findall(r"url\(([^)]*)\)", str([a.get("clip-path", "") for _, a in page.elements]))
    assert all(reference.startswith("#") for reference in references)


def test_labels_are_text_and_nothing_else(page: Page) -> None:
    assert len(page.all("script")) == 1
    assert "alert" not in page.texts["script"][0]
    assert any(EVIL in text for text in page.texts["table"])
    assert "<street.mp4>" in " ".join(page.texts["td"])
    # In a plot a long label is cut.
    assert any(EVIL[:20] in text for text in page.texts["svg"])


def test_pictures_and_tables_can_be_read_without_seeing_them(page: Page) -> None:
    images = page.all("img")
    assert len(images) == 2 * 5
    assert all(re.match(r"frame \d+, .*(IoU|no target)", image["alt"]) for image in images)
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in images)
    for svg in page.all("svg"):
        assert svg.get("aria-hidden") == "true" or (svg["role"] == "img" and len(svg["aria-label"]) > 20)
    heads = page.all("th")
    assert heads
    assert all("scope" in head for head in heads)
    assert page.all("html")[0]["lang"] == "en"


def test_every_number_has_its_protocol(compared: Comparison, page: Page) -> None:
    ranking, difference, other_difference, side_by_side = page.texts["table"][:4]
    assert "protocol pytracking" in ranking
    assert "AUC, protocol pytracking" in difference
    assert "AO, protocol picky" in other_difference
    for row in compared.ranking(PYTRACKING):
        for value in row.score.values():
            assert f"{value:.3f}" in ranking
    for protocol in (PYTRACKING, PICKY):
        assert protocol.name in side_by_side
        for each in compared.reports:
            for value in each.score(protocol).values():
                assert f"{value:.3f}" in side_by_side
    for scores in compared.by_sequence(PYTRACKING):
        assert all(f"{value:.3f}" in page.texts["table"][-3] for value in scores.values)
    captions = page.texts["caption"]
    assert all("rotocol p" in caption for caption in captions)
    titles = [text for text in page.texts["text"] if "pytracking" in text or "picky" in text]
    assert {"Success, pytracking", "Success, picky", "AUC by attribute, pytracking"} <= set(titles)


def test_the_page_says_what_was_measured_and_when(page: Page) -> None:
    everything = " ".join(page.texts["main"] + page.texts["header"])
    assert "22 November 2026" in everything
    assert f"sttrack-deploy {__version__}" in everything
    assert FPS_NOTE in everything
    measured = {row[0]: row[1:] for row in page.rows}
    assert measured["sequences scored"] == ["3 of 5", "3", "3"]
    assert measured["engine: name"] == ["onnxruntime", "-", "-"]
    assert measured["threads"] == ["2", "-", "-"]
    assert measured["results"] == ["-", "folder/of/boxes", "-"]


def test_one_tracker_has_no_differences(tmp_path: Path) -> None:
    data = [sequence(name, tmp_path, frames=6) for name in "ab"]
    alone = Comparison.of(
        [report("alone", [(d, run(d, confidences=False, fps=0)) for d in data], protocols=(PYTRACKING,))]
    )
    page = page_of(alone, tmp_path / "r.html")
    assert page.texts["h2"] == [
        "Result",
        "Curves",
        "Protocols side by side",
        "Hardest sequences",
        "All sequences",
        "What was measured",
    ]
    assert FPS_NOTE not in page.texts["main"][0]
    for key, value in alone.baseline.sequences[0].scores["pytracking"].items():
        assert PYTRACKING.headings[key] in page.texts["table"][-2]
        assert f"{value:.3f}" in page.texts["table"][-2]


def test_without_the_frames_there_is_everything_but_pictures(tmp_path: Path) -> None:
    log = ProgressLog()
    page = page_of(three_trackers(), tmp_path / "r.html", progress=log)
    assert page.all("img") == []
    assert any(text.startswith("No pictures: cannot read nowhere/") for text in page.texts["p"])
    assert any("IoU and confidence over time" in text for text in page.texts["svg"])
    assert log.stages[0] == "plots"
    assert any(step.startswith("pictures of ") for step in log.stages)


def test_the_same_report_is_the_same_page(tmp_path: Path) -> None:
    comparison = three_trackers()
    for name in ("a.html", "b.html"):
        page_of(comparison, tmp_path / name, worst=0)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert "Hardest sequences" not in Page((tmp_path / "a.html").read_text()).texts["h2"]


def test_hundreds_of_sequences_stay_a_small_page(tmp_path: Path) -> None:
    data = [sequence(f"video-{n}", frames=4, attributes=("FM",)) for n in range(300)]
    many = Comparison.of(
        [report(label, [(d, run(d, shift)) for d in data]) for label, shift in (("x", 1.0), ("y", 3.0))]
    )
    page_of(many, tmp_path / "r.html")
    assert (tmp_path / "r.html").stat().st_size < 500_000


def test_a_page_that_cannot_be_made_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.html"
    path.write_text("old")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        page_of(three_trackers(), tmp_path / "file" / "r.html", worst=0)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(
        MissingDependencyError, match=r"needs 'jinja2'.*pip install 'sttrack-deploy\[report\]'"
    ):
        page_of(three_trackers(), path)
    assert path.read_text() == "old"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "r.html"]


def test_tables_and_pictures_need_neither_matplotlib_nor_jinja(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['matplotlib', 'jinja2', 'markupsafe', 'torch', 'onnx']))\n"
        "import sttrack_deploy.evaluation.reporting.html_report, sttrack_deploy.evaluation.reporting.plots\n"
        "from fake_reports import three_trackers\n"
        "from rich.console import Console\n"
        "from sttrack_deploy.evaluation.reporting.tables import comparison_tables\n"
        "from sttrack_deploy.evaluation.reporting.strips import picture_strip\n"
        "from pathlib import Path\n"
        "compared = three_trackers(Path('data'))\n"
        "assert comparison_tables(compared, Console()) and picture_strip(compared, 'gone').jpeg()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
