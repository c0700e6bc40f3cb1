"""``sttrack-calibrate`` from end to end, with the tiny network."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from moving_square import write_sequence

from sttrack_deploy.bundle import MANIFEST, Bundle
from sttrack_deploy.calib.calibration_set import open_calibration
from sttrack_deploy.cli.calibrate import main

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_bundle: Bundle) -> Run:
    """Runs the command in a folder of its own, which has annotated videos in ``videos/``."""
    monkeypatch.chdir(tmp_path)
    for name, frames in (("a", 10), ("b", 6)):
        write_sequence(Path("videos"), name, frames, video=name == "b")

    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(main, [*map(str, arguments), "--bundle", str(tiny_bundle.path)])

    return invoke


def refusal(result: Result, code: int) -> str:
    assert result.exit_code == code, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert not Path("set").exists()
    return line


def test_a_folder(run: Run, tiny_bundle: Bundle) -> None:
    result = run("videos", "--out", "set", "--samples", 9, "--starts", 2, "--no-recover", "--json", "-")
    assert result.exit_code == 0, result.output
    made = open_calibration(Path("set"), tiny_bundle)
    assert len(made) == 9
    assert made.manifest.command == "sttrack-calibrate videos --samples 9 --starts 2 --no-recover"
    document = json.loads(result.stdout)
    assert document["sha256"] == made.sha256
    assert document["manifest"] == json.loads((made.path / "manifest.json").read_text())
    assert "recorded 9 samples from 2 sequence(s)" in result.stderr
    assert "9 samples are few: under 300" in result.stderr
    next_line = result.stderr.splitlines()[-1]
    assert next_line == f"next: sttrack-convert {tiny_bundle.path} --precision int8 --calib set"


def test_the_recorded_command_records_it_again(run: Run) -> None:
    assert run("videos", "--sequences", "a", "--samples", 4, "--seed", 3, "--out", "one/set").exit_code == 0
    words = json.loads(Path("one/set/manifest.json").read_text())["command"].split()
    assert run(*words[1:], "--out", "two/set").exit_code == 0
    one, two = (
        {p.relative_to(root): p.read_bytes() for p in sorted(Path(root).rglob("*")) if p.is_file()}
        for root in ("one", "two")
    )
    assert len(one) > 5
    assert one == two


def test_fewer_frames_than_samples(run: Run, tiny_bundle: Bundle) -> None:
    result = run("videos/b.mp4", "--init-box", "20,40,24,24", "--starts", 1)
    assert result.exit_code == 0, result.output
    assert "only 5 of 512 samples" in result.stderr
    assert len(open_calibration(Path("calib/tiny"), tiny_bundle)) == 5


def test_an_evaluation_run(run: Run, tiny_bundle: Bundle) -> None:
    results = Path("results/sttrack/x/videos")
    results.mkdir(parents=True)
    (results / "a.txt").write_text("20\t40\t24\t24\n" * 10)
    assert run("videos", "--results", "results", "--out", "set").exit_code == 0
    made = open_calibration(Path("set"), tiny_bundle)
    assert {sample.sequence for sample in made.manifest.samples} == {"a"}
    assert made.manifest.tracking["followed"] == ["a"]


def test_calls_that_name_nothing_or_too_much(run: Run) -> None:
    assert "name what to record from" in refusal(run("--out", "set"), 2)
    assert "--init-box X,Y,W,H" in refusal(run("videos/b.mp4", "--out", "set"), 2)
    assert "2 sources" in refusal(run("videos", "videos", "--init-box", "1,1,9,9", "--out", "set"), 2)
    assert "is in two of the folders" in refusal(run("videos", "videos", "--out", "set"), 2)
    assert "--data goes with --dataset" in refusal(run("videos", "--data", "videos", "--out", "set"), 2)
    assert "no sequence matches" in refusal(run("videos", "--sequences", "z*", "--out", "set"), 1)
    assert "does not exist" in refusal(run("nowhere", "--out", "set"), 1)
    assert "exists and is not a calibration set" in refusal(run("videos", "--out", "videos"), 1)
    assert Path("videos/b.mp4").is_file()


def test_other_precisions_are_not_recorded_from(run: Run, tiny_bundle: Bundle, tmp_path: Path) -> None:
    manifest = dataclasses.replace(tiny_bundle.manifest, precision={"name": "int8"})
    for file in tiny_bundle.path.iterdir():
        (tmp_path / "int8").mkdir(exist_ok=True)
        (tmp_path / "int8" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "int8" / MANIFEST).write_text(manifest.to_json())
    arguments = ["videos", "--bundle", str(tmp_path / "int8"), "--out", "set"]
    assert "is int8" in refusal(CliRunner().invoke(main, arguments), 2)


def test_the_help_warns_of_evaluation_videos() -> None:
    text = " ".join(CliRunner().invoke(main, ["--help"]).output.split())
    assert "Never record from videos that you evaluate on" in text
