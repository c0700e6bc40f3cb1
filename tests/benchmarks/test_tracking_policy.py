from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.tracking_policy import Run, frames_of_run, main, summarize
from sttrack_deploy.bundle import shipped_bundle_path
from sttrack_deploy.runtime.demo import DemoClip
from sttrack_deploy.video.writer import VideoWriter


@given(st.integers(1, 200), st.integers(1, 9), st.integers(0, 150))
def test_a_run_goes_in_even_steps_and_turns_at_the_ends(length: int, every: int, at_least: int) -> None:
    shown = frames_of_run(length, every, at_least)
    assert shown[0] == 0
    assert set(shown) == set(range(0, length, every))
    assert all(abs(b - a) == every for a, b in itertools.pairwise(shown))
    assert len(shown) == max(len(range(0, length, every)), at_least if length > every else 0)


def test_runs_of_one_repository_are_drawn_together() -> None:
    """Ten alike runs of one source say no more than one, so the interval is wide."""

    def run(overlap: float) -> Run:
        return Run(np.full(5, overlap), np.ones(5), np.zeros(5, np.bool_))

    base = [run(0.5)] * 20
    better = [run(0.7)] * 10 + [run(0.5)] * 10
    apart = summarize(better, base, [str(i) for i in range(20)])
    together = summarize(better, base, ["a"] * 10 + ["b"] * 10)
    assert apart["gain"] == together["gain"] > 0
    assert together["gain_low"] == 0 < apart["gain_low"]
    assert together["gain_high"] > apart["gain_high"]


def test_a_bundle_beside_itself_gains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shipped = str(shipped_bundle_path("sttrack-nano"))
    clip = DemoClip()
    with VideoWriter(tmp_path / "clip.mp4", 25.0) as writer:
        for index in range(24):
            writer.write(clip.frame(index))
    text = "".join(",".join(map(str, clip.truth[index])) + "\n" for index in range(24))
    (tmp_path / "clip.txt").write_text(text)
    arguments = ["--data", str(tmp_path), "--every", "1", "--every", "3", "--back-and-forth", "20"]
    arguments += ["--also", shipped, "--setting", "box_correction=0", "--threads", "1"]
    result = CliRunner().invoke(main, [*arguments, "--json", str(tmp_path / "out.json")])
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["runs"] == [{"track": "clip", "every": 1}, {"track": "clip", "every": 3}]
    assert document["settings"]["as it is"]["gain_low"] is None  # of one source
    assert document["settings"][shipped] == document["settings"]["as it is"]
    assert document["settings"]["box_correction=0"]["auc"] != document["settings"]["as it is"]["auc"]


def test_tracks_that_are_too_short_are_told(tmp_path: Path) -> None:
    clip = DemoClip()
    with VideoWriter(tmp_path / "clip.mp4", 25.0) as writer:
        for index in range(12):
            writer.write(clip.frame(index))
    (tmp_path / "clip.txt").write_text("10,10,30,30\n" * 12)
    result = CliRunner().invoke(main, ["--data", str(tmp_path), "--every", "6"])
    assert result.exit_code == 2
    assert "no track is long enough for --every 6 and --longest 150" in result.output
