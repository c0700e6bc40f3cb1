"""What all commands' options have in common: limits, finite numbers, names."""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import click
import pytest
from click.testing import CliRunner

from sttrack_deploy.bundle import open_bundle
from sttrack_deploy.errors import UserError
from sttrack_deploy.policy import PolicyChanges, TrackingPolicy
from sttrack_deploy.records import parse_toml
from sttrack_deploy.terminal.help import GroupedCommand, heading, heading_of, under
from sttrack_deploy.terminal.options import policy_options, tracking_options
from sttrack_deploy.terminal.program import command
from sttrack_deploy.terminal.types import MOST_FRAMES, THREADS, Integer, NamedPath, Number

F = TypeVar("F", bound=Callable[..., object])

ROOT = Path(__file__).resolve().parents[2]


def commands() -> dict[str, click.Command]:
    scripts = parse_toml((ROOT / "pyproject.toml").read_text(), "")["project"]["scripts"]
    places = {name: place.split(":") for name, place in scripts.items()}
    return {name: getattr(importlib.import_module(module), main) for name, (module, main) in places.items()}


def parameters() -> Iterator[tuple[str, click.Parameter]]:
    def walk(name: str, one: click.Command) -> Iterator[tuple[str, click.Parameter]]:
        for parameter in one.params:
            yield f"{name} {parameter.opts[0]}", parameter
        for below, inner in getattr(one, "commands", {}).items():
            yield from walk(f"{name} {below}", inner)

    for name, one in commands().items():
        yield from walk(name, one)


def test_every_number_has_limits_and_every_path_a_name() -> None:
    problems = []
    for name, parameter in parameters():
        kind = parameter.type
        if getattr(parameter, "count", False):
            continue
        if isinstance(kind, click.types.FloatParamType) and not isinstance(kind, Number):
            problems.append(f"{name} takes NaN")
        if isinstance(kind, click.types.IntParamType) and not isinstance(kind, Integer):
            problems.append(f"{name} takes 1_000")
        if isinstance(kind, Number | Integer) and (kind.min is None or kind.max is None):
            problems.append(f"{name} has no limits")
        if isinstance(kind, click.Path) and not isinstance(kind, NamedPath):
            problems.append(f"{name} takes an empty name")
    assert problems == []


MOST_SHOWN_FIRST = 13
"""Options of a command in ``--help``, but for those that every command has."""


def test_every_option_has_a_heading_and_a_help_text() -> None:
    problems = []
    for name, parameter in parameters():
        if not isinstance(parameter, click.Option) or parameter.hidden:
            continue
        if heading_of(parameter) is None and parameter.opts != ["--help-all"]:
            problems.append(f"{name} has no heading")
        if not (parameter.help or "").strip(" .") or parameter.help.startswith("["):  # type: ignore[union-attr]
            problems.append(f"{name} has no help text")
    assert problems == []


@pytest.mark.parametrize("name", sorted(commands()))
def test_help_shows_what_most_need_and_help_all_the_rest(name: str) -> None:
    def shown(page: str) -> set[str]:
        _, _, tables = CliRunner().invoke(one, [page], prog_name=name).output.partition(":\n")
        return set(re.findall(r"^  (?:-h, )?(--[a-z0-9-]+)", tables, re.MULTILINE))

    one = commands()[name]
    options = {p.opts[-1] for p in one.params if isinstance(p, click.Option) and not p.hidden}
    general = {"--version", "--debug", "--help", "--help-all"}
    first = shown("--help")
    assert first >= {"--version", "--debug", "--help"}
    assert len(first - general) <= MOST_SHOWN_FIRST, sorted(first - general)
    if first >= options:
        assert "--help-all" not in first, "there is no more"
    else:
        assert "--help-all" in first
        assert shown("--help-all") == options | {"--help"}


def test_options_under_headings() -> None:
    def engine(function: F) -> F:
        return under("Engine", click.option("--threads", help="How many."))(function)

    @click.command(cls=GroupedCommand)
    @heading("Input")
    @click.option("--source", help="What to read.")
    @engine
    @heading("Rarely", more=True)
    @click.option("--odd", help="Odd.")
    @command
    def main(source: str, threads: str, odd: str) -> None:
        """Do it."""

    page = CliRunner().invoke(main, ["-h"]).output
    assert re.findall(r"^(\w+):", page, re.MULTILINE) == ["Usage", "Input", "Engine", "General"]
    assert "--odd" not in page
    assert page.endswith("\nMore with --help-all: Rarely.\n")
    page = CliRunner().invoke(main, ["--help-all"]).output
    assert re.findall(r"^(\w+):", page, re.MULTILINE) == ["Usage", "Input", "Engine", "Rarely", "General"]
    assert "--odd" in page
    assert "More with" not in page


@pytest.mark.parametrize("value", ["1_000", " 5", "5 ", "\u0663", "\uff15", "1e3", "0x10", "5.0", "", "--5"])
def test_no_whole_number(value: str) -> None:
    result = CliRunner().invoke(whole_number, [f"--x={value}"])
    assert result.exit_code == 2
    assert "is not a whole number: write digits only, such as 1000" in result.stderr


@pytest.mark.parametrize(("value", "number"), [("5", 5), ("+5", 5), ("007", 7), ("-1", -1)])
def test_whole_numbers(value: str, number: int) -> None:
    assert CliRunner().invoke(whole_number, ["--x", value]).output == f"{number}\n"


@click.command()
@click.option("--x", type=Integer(-1, 10**6))
def whole_number(x: int) -> None:
    click.echo(x)


@pytest.mark.parametrize("value", ["1_0.5", " 0.5", "0.5 ", "\u0660.\u0665", "0,5", "1/2", "5e", ".", ""])
def test_no_plain_number(value: str) -> None:
    @click.command()
    @click.option("--x", type=Number(0, 1))
    def main(x: float) -> None:
        click.echo(x)

    result = CliRunner().invoke(main, [f"--x={value}"])
    assert result.exit_code == 2
    assert "is not a number: write it as 1000, 0.25 or 1e-3" in result.stderr


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Integer(1, 64), "1 to 64"),
        (Integer(0, MOST_FRAMES), "0 or more"),
        (Number(0, 0.99), "0 to 0.99"),
        (Number(0, min_open=True, max=1e9), "above 0"),
    ],
)
def test_ranges_in_words(kind: Integer | Number, words: str) -> None:
    @click.command()
    @click.option("--x", type=kind)
    def main(x: float) -> None:
        click.echo(x)

    assert f"not in the range {words}." in CliRunner().invoke(main, ["--x", "-7"]).stderr


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e400", "NaN"])
def test_no_number(value: str) -> None:
    @click.command()
    @click.option("--x", type=Number(0, 1))
    def main(x: float) -> None:
        click.echo(x)

    assert CliRunner().invoke(main, ["--x", value]).exit_code == 2


def run_with(error: BaseException) -> tuple[int, str]:
    @click.command()
    @command
    def main() -> None:
        raise error

    result = CliRunner().invoke(main)
    return result.exit_code, result.stderr


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            OSError(40, "Too many levels of symbolic links", "a"),
            "error: a: Too many levels of symbolic links",
        ),
        (PermissionError(13, "Permission denied", b"\xffb"), "error: \\udcffb: Permission denied"),
        (
            OSError(28, "No space left on device"),
            "error: cannot write standard output: No space left on device",
        ),
        (UserError("a\nb"), "error: a\\nb"),
        (MemoryError(), "error: out of memory"),
        (RuntimeError("no"), "error: unexpected RuntimeError: no"),
    ],
)
def test_a_failure_is_one_line(error: Exception, text: str) -> None:
    code, said = run_with(error)
    assert code == 1
    assert said.startswith(text)
    assert said.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_standard_output_that_takes_nothing() -> None:
    code = """
import click
from sttrack_deploy.terminal.program import command
@click.command()
@command
def main(): click.echo("x" * 10)
main()
"""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (
        1,
        "error: cannot write standard output: No space left on device\n",
    )


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}

WORKERS = """
import sys, time
from pathlib import Path
import numpy as np
from sttrack_deploy.evaluation.runner import run_sequences
from sttrack_deploy.sequences.sequence import VideoSequence
class Slow:
    def __call__(self):
        time.sleep(60)
if __name__ == "__main__":
    names = [VideoSequence(n, Path("."), np.ones((9, 4))) for n in "ab"]
    print("ready", flush=True)
    list(run_sequences(Slow(), names, workers=2))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    """Their standard output is the parent's: whoever reads it would wait for the last of them."""
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(2)
        process.send_signal(signal.SIGKILL)
        started = time.monotonic()
        assert process.stdout.read() == b""
        assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    "option", [("--crops", "snapped"), ("--memory-size", "3"), ("--batch", "2"), ("--opset", "19")]
)
def test_what_a_bundle_brings_is_not_ignored_beside_from(option: tuple[str, str]) -> None:
    result = CliRunner().invoke(commands()["sttrack-export"], ["--from", "x", *option])
    assert result.exit_code == 2
    assert f"leave {option[0]} out" in result.stderr


@pytest.mark.parametrize(("body", "code"), [("pass", 0), ("click.echo", 0), ("sys.stdout.write('x')", 1)])
def test_standard_output_that_is_closed(body: str, code: int) -> None:
    program = f"""
import sys
import click
from sttrack_deploy.terminal.program import command
sys.stdout = None
@click.command()
@command
def main():
    {body}
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == code, done.stderr
    assert "unexpected" not in done.stderr


def test_threads_that_would_only_wait_are_not_made() -> None:
    assert THREADS.convert("2", None, None) == 2
    assert THREADS.convert("1024", None, None) < 1024 or (os.cpu_count() or 1) >= 1024


def test_a_checkpoint_of_a_network_that_none_is_published_of(tmp_path: Path) -> None:
    checkpoint = tmp_path / "x.pth"
    checkpoint.write_bytes(b"")
    line = ["--model", "sttrack-nano", "--checkpoint", str(checkpoint), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(commands()["sttrack-export"], line)
    assert result.exit_code == 2
    assert "sttrack-nano is not the published network" in result.stderr


@pytest.mark.parametrize("epoch", ["x", "1e9", "9" * 40])
def test_a_date_that_is_none(epoch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from sttrack_deploy.terminal import reports

    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    with pytest.raises(UserError, match="is not a time in seconds since 1970"):
        reports._now()


def test_a_policy_comes_back_from_its_options() -> None:
    """What training prints to export with makes the policy of the included bundle."""
    seen: list[PolicyChanges] = []

    @click.command()
    @tracking_options
    def export(changes: PolicyChanges) -> None:
        seen.append(changes)

    policy = open_bundle(verify=False).manifest.tracking
    words = " ".join(policy_options(policy)).split()
    assert CliRunner().invoke(export, words).exit_code == 0
    made = TrackingPolicy().override(seen[0])
    assert dataclasses.replace(made, growth=policy.growth) == policy  # which has no option
    assert policy_options(TrackingPolicy()) == []
