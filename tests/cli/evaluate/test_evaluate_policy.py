"""``sttrack-eval``: fitting LOST, and other tracking policies."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from sttrack_deploy.bundle import MANIFEST, open_bundle

RUN = "sttrack/red-square-onnxruntime/data"


def test_lost_is_fitted_and_written_only_when_asked(invoke: Callable[..., Result], bundle: Path) -> None:
    before = (bundle / MANIFEST).read_bytes()
    result = invoke("--fit-lost", "10%")
    assert result.exit_code == 0, result.output
    assert "for at most 10.00% false alarms: lost_below" in result.stderr
    assert (bundle / MANIFEST).read_bytes() == before
    old = open_bundle(bundle).manifest
    result = invoke("--fit-lost", "0.1", "--write-manifest")
    assert result.exit_code == 0, result.output
    assert f"made {bundle / MANIFEST}" in result.stderr
    new = open_bundle(bundle).manifest
    assert new.tracking.lost_below != old.tracking.lost_below
    assert f"lost_below {new.tracking.lost_below:g}" in result.stderr
    fitted = {name: getattr(new.tracking, name) for name in ("lost_below", "found_above")}
    held = min(old.tracking.held[0], new.tracking.lost_below)  # boxes stay as they are
    expected = dataclasses.replace(old.tracking, hold_below=held, **fitted)
    assert dataclasses.replace(old, tracking=expected) == new


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--fit-lost", "0"], "not above 0"),
        (["--fit-lost", "nan"], "not above 0"),
        (["--fit-lost", "one"], "1% or 0.01"),
        (["--write-manifest"], "--fit-lost RATE"),
        (["--fit-lost", "1%", "--write-manifest", "--jump-penalty", "1"], "leave the tracking options out"),
        (["--fit-lost", "1%", "--shard", "1/2"], "one bundle on one engine"),
    ],
)
def test_lost_cannot_be_fitted_like_that(
    invoke: Callable[..., Result], options: list[str], words: str
) -> None:
    result = invoke(*options)
    assert result.exit_code == 2
    assert words in result.output


def test_too_few_frames_to_tell_the_rate(invoke: Callable[..., Result]) -> None:
    result = invoke("--fit-lost", "0.1%")
    assert result.exit_code == 1
    assert "at least 1,000" in result.output


def test_the_tracking_policy_can_be_changed_for_a_run(invoke: Callable[..., Result]) -> None:
    options = ["--max-growth", 4, "--reliable-above", 0.5, "--frame-after", 9, "--no-recover"]
    options += [
        "--jump-penalty",
        2,
        "--change-penalty",
        1,
        "--size-smoothing",
        0.2,
        "--hold-below",
        0.125,
        "--lead",
        0.5,
        "--box-correction",
        0.75,
    ]
    (report,) = json.loads(invoke(*options, "--json", "-").stdout)["trackers"]
    tracking = {
        "max_growth": 4.0,
        "reliable_above": 0.5,
        "frame_after": 9,
        "recovery": False,
        "jump_penalty": 2.0,
        "change_penalty": 1.0,
        "size_smoothing": 0.2,
        "hold_below": 0.125,
        "lead": 0.5,
        "box_correction": 0.75,
    }
    assert {name: report["tracking"][name] for name in tracking} == tracking
