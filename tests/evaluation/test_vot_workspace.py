"""``trackers.ini``: what the toolkit reads from it, and what happens to the other trackers."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.evaluation.vot import (
    ENVIRONMENT_PREFIX,
    TRACKERS,
    Change,
    TrackerEntry,
    as_identifier,
    merge,
    write_entry,
)
from sttrack_deploy.policy import PolicyChanges

ENTRY = TrackerEntry("nano", Path("/models/nano"), "onnxruntime")
OTHERS = """\
# my trackers
[kcf]   ; the old one
command = kcf --fast
protocol = trax

# below: the new one
[nano2]
command = x%%y
paths = a
    b
"""


def as_the_toolkit_reads(text: str) -> dict[str, dict[str, str]]:
    """vot-toolkit's ``Registry`` and ``Tracker``: the sections, settings expanded and their names in capitals."""
    parser = configparser.ConfigParser()
    parser.read_string(text)
    trackers: dict[str, dict[str, str]] = {}
    for name in parser.sections():
        assert re.match("^[a-zA-Z0-9-_]+$", name)
        trackers[name] = {
            key[4:].upper() if key.startswith("env_") else key: os.path.expandvars(value)
            for key, value in parser[name].items()
        }
    return trackers


def test_the_toolkit_reads_what_was_meant() -> None:
    entry = replace(ENTRY, threads=2, changes=PolicyChanges(lost_below=0.25, recovery=False))
    tracker = as_the_toolkit_reads(entry.text())["nano"]
    assert tracker == {
        "label": "nano",
        "protocol": "traxpython",
        "command": "sttrack_deploy.cli.trax_server",
        "python": sys.executable,
        "paths": tracker["paths"],
        "STTRACK_BUNDLE": "/models/nano",
        "STTRACK_ENGINE": "onnxruntime",
        "STTRACK_THREADS": "2",
        "STTRACK_LOST_BELOW": "0.25",
        "STTRACK_RECOVER": "0",
    }
    assert ENVIRONMENT_PREFIX == "STTRACK"


def test_what_was_not_chosen_is_left_to_the_bundle() -> None:
    tracker = as_the_toolkit_reads(ENTRY.text())["nano"]
    assert {name for name in tracker if name.isupper()} == {"STTRACK_BUNDLE", "STTRACK_ENGINE"}


def test_the_command_runs_in_any_folder(tmp_path: Path) -> None:
    """As vot-toolkit's ``PythonAdapter`` and ``TrackerProcess`` start it; --help needs no TraX."""
    tracker = as_the_toolkit_reads(ENTRY.text())["nano"]
    # A module name; anything else would be run as Python code.
    assert re.match(r"^[a-zA-Z_][a-zA-Z0-9_\.]*$", tracker["command"])
    done = subprocess.run(
        [*shlex.split(f"{tracker['python']} -m {tracker['command']}"), "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": tracker["paths"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "--bundle" in done.stdout


@pytest.mark.parametrize(
    "path",
    [
        "/a folder/nano",
        "/100% done/%(home)s/%d",
        '/it\'s/"quoted"/back\\slash',
        "/ünï/模型",
        "/#hash/;semi = colon:",
        "/~/nano",
    ],
)
def test_paths_survive(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", f"{path}/bin/python")
    tracker = as_the_toolkit_reads(replace(ENTRY, bundle=Path(path)).text())["nano"]
    assert tracker["STTRACK_BUNDLE"] == path
    assert shlex.split(f"{tracker['python']} -m module") == [f"{path}/bin/python", "-m", "module"]


@pytest.mark.parametrize("path", ["/$HOME/nano", "/${X}", "/a\nb", "/a\r", "/nano "])
def test_paths_that_would_not_survive_are_refused(path: str) -> None:
    with pytest.raises(UsageError, match="does not read as it is; move the folder"):
        replace(ENTRY, bundle=Path(path)).text()


@pytest.mark.parametrize("name", ["nano", "a-b_C9", "_", "9-"])
def test_identifiers(name: str) -> None:
    assert list(as_the_toolkit_reads(replace(ENTRY, identifier=name).text())) == [name]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("nano v2", "nano-v2"),
        ("a@b", "a-b"),
        ("a]b\n", "a-b"),
        ("ä", "sttrack"),
        ("", "sttrack"),
        ("-x", "x"),
        ("DEFAULT", "sttrack"),
    ],
)
def test_identifiers_that_the_toolkit_ignores_are_refused(name: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=f"for example --label {nearest}$"):
        replace(ENTRY, identifier=name).text()
    assert as_identifier(name) == nearest
    replace(ENTRY, identifier=nearest).text()


# --- among other trackers ----------------------------------------------------------------------------


def test_it_is_added_to_the_others() -> None:
    text, change = merge(OTHERS, ENTRY, "t.ini")
    assert change is Change.ADDED
    assert text.startswith(OTHERS)
    assert list(as_the_toolkit_reads(text)) == ["kcf", "nano2", "nano"]


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "[kcf]\ncommand = x"])
def test_it_is_added_to_little(text: str) -> None:
    after, _ = merge(text, ENTRY, "t.ini")
    assert after.startswith(text)
    assert after.endswith(ENTRY.text())
    assert "nano" in as_the_toolkit_reads(after)


def test_a_second_time_changes_nothing() -> None:
    text, _ = merge(OTHERS, ENTRY, "t.ini")
    assert merge(text, ENTRY, "t.ini") == (text, Change.UNCHANGED)
    commented = text.replace("[nano]\n", "[nano]\n# mine\n")
    assert merge(commented, ENTRY, "t.ini") == (commented, Change.UNCHANGED)


def test_another_tracker_of_that_name_is_kept() -> None:
    text, _ = merge(OTHERS, ENTRY, "t.ini")
    other = replace(ENTRY, threads=4, engine="torch")
    with pytest.raises(UsageError) as caught:
        merge(text, other, "t.ini")
    assert "t.ini has another tracker [nano]" in str(caught.value)
    assert "env_sttrack_engine, env_sttrack_threads" in str(caught.value)
    assert "--label NAME" in str(caught.value)
    assert "--force" in str(caught.value)


@pytest.mark.parametrize("first", [True, False])
def test_force_replaces_that_section_and_no_other_line(first: bool) -> None:
    after_it = "\n# about kcf\n" + OTHERS
    text = ENTRY.text() + after_it if first else OTHERS + "\n" + ENTRY.text() + "\n# the end\n"
    other = replace(ENTRY, threads=4)
    changed, change = merge(text, other, "t.ini", force=True)
    assert change is Change.REPLACED
    assert changed == text.replace(ENTRY.text(), other.text())


@pytest.mark.parametrize("text", ["[a]\nx = 1\n[a]\nx = 2\n", "x = 1\n", "[a]\nx = 1\nx = 2\n", "[a\n"])
def test_a_file_that_the_toolkit_cannot_read_is_named(text: str) -> None:
    with pytest.raises(UserError, match=r"^t\.ini cannot be read \(.*\); fix it, or delete it$"):
        merge(text, ENTRY, "t.ini")


def test_a_layout_that_cannot_be_edited_is_left_alone() -> None:
    text = "   [nano]\n   command = x\n"
    with pytest.raises(UserError, match=r"cannot be edited: delete \[nano\] by hand"):
        merge(text, ENTRY, "t.ini", force=True)


def test_default_values_of_all_trackers_are_kept() -> None:
    text, _ = merge("[DEFAULT]\ntimeout = 60\n", ENTRY, "t.ini")
    assert as_the_toolkit_reads(text)["nano"]["timeout"] == "60"
    assert merge(text, ENTRY, "t.ini") == (text, Change.UNCHANGED)


# --- the file ----------------------------------------------------------------------------------------


def test_the_file_is_written_once(tmp_path: Path) -> None:
    workspace = tmp_path / "new" / "work space"
    assert write_entry(workspace, ENTRY) is Change.ADDED
    file = workspace / TRACKERS
    assert file.read_text(encoding="utf-8") == ENTRY.text()
    assert [path.name for path in workspace.iterdir()] == [TRACKERS]
    os.utime(file, (1, 1))
    assert write_entry(workspace, ENTRY) is Change.UNCHANGED
    assert file.stat().st_mtime == 1


def test_a_refusal_leaves_the_file(tmp_path: Path) -> None:
    write_entry(tmp_path, ENTRY)
    before = (tmp_path / TRACKERS).read_bytes()
    with pytest.raises(UsageError):
        write_entry(tmp_path, replace(ENTRY, threads=1))
    assert (tmp_path / TRACKERS).read_bytes() == before
    assert write_entry(tmp_path, replace(ENTRY, threads=1), force=True) is Change.REPLACED


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / TRACKERS).write_bytes(b"\xff\xfe[\x00")
    with pytest.raises(UserError, match="is not UTF-8"):
        write_entry(tmp_path, ENTRY)
    (tmp_path / "folder" / TRACKERS).mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot read .*Is a directory"):
        write_entry(tmp_path / "folder", ENTRY)
