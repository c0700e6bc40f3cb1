"""Hostile command lines: whatever is typed, one line comes back, and nothing is lost or left half-written.

See ``hostile.py`` for how to go on for longer.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile import (
    COMMANDS,
    LONG,
    SECONDS,
    Line,
    answered,
    attack,
    command_of,
    fill_place,
    hostile_values,
    snapshot,
    stop,
    with_options,
)
from hypothesis import strategies as st

from sttrack_deploy.engines import registry


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with odd things in it."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="sttrack-fuzz-") as name:
        fill_place(Path(name))
        os.chdir(name)
        try:
            yield Path(name)
        finally:
            os.chdir(before)


@st.composite
def command_lines(draw: st.DrawFn) -> Line:
    command = command_of(draw(st.sampled_from(COMMANDS)))
    # An argument first, so that no default is worked on.
    return command, draw(with_options(command, [draw(hostile_values())], 4))


@pytest.mark.timeout(0 if LONG else 300)
def test_any_command_line_is_answered_in_one_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load_engine", stop)
    monkeypatch.setattr("sttrack_deploy.cli.train.load_material", stop)
    monkeypatch.setattr("sttrack_deploy.engines.onnxruntime_web.package.subprocess.run", stop)
    monkeypatch.setattr("sttrack_deploy.cli.doctor._probe", lambda _: (None, "not asked"))
    before = snapshot(place)

    def answer(line: Line) -> None:
        command, words = line
        answered(command, words, place)
        after = snapshot(place)
        kept = {name: after.get(name) for name in before}
        assert kept == before, f"{command.name} {words} changed something that was there"
        clean(place, before)

    attack(command_lines(), SECONDS / 2, answer)


def clean(place: Path, before: dict[str, str]) -> None:
    """Remove what was made, so that every line finds the same place."""
    for entry in list(place.iterdir()):
        if entry.name not in before:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
