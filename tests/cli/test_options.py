"""What all commands' options have in common: limits, finite numbers, names."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from sttrack_deploy.errors import UserError
from sttrack_deploy.records import parse_toml
from sttrack_deploy.terminal.options import THREADS, FiniteFloat, NamedPath
from sttrack_deploy.terminal.program import command

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
        if isinstance(kind, click.types.FloatParamType) and not isinstance(kind, FiniteFloat):
            problems.append(f"{name} takes NaN")
        if isinstance(kind, FiniteFloat | click.IntRange):
            if kind.min is None or kind.max is None:
                problems.append(f"{name} has no limits")
        elif isinstance(kind, click.types.IntParamType):
            problems.append(f"{name} has no limits")
        if isinstance(kind, click.Path) and not isinstance(kind, NamedPath):
            problems.append(f"{name} takes an empty name")
    assert problems == []


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e400", "NaN"])
def test_no_number(value: str) -> None:
    @click.command()
    @click.option("--x", type=FiniteFloat(0, 1))
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
