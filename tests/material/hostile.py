"""Hostile command lines: values that nobody means, a folder of odd things, and what every answer must keep to.

Bounded to a few seconds; ``STTRACK_FUZZ_SECONDS=3600`` goes on for so long.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TypeVar

import click
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sttrack_deploy.errors import UserError

__all__ = [
    "COMMANDS",
    "LONG",
    "SECONDS",
    "Line",
    "answered",
    "attack",
    "command_of",
    "fill_place",
    "hostile_values",
    "snapshot",
    "stop",
    "with_options",
]

SECONDS = float(os.environ.get("STTRACK_FUZZ_SECONDS", "16"))
LONG = SECONDS > 60
Line = tuple[click.Command, list[str]]
T = TypeVar("T")

COMMANDS = (
    *("run", "export", "evaluate", "build_engine", "calibrate", "parity", "bench", "train", "serve"),
    *("doctor", "export_web", "export_triton", "convert"),
)
WAITS = {"--demo", "--show", "--gpu-acceptance", "--help", "--select", "--debug", "--ray", "--open"}
"""Options that would start real work whatever else is said, or wait for somebody."""
PATIENCE = 300 if LONG else 60
"""After so long, what was asked hangs."""

HOSTILE = [
    *("", " ", ".", "..", "/", "-", "--", "nan", "inf", "-1", "0", "1", "1e400", "2147483648", "9" * 30),
    *("x", "a,b", "n" * 300, "é" * 130, "a\nb", "\x1b[31m", "[bold]x[/]", "[/]", "$(touch x)", "'; x"),
    *("null", "true", "0.2,0.1,0.5,0.5", "1,2,3,4", "nan,1,2,3", "1,2,3", "-5,-5,0,0", "1e300,1,1e300,9"),
    *("/dev/null/x", "/dev/null", "/dev/full", "/nonexistent/x", "/proc/self/mem", "/proc/1/x", "/sys/x"),
    *("loop", "folder", "foreign", "text.txt", "broken.json", "empty.mp4", "dangling", "link.mp4"),
    *("clip.mp4", "bundle", "data", "data/one.txt", "old", "recipe.toml", "nets.safetensors", "half.mp4"),
    *("rtsp://user:secret@127.0.0.1:1/x", "http://127.0.0.1:1/x", "file:///etc/passwd", "x=y", "=", "x=", "=x"),
    *("1/0", "0/1", "1/1", "*", "[a", "**/*", "%05d.png", "%s%n", "~nobody/x", "fp32", "int8", "dynamic", "65"),
    *("cpu", "new", "new/x/y", "new.mp4", "new.txt", "new.json", "new.xml", "new.csv", "new.webm", "new.gif"),
    *("\udcff\udcfe.mp4", "a\udcff", "\u0663", "1_000", "0x10", "1.", "+1", "\uff11", "-0", "1;1", "a:b"),
]  # fmt: skip


def hostile_values() -> st.SearchStrategy[str]:
    """One of :data:`HOSTILE`, or a short random text."""
    return st.sampled_from(HOSTILE) | st.text(
        st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8
    )


def options_of(command: click.Command) -> list[click.Option]:
    return [p for p in command.params if isinstance(p, click.Option) and not WAITS & set(p.opts)]


def fill_place(folder: Path) -> None:
    """Odd things that a name can lead to."""
    (folder / "folder").mkdir()
    (folder / "foreign").mkdir()
    (folder / "foreign" / "manifest.json").write_text('{"name": "an app"}')
    (folder / "foreign" / "photo.jpg").write_bytes(b"not one")
    (folder / "text.txt").write_text("1,2,3,4\n")
    (folder / "broken.json").write_text('{"a": [1, 2')
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere")


@st.composite
def with_options(draw: st.DrawFn, command: click.Command, words: list[str], most: int) -> list[str]:
    """The words and further options, each with one of its choices or with something that nobody means."""
    words = list(words)
    for option in draw(st.lists(st.sampled_from(options_of(command)), max_size=most)):
        kind = option.type
        words.append(draw(st.sampled_from([*option.opts, *option.secondary_opts])))
        if not option.is_flag and not option.count:
            choices = [str(c) for c in kind.choices] if isinstance(kind, click.Choice) else []
            if draw(st.booleans()) and choices:
                words.append(draw(st.sampled_from(choices)))
            else:
                words.append(draw(hostile_values()))
    return words


def command_of(name: str) -> click.Command:
    found = importlib.import_module(f"sttrack_deploy.cli.{name}").main
    assert isinstance(found, click.Command)
    return found


def attack(lines: st.SearchStrategy[T], seconds: float, answer: Callable[[T], None]) -> None:
    """Answer such lines for so long; the first one that is answered wrongly is made smaller and shown."""
    end, tried = time.monotonic() + seconds, 0

    @settings(
        deadline=None,
        max_examples=500,
        suppress_health_check=list(HealthCheck),
        database=None,
        # Hours are for finding: a smaller line is not worth minutes of them.
        phases=[Phase.generate] if LONG else [Phase.generate, Phase.shrink],
    )
    @given(lines)
    def one_round(line: T) -> None:
        nonlocal tried
        if time.monotonic() < end:
            tried += 1
            answer(line)

    finds: list[str] = []
    while not tried or (LONG and time.monotonic() < end):
        try:
            one_round()
        except AssertionError as error:
            if not LONG:
                raise
            finds.append(str(error))
            print(f"\nfind {len(finds)}: {error}", flush=True)
    print(f"tried {tried}", flush=True)
    assert not finds, f"{len(finds)} finds, printed above"


def stop(*_: object, **__: object) -> object:
    raise UserError("no work in this test")


def snapshot(folder: Path) -> dict[str, str]:
    """Every file below a folder with its content's hash, every link with its target."""
    found: dict[str, str] = {}
    for root, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(root, name)
            key = str(path.relative_to(folder))
            if path.is_symlink():
                found[key] = f"-> {path.readlink()}"
            elif path.is_file():
                found[key] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                found[key] = "folder"
    return found


@contextmanager
def _alarm() -> Iterator[None]:
    def hang(_: int, __: FrameType | None) -> None:
        raise TimeoutError("it hangs")  # in one's own words: a command would call it unexpected

    before = signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def answered(command: click.Command, words: Sequence[str], folder: Path) -> int:
    """Run a command line and hold its answer against what every answer keeps to.

    Returns:
        the exit code.
    """
    with _alarm():
        result = CliRunner().invoke(command, list(words))
    told = f"{command.name} {json.dumps(list(words))}: {result.output[-600:]!r} {result.exception!r}"
    assert result.exit_code in (0, 1, 2, 130), told
    assert result.exception is None or isinstance(result.exception, SystemExit), told
    output = result.output.replace("unexpected extra argument", "")
    assert "unexpected" not in output.lower(), told
    assert "it hangs" not in output, told
    lines = result.stderr.splitlines()
    errors = [line for line in lines if line.lower().startswith("error:")]
    assert len(errors) == (0 if result.exit_code in (0, 130) else 1), told
    assert all(len(line) < 3000 for line in errors), told
    left = [path for path in folder.rglob("*") if ".sttrack-" in path.name]
    assert not left, f"{told}; left {left}"
    return result.exit_code
