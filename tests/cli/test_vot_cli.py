"""``sttrack-eval vot``: the tracker in a workspace of the VOT toolkit."""

from __future__ import annotations

import configparser
from collections.abc import Callable
from pathlib import Path

import pytest
from blobs import BlobEngine, write_bundle
from click.testing import CliRunner, Result

from sttrack_deploy.cli import evaluate_commands
from sttrack_deploy.cli.evaluate_commands import vot_command
from sttrack_deploy.engines import registry
from sttrack_deploy.errors import MissingDependencyError

Enter = Callable[..., Result]


@pytest.fixture
def enter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Enter:
    """Runs the command in ``tmp_path``, where the blob's bundle is."""
    write_bundle(tmp_path / "bundle")
    monkeypatch.setattr(registry, "load_engine", lambda *_: BlobEngine())
    monkeypatch.setattr(evaluate_commands, "_installed", lambda _: True)
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(vot_command, [*map(str, arguments), "--bundle", "bundle"])

    return invoke


def trackers(workspace: Path) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser()
    parser.read(workspace / "trackers.ini", encoding="utf-8")
    return {name: dict(parser[name]) for name in parser.sections()}


def test_a_new_workspace_and_what_to_type_next(enter: Enter, tmp_path: Path) -> None:
    result = enter("my ws", "--threads", 2, "--lost-below", 0.3, "--recover")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "my ws/trackers.ini: [blob] added",
        "next:",
        "  vot --registry 'my ws' test blob",
        "  vot initialize tests/basic --workspace 'my ws'   (vot initialize alone lists the stacks)",
        "  vot evaluate --workspace 'my ws' blob",
        "  vot analysis --workspace 'my ws' blob",
    ]
    entry = trackers(tmp_path / "my ws")["blob"]
    assert entry["env_sttrack_bundle"] == str(tmp_path / "bundle")
    assert entry["env_sttrack_engine"] == "onnxruntime"
    assert entry["env_sttrack_threads"] == "2"
    assert entry["env_sttrack_lost_below"] == "0.3"
    assert entry["env_sttrack_recover"] == "1"


def test_an_initialized_workspace_is_not_initialized_again(enter: Enter, tmp_path: Path) -> None:
    (tmp_path / "ws").mkdir()
    (tmp_path / "ws" / "config.yaml").write_text("stack: tests/basic\n")
    assert "vot initialize" not in enter("ws").stderr


def test_the_toolkit_is_installed_first(enter: Enter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_commands, "_installed", lambda name: name != "vot-toolkit")
    lines = enter("ws").stderr.splitlines()
    assert lines[2].strip() == 'pip install "sttrack-deploy[vot]"'


def test_a_long_path_stays_on_one_line(enter: Enter) -> None:
    folder = "a" * 120
    assert f"  vot evaluate --workspace {folder} blob" in enter(folder).stderr.splitlines()


def test_engines_and_labels_stand_side_by_side(enter: Enter, tmp_path: Path) -> None:
    assert enter("ws").exit_code == 0
    assert enter("ws", "--engine", "torch").exit_code == 0
    assert enter("ws", "--threads", 1, "--label", "one_thread").exit_code == 0
    assert list(trackers(tmp_path / "ws")) == ["blob", "blob-torch", "one_thread"]


def test_twice_the_same_then_another_then_forced(enter: Enter, tmp_path: Path) -> None:
    enter("ws")
    assert "[blob] unchanged" in enter("ws").stderr
    refused = enter("ws", "--threads", 3)
    assert refused.exit_code == 2
    (line,) = refused.stderr.splitlines()
    assert line.startswith("error: ")
    assert "env_sttrack_threads" in line
    assert "--label NAME" in line
    assert "env_sttrack_threads" not in trackers(tmp_path / "ws")["blob"]
    assert "[blob] replaced" in enter("ws", "--threads", 3, "--force").stderr
    assert trackers(tmp_path / "ws")["blob"]["env_sttrack_threads"] == "3"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--label", "no spaces"), 2, "--label no-spaces"),
        (("--threads", 0), 2, "--threads"),
        (("--engine", "magic"), 2, "magic"),
    ],
)
def test_bad_calls_write_nothing(
    arguments: tuple[object, ...], code: int, message: str, enter: Enter, tmp_path: Path
) -> None:
    result = enter("ws", *arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert not (tmp_path / "ws").exists()


def test_an_engine_that_cannot_run_is_said_at_once(
    enter: Enter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MissingDependencyError("torch", "the engine 'torch'", "pip install torch")

    monkeypatch.setattr(registry, "load_engine", fail)
    result = enter("ws", "--engine", "torch")
    assert result.exit_code == 1
    assert (
        result.stderr
        == "error: the engine 'torch' needs 'torch', which is not installed: pip install torch\n"
    )
    assert not (tmp_path / "ws").exists()


def test_a_bundle_that_is_none(tmp_path: Path) -> None:
    result = CliRunner().invoke(vot_command, [str(tmp_path / "ws"), "--bundle", str(tmp_path / "no")])
    assert result.exit_code == 1
    assert "is not a bundle" in result.stderr
    assert not (tmp_path / "ws").exists()
