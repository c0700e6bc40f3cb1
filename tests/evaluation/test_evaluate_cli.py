from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from moving_square import RedTracker, write_bundle, write_sequence

from sttrack_deploy.bundle import open_bundle
from sttrack_deploy.cli import evaluate as command
from sttrack_deploy.runtime.tracker import Tracker


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "BundleTracker", RedTracker)
    return write_bundle(tmp_path / "bundle")


@pytest.fixture
def data(tmp_path):
    write_sequence(tmp_path / "data", "there", frames=10, video=True)
    write_sequence(tmp_path / "data", "gone", frames=12, absent=(5, 6, 7))
    return tmp_path / "data"


@pytest.fixture
def invoke(bundle, data):
    def call(*options, folder=data):
        arguments = ["--data", folder, "--bundle", bundle, *options]
        return CliRunner().invoke(command.main, [str(a) for a in arguments])

    return call


def test_table_overall_row_and_next_command(invoke, data, bundle):
    result = invoke()
    assert result.exit_code == 0, result.output
    assert "protocol pytracking" in result.stderr
    assert "2 sequences" in result.stderr
    assert "AUROC" in result.stderr
    assert "next, see the hardest one (gone" in result.stderr
    next_line = result.stderr.strip().splitlines()[-1]
    assert f"sttrack-run {data / 'gone'} --init-box 20,40,24,24 --bundle {bundle}" in next_line
    assert result.stdout == ""


def test_json_to_standard_output_holds_everything(invoke, bundle):
    report = json.loads(invoke("--json", "-").stdout)
    graphs = open_bundle(bundle).manifest
    assert report["protocol"] == "pytracking"
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
    assert there["auc"] > 0.7
    overall = report["overall"]
    assert overall["auc"] == pytest.approx((gone["auc"] + there["auc"]) / 2)
    assert overall["presence_auroc"] == 1.0
    assert (overall["frames"], overall["absent"]) == (22, 3)
    assert overall["fps_median"] > 0
    assert len(report["success_curve"]) == 21


def test_json_and_result_files(invoke, tmp_path):
    result = invoke("--json", tmp_path / "out" / "r.json", "--results", tmp_path / "boxes")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "r.json").read_text())["planned"] == 2
    assert sorted(p.name for p in (tmp_path / "boxes").iterdir()) == [
        f"{name}{kind}.txt" for name in ("gone", "there") for kind in ("", "_confidence", "_time")
    ]
    lines = (tmp_path / "boxes" / "gone.txt").read_text().splitlines()
    assert len(lines) == 12
    assert lines[0] == "20.00,40.00,24.00,24.00"
    assert f"made 6 result files in {tmp_path / 'boxes'}" in result.stderr


def test_sequences_glob(invoke):
    report = json.loads(invoke("--json", "-", "--sequences", "th*").stdout)
    assert [s["name"] for s in report["sequences"]] == ["there"]


def test_workers_change_nothing_but_the_times(invoke):
    alone = json.loads(invoke("--json", "-").stdout)
    result = invoke("--json", "-", "--workers", "2")
    assert result.exit_code == 0, result.output
    together = json.loads(result.stdout)
    for one, other in zip(alone["sequences"], together["sequences"], strict=True):
        for key in ("name", "auc", "precision", "normalized_precision", "lost", "on_target_auroc"):
            assert one[key] == other[key]


def test_a_failed_sequence_is_named_and_the_others_go_on(invoke, data):
    (data / "gone.txt").write_text("20,40,24,24\n" * 3)
    result = invoke("--json", "-")
    assert result.exit_code == 1
    assert "gone failed: " in result.stderr
    assert "has 12 frames, but its ground truth has 3 lines" in result.stderr
    assert "1 of 2 sequences failed: gone" in result.stderr
    report = json.loads(result.stdout)
    assert report["complete"] is False
    assert [s["name"] for s in report["sequences"]] == ["there"]
    assert report["failures"][0]["name"] == "gone"


def test_nothing_but_failures(invoke, data):
    for name in ("gone", "there"):
        (data / f"{name}.txt").write_text("20,40,24,24\n")
    result = invoke("--json", "-")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["overall"]["auc"] is None


def test_ctrl_c_keeps_what_is_done(invoke, monkeypatch, tmp_path):
    init = Tracker.init
    calls = []

    def interrupted(self, frame, box):
        calls.append(box)
        if len(calls) == 2:
            raise KeyboardInterrupt
        init(self, frame, box)

    monkeypatch.setattr(Tracker, "init", interrupted)
    result = invoke("--json", "-", "--results", tmp_path / "boxes")
    assert result.exit_code == 130
    assert "interrupted: 1 of 2 sequences are done" in result.stderr
    assert "1 sequence of 2" in result.stderr
    report = json.loads(result.stdout)
    assert (report["complete"], report["planned"], len(report["sequences"])) == (False, 2, 1)
    assert len(list((tmp_path / "boxes").iterdir())) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data, _: (data / "there.mp4").unlink(), "there.txt has no video beside it"),
        (lambda _, bundle: (bundle / "search.onnx").write_bytes(b"other"), "was altered"),
        (lambda _, bundle: (bundle / "manifest.json").unlink(), "is not a bundle"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(invoke, data, bundle, change, message):
    change(data, bundle)
    result = invoke()
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_results_that_cannot_be_written_end_the_run(invoke, tmp_path):
    (tmp_path / "file").write_text("")
    result = invoke("--results", tmp_path / "file" / "boxes")
    assert result.exit_code == 1
    assert "cannot write" in result.stderr


def test_missing_data_option_is_a_usage_error():
    assert CliRunner().invoke(command.main, []).exit_code == 2
