"""Files appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from sttrack_deploy.errors import UserError
from sttrack_deploy.files import atomic_directory, atomic_path


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.mp4"
    with atomic_path(path) as temporary:
        assert temporary.suffix == ".mp4"
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_whole_or_kept(tmp_path: Path) -> None:
    path = tmp_path / "d"
    for text in ("one", "two"):
        with atomic_directory(path) as temporary:
            (temporary / text).write_text(text)
    assert [p.name for p in path.iterdir()] == ["two"]

    def fail() -> None:
        with atomic_directory(path) as temporary:
            (temporary / "three").write_text("")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        fail()
    assert [p.name for p in path.iterdir()] == ["two"]
    assert list(tmp_path.iterdir()) == [path]


def test_errors_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for manager in (atomic_path, atomic_directory):
        with pytest.raises(UserError, match="cannot write"), manager(tmp_path / "file" / "x"):
            pass

    def full() -> None:
        with atomic_path(tmp_path / "y"):
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="the disk is full"):
        full()
    assert not (tmp_path / "y").exists()
