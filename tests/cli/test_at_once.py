"""The same command twice at once: one clear refusal, or both right; never a mix of the two.

The first process stops where it is in the middle of its work, and goes on when it is told to.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from moving_square import write_sequence
from recurrent_bundle import write_recurrent_bundle

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.calib.calibration_set import open_calibration
from sttrack_deploy.errors import UserError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there are no such locks on Windows")

HELD = """
import importlib, sys
module, name, command, *sys.argv[1:] = sys.argv[1:]
target = importlib.import_module(module)
whole = getattr(target, name)

def held(*arguments, **options):
    print("in the middle", flush=True)
    sys.stdin.readline()
    return whole(*arguments, **options)

setattr(target, name, held)
importlib.import_module(command).main()
"""
RECIPE = '[model]\npreset = "sttrack-plain"\n[optimizer]\nsteps = 1\n'


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """In a folder of its own, which is the working directory and has annotated videos in ``videos/``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STTRACK_ENGINES", str(tmp_path / "engines"))
    write_sequence(Path("videos"), "a", 6, video=True)
    Path("recipe.toml").write_text(RECIPE)
    return write_recurrent_bundle(Path("bundle"))


@contextmanager
def in_the_middle(of: str, command: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A command that has come to a function, ``module:name``, and waits there for a line."""
    call = [sys.executable, "-c", HELD, *of.split(":"), f"sttrack_deploy.cli.{command}", *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(call, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "in the middle\n"
            yield process
        finally:
            process.kill()


def start(command: str, *words: str) -> subprocess.Popen[str]:
    run = "import importlib, sys; importlib.import_module(sys.argv.pop(1)).main()"
    call = [sys.executable, "-c", run, f"sttrack_deploy.cli.{command}", *words]
    return subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def go_on(process: subprocess.Popen[str]) -> str:
    """Let it finish; returns what it said."""
    _, said = process.communicate("\n")
    assert process.returncode == 0, said
    return said


def refusal(command: str, *words: str) -> str:
    _, said = (process := start(command, *words)).communicate()
    assert process.returncode == 1, said
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    return line


def nothing_left(folder: Path = Path()) -> bool:
    return not [path for path in folder.rglob("*") if ".sttrack-" in path.name]


def test_an_engine_is_built_once(bundle: Bundle) -> None:
    words = ("bundle", "--target", "onnxruntime", "--no-check")
    with in_the_middle("sttrack_deploy.engines.onnxruntime.engine:_made_by", "build_engine", *words) as first:
        second = start("build_engine", *words)
        assert second.stderr is not None
        assert second.stderr.readline() == "another process builds this engine; waiting for it\n"
        go_on(first)
        said = second.communicate()[1]
    assert second.returncode == 0, said
    assert "is built already and fits" in said
    assert nothing_left()


def test_what_a_killed_build_held_is_free(bundle: Bundle) -> None:
    words = ("bundle", "--target", "onnxruntime", "--no-check")
    with in_the_middle("sttrack_deploy.engines.onnxruntime.engine:_made_by", "build_engine", *words) as first:
        first.kill()
    said = go_on(start("build_engine", *words))
    assert "waiting" not in said
    assert "search.onnx" in said


def test_a_set_is_recorded_by_one(bundle: Bundle) -> None:
    words = ("videos", "--bundle", "bundle", "--samples", "3", "--out", "sets/one")
    with in_the_middle("sttrack_deploy.calib.recorder:choose", "calibrate", *words) as first:
        line = refusal("calibrate", *words)
        assert line == (
            f"error: another process ({first.pid}) is writing sets/one; wait for it, or choose another name"
        )
        go_on(start("calibrate", *words[:-1], "sets/two"))  # that has nothing to do with it
        go_on(first)
    for name in ("sets/one", "sets/two"):
        assert len(open_calibration(Path(name), bundle)) == 3
    assert nothing_left()


def test_a_video_is_written_by_one(bundle: Bundle) -> None:
    words = ("videos/a.mp4", "--init-box", "8,8,20,20", "--bundle", "bundle", "--out", "new.mp4")
    with in_the_middle("sttrack_deploy.cli.run_one:_progress", "run", *words) as first:
        assert f"another process ({first.pid}) is writing new.mp4" in refusal("run", *words)
        assert "new.mp4: 6 frames" in go_on(first)
    assert nothing_left()


def test_an_evaluation_twice_is_one(bundle: Bundle) -> None:
    """Both write the same, file by file."""
    words = ("--data", "videos", "--bundle", "bundle", "--out", "results")
    with in_the_middle("sttrack_deploy.evaluation.evaluation:run_sequences", "evaluate", *words) as first:
        go_on(start("evaluate", *words))
        go_on(first)
    again = start("evaluate", *words, "--json", "-")
    assert json.loads(again.communicate()[0])
    assert nothing_left()


@pytest.mark.parametrize(
    ("middle", "command", "words", "message"),
    [
        (
            "sttrack_deploy.export.precision.convert:open_job",
            "convert",
            ["bundle", "--precision", "fp16", "--out", "new"],
            "is writing new; wait for it, or choose another name",
        ),
        (
            "sttrack_deploy.cli.train:load_material",
            "train",
            ["--recipe", "recipe.toml", "--videos", "videos", "--out", "new"],
            "another process is writing into new; wait for it, or choose another folder",
        ),
    ],
)
@pytest.mark.usefixtures("bundle")
def test_what_takes_hours_is_refused_at_once(
    middle: str, command: str, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one process, for which locks are the same: PyTorch takes seconds to start."""
    main = importlib.import_module(f"sttrack_deploy.cli.{command}").main
    seen: list[Result] = []

    def again(*_: object, **__: object) -> None:
        seen.append(CliRunner().invoke(main, words))
        raise UserError("enough")

    monkeypatch.setattr(middle.replace(":", "."), again)
    first = CliRunner().invoke(main, words)
    assert (first.exit_code, first.stderr) == (1, "error: enough\n")
    (second,) = seen
    assert second.exit_code == 1
    assert message in second.stderr
    assert not Path("new").exists()
    assert nothing_left()
