from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result

from sttrack_deploy.bundle import open_bundle
from sttrack_deploy.cli import evaluate as command
from sttrack_deploy.evaluation.protocols import PROTOCOLS
from sttrack_deploy.geometry import Box
from sttrack_deploy.runtime.tracker import Tracker

RUN = "sttrack/red-square-onnxruntime/data"


def test_table_overall_row_and_next_command(invoke: Callable[..., Result], data: Path, bundle: Path) -> None:
    result = invoke()
    assert result.exit_code == 0, result.output
    assert "protocol pytracking" in result.stderr
    assert "2 sequences" in result.stderr
    assert "AUROC" in result.stderr
    assert "next, see the hardest one (gone" in result.stderr
    next_line = result.stderr.strip().splitlines()[-1]
    assert f"sttrack-run {data / 'gone'} --init-box 20,40,24,24 --bundle {bundle}" in next_line
    assert result.stdout == ""


def test_json_to_standard_output_holds_everything(invoke: Callable[..., Result], bundle: Path) -> None:
    document = json.loads(invoke("--json", "-").stdout)
    graphs = open_bundle(bundle).manifest
    assert (document["schema"], document["dataset"], document["protocol"]) == (3, "data", "pytracking")
    assert document["comparison"] is None
    (report,) = document["trackers"]
    assert report["bundle"]["name"] == "red-square"
    assert report["bundle"]["search_sha256"] == graphs.search.sha256
    assert report["bundle"]["template_sha256"] == graphs.template.sha256
    assert report["engine"] == {"name": "red", "version": "1", "device": "imagination"}
    assert report["tracking"]["recovery"] is True
    assert report["complete"] is True
    assert [s["name"] for s in report["sequences"]] == ["gone", "there"]
    gone, there = report["sequences"]
    assert (gone["frames"], gone["absent"], gone["lost"]) == (12, 3, 3)
    assert gone["presence_auroc"] == 1.0
    assert there["presence_auroc"] is None
    auc = [s["protocols"]["pytracking"]["auc"] for s in (gone, there)]
    assert auc[1] > 0.7
    assert report["protocols"]["pytracking"]["auc"] == pytest.approx(sum(auc) / 2)
    assert len(report["protocols"]["pytracking"]["curves"]["success"]) == 21
    overall = report["overall"]
    assert overall["presence_auroc"] == 1.0
    assert (overall["frames"], overall["absent"]) == (22, 3)
    assert overall["fps_median"] > 0


def test_every_protocol_scores_the_same_results(invoke: Callable[..., Result]) -> None:
    result = invoke("--json", "-", "--protocol", "official", "--protocol", "all")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["protocol"] == "official"
    assert set(document["trackers"][0]["protocols"]) == set(PROTOCOLS)
    assert "protocol official" in result.stderr
    assert "by protocol got10k: AO" in result.stderr


def test_sequences_glob(invoke: Callable[..., Result]) -> None:
    document = json.loads(invoke("--json", "-", "--sequences", "th*").stdout)
    assert [s["name"] for s in document["trackers"][0]["sequences"]] == ["there"]


def test_workers_change_nothing_but_the_times(invoke: Callable[..., Result]) -> None:
    alone = json.loads(invoke("--json", "-").stdout)
    result = invoke("--json", "-", "--workers", "2")
    assert result.exit_code == 0, result.output
    assert "of 2 workers side by side" in result.stderr
    together = json.loads(result.stdout)
    for one, other in zip(*(d["trackers"][0]["sequences"] for d in (alone, together)), strict=True):
        for key in ("name", "protocols", "lost", "on_target_auroc"):
            assert one[key] == other[key]


class Counting:
    """Counts the sequences that are tracked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> None:
        init, self.count = Tracker.init, 0

        def counted(tracker: Tracker, frame: npt.NDArray[np.uint8], box: Box) -> None:
            self.count += 1
            if self.count == stop_at:
                raise KeyboardInterrupt
            init(tracker, frame, box)

        monkeypatch.setattr(Tracker, "init", counted)


class TestResultFiles:
    def test_pytracking_layout_is_the_default(self, invoke: Callable[..., Result], tmp_path: Path) -> None:
        result = invoke("--json", tmp_path / "out" / "r.json", "--out", tmp_path / "boxes")
        assert result.exit_code == 0, result.output
        assert json.loads((tmp_path / "out" / "r.json").read_text())["trackers"][0]["planned"] == 2
        assert sorted(p.name for p in (tmp_path / "boxes" / RUN).iterdir()) == [
            f"{name}{kind}"
            for name in ("gone", "there")
            for kind in (".txt", "_confidence.txt", "_run.json", "_time.txt")
        ]
        lines = (tmp_path / "boxes" / RUN / "gone.txt").read_text().splitlines()
        assert len(lines) == 12
        assert lines[0] == "20.00\t40.00\t24.00\t24.00"
        assert f"result files are in {tmp_path / 'boxes'}" in result.stderr

    def test_a_second_run_tracks_nothing_and_says_the_same(
        self, invoke: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = json.loads(invoke("--json", "-", "--out", tmp_path / "o").stdout)
        counting = Counting(monkeypatch)
        result = invoke("--json", "-", "--out", tmp_path / "o")
        assert counting.count == 0
        assert "2 of 2 sequences are finished" in result.stderr
        second = json.loads(result.stdout)
        for one, other in zip(*(d["trackers"][0]["sequences"] for d in (first, second)), strict=True):
            fps = one.pop("fps"), one.pop("fps_end_to_end"), other.pop("fps"), other.pop("fps_end_to_end")
            assert fps[2:] == pytest.approx(fps[:2], rel=1e-2)
            assert one == other

    def test_restart_and_another_policy_run_again(
        self, invoke: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        invoke("--out", tmp_path / "o")
        counting = Counting(monkeypatch)
        invoke("--out", tmp_path / "o", "--restart")
        assert counting.count == 2
        refused = invoke("--out", tmp_path / "o", "--lost-below", "0.5")
        assert refused.exit_code == 1
        assert counting.count == 2
        assert "replace them with --overwrite" in refused.stderr
        invoke("--out", tmp_path / "o", "--lost-below", "0.5", "--overwrite")
        assert counting.count == 4

    def test_ctrl_c_keeps_what_is_done_and_the_next_run_goes_on(
        self, invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        Counting(monkeypatch, stop_at=2)
        result = invoke("--json", "-", "--out", tmp_path / "o")
        assert result.exit_code == 130
        assert "interrupted: 1 of 2 sequences are done; the same command goes on from there" in result.stderr
        assert "1 sequence of 2" in result.stderr
        report = json.loads(result.stdout)["trackers"][0]
        assert (report["complete"], report["planned"], len(report["sequences"])) == (False, 2, 1)
        counting = Counting(monkeypatch)
        result = invoke("--json", "-", "--out", tmp_path / "o")
        assert result.exit_code == 0
        assert counting.count == 1
        assert json.loads(result.stdout)["trackers"][0]["complete"] is True

    def test_integer_boxes_lose_accuracy_and_say_so_in_the_files(
        self, invoke: Callable[..., Result], tmp_path: Path
    ) -> None:
        whole = json.loads(invoke("--json", "-", "--integer-boxes", "--out", tmp_path / "o").stdout)
        exact = json.loads(invoke("--json", "-").stdout)
        assert (tmp_path / "o" / RUN / "gone.txt").read_text().splitlines()[0] == "20\t40\t24\t24"
        score = [d["trackers"][0]["protocols"]["pytracking"]["auc"] for d in (whole, exact)]
        assert score[0] != score[1]

    def test_shards_merge_to_the_whole(self, invoke: Callable[..., Result], tmp_path: Path) -> None:
        whole = json.loads(invoke("--json", "-").stdout)["trackers"][0]
        for part in (1, 2):
            result = invoke("--shard", f"{part}/2", "--out", tmp_path / f"part{part}")
            assert result.exit_code == 0, result.output
            assert "sttrack-eval merge" in result.stderr
        result = CliRunner().invoke(
            command.main,
            ["merge", *(str(tmp_path / f"part{n}") for n in (1, 2)), "--out", str(tmp_path / "all")],
        )
        assert result.exit_code == 0, result.output
        assert "8 files from 2 parts" in result.stderr
        merged = json.loads(invoke("--json", "-", "--results", tmp_path / "all", bundle=None).stdout)[
            "trackers"
        ][0]
        assert merged["protocols"] == whole["protocols"]
        assert merged["complete"] is True

    def test_more_parts_than_sequences(self, invoke: Callable[..., Result]) -> None:
        assert "fewer sequences than parts" in invoke("--shard", "3/3").stderr


class TestOtherTrackers:
    @pytest.fixture
    def peers(self, data: Path, tmp_path: Path) -> Path:
        """``still`` never moves; ``short`` lacks a frame of one sequence."""
        for name in ("still", "short"):
            folder = tmp_path / "peers" / name / "data"
            folder.mkdir(parents=True)
            for sequence, frames in (("there", 10), ("gone", 12 - (name == "short"))):
                (folder / f"{sequence}.txt").write_text("20,40,24,24\n" * frames)
        return tmp_path / "peers"

    def test_files_alone_are_scored_and_nothing_is_tracked(
        self, invoke: Callable[..., Result], peers: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        counting = Counting(monkeypatch)
        result = invoke("--results", peers / "still", "--json", "-", bundle=None)
        assert result.exit_code == 0, result.output
        assert counting.count == 0
        (report,) = json.loads(result.stdout)["trackers"]
        assert report["label"] == "still"
        assert 0.1 < report["protocols"]["pytracking"]["auc"] < 0.7
        assert report["overall"]["presence_auroc"] is None

    def test_beside_a_bundle(self, invoke: Callable[..., Result], peers: Path) -> None:
        result = invoke("--results", f"a peer={peers / 'still'}", "--json", "-")
        assert result.exit_code == 0, result.output
        document = json.loads(result.stdout)
        assert [t["label"] for t in document["trackers"]] == ["red-square (onnxruntime)", "a peer"]
        assert document["comparison"] is not None
        assert "a peer" in result.stderr

    def test_a_file_of_the_wrong_length_fails_that_sequence(
        self, invoke: Callable[..., Result], peers: Path
    ) -> None:
        result = invoke("--results", peers / "short", "--json", "-", bundle=None)
        assert result.exit_code == 1
        assert "gone.txt has 11 boxes, but gone has 12 frames" in result.stderr
        assert [s["name"] for s in json.loads(result.stdout)["trackers"][0]["sequences"]] == ["there"]

    def test_several_below_one_folder(self, invoke: Callable[..., Result], peers: Path) -> None:
        document = json.loads(invoke("--results", peers, "--json", "-", bundle=None).stdout)
        assert [t["label"] for t in document["trackers"]] == ["short", "still"]

    @pytest.mark.parametrize("results", ["x={}", "{}/none"])
    def test_a_bad_name_for_results(self, invoke: Callable[..., Result], peers: Path, results: str) -> None:
        result = invoke("--results", results.format(peers), bundle=None)
        assert result.exit_code in (1, 2)
        assert result.stderr.startswith("error: ")

    def test_html_and_plots(self, invoke: Callable[..., Result], peers: Path, tmp_path: Path) -> None:
        result = invoke(
            "--results", peers / "still", "--html", tmp_path / "r.html", "--plots", tmp_path / "plots"
        )
        assert result.exit_code == 0, result.output
        page = (tmp_path / "r.html").read_text()
        assert "red-square (onnxruntime)" in page
        assert "still" in page
        assert "http://" not in page.replace("http://www.w3.org/", "").replace(
            "http://purl.org/", ""
        ).replace("http://creativecommons.org/", "")
        assert {p.suffix for p in (tmp_path / "plots").iterdir()} == {".png", ".svg"}
        # What it wrote, it may write again.
        again = invoke("--html", tmp_path / "r.html", "--plots", tmp_path / "plots")
        assert again.exit_code == 0, again.output

    @pytest.mark.parametrize("option", ["--json", "--html", "--plots"])
    def test_nothing_of_somebody_else_is_replaced(
        self, invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, option: str
    ) -> None:
        (tmp_path / "album").mkdir()
        mine = tmp_path / "album" / "holiday.png"
        mine.write_bytes(b"a photo")
        counting = Counting(monkeypatch)
        result = invoke(option, mine.parent if option == "--plots" else mine)
        assert result.exit_code == 1
        assert "was not written by sttrack-deploy" in result.stderr
        assert "--overwrite" in result.stderr
        assert counting.count == 0
        assert mine.read_bytes() == b"a photo"

    def test_a_folder_that_cannot_be_made_is_told_before_tracking(
        self, invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("")
        counting = Counting(monkeypatch)
        result = invoke("--out", tmp_path / "file" / "x")
        assert result.exit_code == 1
        assert "is a file, not a folder" in result.stderr
        assert counting.count == 0

    def test_without_matplotlib_it_ends_before_tracking(
        self, invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        counting = Counting(monkeypatch)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        result = invoke("--html", tmp_path / "r.html")
        assert result.exit_code == 1
        assert "pip install 'sttrack-deploy[report]'" in result.stderr
        assert counting.count == 0


def test_two_bundles_of_one_name_are_told_apart(
    invoke: Callable[..., Result], bundle: Path, tmp_path: Path
) -> None:
    shutil.copytree(bundle, tmp_path / "other")
    result = invoke("--bundle", tmp_path / "other", "--json", "-")
    assert result.exit_code == 0, result.output
    labels = [t["label"] for t in json.loads(result.stdout)["trackers"]]
    assert sorted(labels) == ["red-square bundle (onnxruntime)", "red-square other (onnxruntime)"]


def test_the_same_bundle_twice_is_refused(invoke: Callable[..., Result], bundle: Path) -> None:
    assert invoke("--bundle", bundle).exit_code == 2


def test_a_failed_sequence_is_named_and_the_others_go_on(invoke: Callable[..., Result], data: Path) -> None:
    (data / "gone.txt").write_text("20,40,24,24\n" * 3)
    result = invoke("--json", "-")
    assert result.exit_code == 1
    assert "gone failed: " in result.stderr
    assert "has 12 frames, but its ground truth has 3 lines" in result.stderr
    assert "1 of 2 sequences failed: gone" in result.stderr
    report = json.loads(result.stdout)["trackers"][0]
    assert report["complete"] is False
    assert [s["name"] for s in report["sequences"]] == ["there"]
    assert report["failures"][0]["name"] == "gone"


def test_nothing_but_failures(invoke: Callable[..., Result], data: Path) -> None:
    for name in ("gone", "there"):
        (data / f"{name}.txt").write_text("20,40,24,24\n")
    result = invoke("--json", "-")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["trackers"][0]["protocols"]["pytracking"]["auc"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data, _: (data / "there.mp4").unlink(), "there.txt has no video beside it"),
        (lambda _, bundle: (bundle / "search.onnx").write_bytes(b"other"), "was altered"),
        (lambda _, bundle: (bundle / "manifest.json").unlink(), "is not a bundle"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(
    invoke: Callable[..., Result],
    data: Path,
    bundle: Path,
    change: Callable[[Path, Path], object],
    message: str,
) -> None:
    change(data, bundle)
    result = invoke()
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_results_that_cannot_be_written_end_the_run(invoke: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = invoke("--out", tmp_path / "file" / "boxes")
    assert result.exit_code == 1
    assert "cannot write" in result.stderr


def test_no_data_says_how_to_give_it() -> None:
    result = CliRunner().invoke(command.main, [], env={"STTRACK_DATA": "", "STTRACK_FOLDER": ""})
    assert result.exit_code in (1, 2)
    assert "--data" in result.stderr


def test_write_config_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(command.main, ["--write-config"])
    assert result.exit_code == 0, result.output
    assert "lasot" in (tmp_path / "sttrack-datasets.toml").read_text()
    assert CliRunner().invoke(command.main, ["--write-config"]).exit_code == 1


class TestPack:
    """The checks are those of test_submission; here: the way to them."""

    def call(self, *arguments: object) -> Result:
        return CliRunner().invoke(command.main, ["pack", *(str(a) for a in arguments)])

    def test_no_results(self, tmp_path: Path) -> None:
        result = self.call(tmp_path, "--format", "got10k", "--data", tmp_path)
        assert result.exit_code == 1
        assert result.stderr.startswith("error: ")

    def test_a_format_is_needed(self, tmp_path: Path) -> None:
        assert self.call(tmp_path).exit_code == 2
