"""Hostile command lines: whatever is typed, one line comes back, and nothing is left half-written.

Bounded to a few seconds; ``STTRACK_FUZZ_SECONDS=3600`` goes on for so long.
"""

from __future__ import annotations

import importlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sttrack_deploy.engines import registry
from sttrack_deploy.errors import UserError

SECONDS = float(os.environ.get("STTRACK_FUZZ_SECONDS", "20"))
COMMANDS = ("run", "export", "evaluate", "build_engine", "calibrate", "parity", "bench")
WORKS = {"--demo", "--show", "--gpu-acceptance", "--help", "--select", "--debug"}
"""Flags that would start real work, or wait for somebody."""
HOSTILE = [
    *(
        "",
        " ",
        ".",
        "..",
        "/",
        "-",
        "--",
        "nan",
        "inf",
        "-1",
        "0",
        "1",
        "1e400",
        "2147483648",
        "9" * 30,
        "x",
        "a,b",
    ),
    *(
        "n" * 300,
        "é" * 130,
        "a\nb",
        "\x1b[31m",
        "$(touch x)",
        "'; x",
        "null",
        "true",
        "0.2,0.1,0.5,0.5",
        "1,2,3,4",
    ),
    *(
        "/dev/null/x",
        "/nonexistent/x",
        "loop",
        "folder",
        "foreign",
        "text.txt",
        "broken.json",
        "empty.mp4",
        "dangling",
    ),
    *(
        "rtsp://user:secret@127.0.0.1:1/x",
        "http://127.0.0.1:1/x",
        "file:///etc/passwd",
        "x=y",
        "=",
        "1/0",
        "*",
        "[a",
    ),
    *("nan,1,2,3", "1,2,3", "-5,-5,0,0", "%05d.png", "~nobody/x", "fp32", "int8", "dynamic", "65", "cpu"),
]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder with odd things in it."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="sttrack-fuzz-") as name:
        folder = Path(name)
        (folder / "folder").mkdir()
        (folder / "foreign").mkdir()
        (folder / "foreign" / "manifest.json").write_text('{"name": "an app"}')
        (folder / "text.txt").write_text("1,2,3,4\n")
        (folder / "broken.json").write_text('{"a": [1, 2')
        (folder / "empty.mp4").write_bytes(b"")
        (folder / "loop").symlink_to("loop")
        (folder / "dangling").symlink_to("nowhere")
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)


def options_of(command: click.Command) -> list[click.Option]:
    return [p for p in command.params if isinstance(p, click.Option) and not WORKS & set(p.opts)]


@st.composite
def command_lines(draw: st.DrawFn) -> tuple[click.Command, list[str]]:
    command = importlib.import_module(f"sttrack_deploy.cli.{draw(st.sampled_from(COMMANDS))}").main
    value = st.sampled_from(HOSTILE) | st.text(
        st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8
    )
    # An argument first, so that no default is worked on.
    words = [draw(value)]
    for option in draw(st.lists(st.sampled_from(options_of(command)), max_size=4)):
        kind = option.type
        words.append(option.opts[0])
        if not option.is_flag and not option.count:
            choices = [str(c) for c in kind.choices] if isinstance(kind, click.Choice) else []
            if draw(st.booleans()) and choices:
                words.append(draw(st.sampled_from(choices)))
            else:
                words.append(draw(value))
    return command, words


def stop(*_: object, **__: object) -> object:
    raise UserError("no engine in this test")


@pytest.mark.timeout(0 if SECONDS > 60 else 300)
def test_any_command_line_is_answered_in_one_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load_engine", stop)
    before = sorted(p.name for p in place.iterdir())
    end = time.monotonic() + SECONDS
    tried = 0

    @settings(
        deadline=None,
        max_examples=200 if SECONDS <= 60 else 1_000_000,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(command_lines())
    def attack(line: tuple[click.Command, list[str]]) -> None:
        nonlocal tried
        if time.monotonic() > end:
            return
        tried += 1
        command, words = line
        result = CliRunner().invoke(command, words)
        told = f"{command.name} {words}: {result.output[-400:]!r} {result.exception!r}"
        assert result.exit_code in (0, 1, 2, 130), told
        assert result.exception is None or isinstance(result.exception, SystemExit), told
        assert "unexpected" not in result.output.replace("unexpected extra argument", "").lower(), told
        lines = result.stderr.lower().splitlines()
        assert sum(text.startswith("error:") for text in lines) <= 1, told
        assert not list(place.rglob("*.partial*")), told

    attack()
    assert tried
    assert set(before) <= {p.name for p in place.iterdir()}, "something that was there is gone"
    assert (place / "foreign" / "manifest.json").read_text() == '{"name": "an app"}'
